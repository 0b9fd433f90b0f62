"""MatMulInteger(a, b) => Cast(MatMul(DequantizeLinear(a), DequantizeLinear(b)))."""

from __future__ import annotations

from planish.ir.dtypes import I32
from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.building import emit, finish
from planish.passes.dequantized import has_known_parameters, real, unscaled


class SplitMatMulInteger(Rule):
    """An integer matrix product is a quantized one whose scales are one."""

    name = "MatMulInteger(a, b) => Cast(MatMul(DequantizeLinear(a, 1), DequantizeLinear(b, 1)))"
    label = "canonical form"
    roots = ("MatMulInteger",)
    example = """
    graph example(%a: u8[4,3], %az: u8[]) {
      @b: i8[3,2] = [1, -2, 3, 4, 5, -6]
      @bz: i8[2] = [0, 1]
      %1 = MatMulInteger(%a, @b, %az, @bz)
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        a, b = node.present_inputs[:2]
        if a.shape is None or b.shape is None or not has_known_parameters(node.inputs[2:]):
            return False
        left = real(graph, node, a, *unscaled(graph, node.input(2)), axis=-2)
        right = real(graph, node, b, *unscaled(graph, node.input(3)), axis=-1)
        total = emit(graph, node, "MatMul", [left, right])
        return finish(node, graph, emit(graph, node, "Cast", [total], {"to": I32}))
