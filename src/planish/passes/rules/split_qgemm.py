"""QGemm(a, b, c) => QuantizeLinear(Gemm(DequantizeLinear(a), DequantizeLinear(b), c))."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.building import emit, finish
from planish.passes.dequantized import has_known_parameters, quantized, real


class SplitQGemm(Rule):
    """ONNX Runtime's quantized Gemm; its addend is in steps of alpha times both scales."""

    name = "QGemm(a, b, c) => QuantizeLinear(Gemm(DequantizeLinear(a), DequantizeLinear(b), c))"
    label = "canonical form"
    roots = ("com.microsoft.QGemm",)
    example = """
    graph example(%a: u8[4,3]) {
      @as: f32[] = [0.02]
      @az: u8[] = [120]
      @b: i8[2,3] = [1, -2, 3, 4, 5, -6]
      @bs: f32[2] = [0.01, 0.3]
      @bz: i8[2] = [0, 1]
      @c: i32[2] = [30, -40]
      @ys: f32[] = [0.05]
      @yz: u8[] = [100]
      %1 = com.microsoft.QGemm(%a, @as, @az, @b, @bs, @bz, @c, @ys, @yz) {transB=1, alpha=0.5}
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        a, a_scale, a_zero, b, b_scale, b_zero = node.inputs[:6]
        if a is None or b is None or a_scale is None or b_scale is None:
            return False
        parameters = [a_scale, a_zero, b_scale, b_zero]
        if a.shape is None or b.shape is None or not has_known_parameters(parameters):
            return False
        alpha, turned = float(node.attributes["alpha"]), bool(node.attributes["transB"])
        operands = [
            real(graph, node, a, a_scale, a_zero, axis=0 if node.attributes["transA"] else -2),
            real(graph, node, b, b_scale, b_zero, axis=0 if turned else 1),
        ]
        addend = node.input(6)
        if addend is not None:
            factor = graph.constant(np.array(alpha, np.float32))
            step = emit(graph, node, "Mul", [emit(graph, node, "Mul", [a_scale, b_scale]), factor])
            operands.append(real(graph, node, addend, step, None, axis=-1))
        attributes = {key: node.attributes[key] for key in ("alpha", "transA", "transB")}
        total = emit(graph, node, "Gemm", operands, attributes)
        y_scale, y_zero = node.input(7), node.input(8)
        if y_scale is None or y_zero is None:
            return finish(node, graph, total)
        return finish(node, graph, quantized(graph, node, total, y_scale, y_zero))
