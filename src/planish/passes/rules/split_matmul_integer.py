"""MatMulInteger(a, b) => Cast(MatMul(a - a_zero, b - b_zero))."""

from __future__ import annotations

from planish.ir.dtypes import I32
from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule
from planish.passes.building import emit, finish
from planish.passes.integer_products import is_plain, shifted


class SplitMatMulInteger(Rule):
    """An integer matrix product becomes a product of whole numbers."""

    name = "MatMulInteger(a, b) => Cast(MatMul(a - a_zero, b - b_zero))"
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
        if a.shape is None or b.shape is None or not is_plain(node.input(3)):
            return False
        if not is_plain(node.input(2)) or _one_a_row(node.input(2)):
            return False
        left = shifted(graph, node, a, node.input(2), -1)
        right = shifted(graph, node, b, node.input(3), -1)
        total = emit(graph, node, "MatMul", [left, right])
        return finish(node, graph, emit(graph, node, "Cast", [total], {"to": I32}))


def _one_a_row(zero: Value | None) -> bool:
    return zero is not None and zero.is_constant and zero.array.size > 1
