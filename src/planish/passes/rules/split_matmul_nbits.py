"""MatMulNBits(a, w) => MatMul(a, DequantizeLinear(w)) with scales of blocks."""

from __future__ import annotations

import numpy as np

from planish.ir.dtypes import U8
from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.ops.quantized_matmul import MatMulNBits
from planish.passes.building import constant, emit, finish


class SplitMatMulNBits(Rule):
    """Weights of few bits become bytes with a scale for each block."""

    name = "MatMulNBits(a, w, s, z) => MatMul(a, DequantizeLinear(w, s, z))"
    label = "canonical form"
    roots = ("com.microsoft.MatMulNBits",)
    example = """
    graph example(%a: f32[3,4]) {
      @w: u8[2,2,1] = [18, 52, 86, 120]
      @s: f32[4] = [0.1, 0.2, 0.3, 0.4]
      %1 = com.microsoft.MatMulNBits(%a, @w, @s) {K=4, N=2, bits=4, block_size=2}
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        a, bias = node.present_inputs[0], node.input(5)
        if any(value is not None and not value.is_constant for value in node.inputs[1:4]):
            return False
        arrays = [None if value is None else value.array for value in (None, *node.inputs[1:4])]
        numbers, scales, zeros = MatMulNBits.weights(arrays, node.attributes)
        if zeros.dtype != U8.numpy:
            return False
        operands = [
            graph.constant(np.ascontiguousarray(numbers)),
            constant(graph, scales, node.present_inputs[2]),
            graph.constant(np.ascontiguousarray(zeros)),
        ]
        attributes = {"axis": 0, "block_size": node.attributes["block_size"]}
        weight = emit(graph, node, "DequantizeLinear", operands, attributes)
        result = emit(graph, node, "MatMul", [a, weight])
        if bias is not None:
            result = emit(graph, node, "Add", [result, bias])
        return finish(node, graph, result)
