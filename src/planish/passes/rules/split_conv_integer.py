"""ConvInteger(x, w) => Cast(Conv(x - x_zero, w - w_zero))."""

from __future__ import annotations

from planish.ir.dtypes import I32
from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.building import emit, finish
from planish.passes.integer_products import is_plain, shifted


class SplitConvInteger(Rule):
    """An integer convolution becomes a convolution of whole numbers."""

    name = "ConvInteger(x, w) => Cast(Conv(x - x_zero, w - w_zero))"
    label = "canonical form"
    roots = ("ConvInteger",)
    example = """
    graph example(%x: u8[1,3,4,4], %xz: u8[]) {
      @w: i8[2,3,1,1] = [1, -2, 3, 4, 5, -6]
      @wz: i8[2] = [0, 1]
      %1 = ConvInteger(%x, @w, %xz, @wz) {pads=[1,1,1,1]}
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, weight = node.present_inputs[:2]
        if x.shape is None or weight.shape is None:
            return False
        if not is_plain(node.input(2)) or not is_plain(node.input(3)):
            return False
        left = shifted(graph, node, x, node.input(2), 1)
        right = shifted(graph, node, weight, node.input(3), 0)
        total = emit(graph, node, "Conv", [left, right], node.attributes)
        return finish(node, graph, emit(graph, node, "Cast", [total], {"to": I32}))
