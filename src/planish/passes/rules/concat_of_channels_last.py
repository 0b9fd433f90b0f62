"""Concat(channels_last(x), channels_last(y)) => channels_last(Concat(x, y))."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.building import emit, finish, transpose
from planish.passes.channels import in_front, shown_channels_last, to_channels_last


class ConcatOfChannelsLast(Rule):
    """Images are joined on the axes of the convolutions that made them."""

    name = "Concat(channels_last(x), channels_last(y)) => channels_last(Concat(x, y))"
    label = "view motion"
    roots = ("Concat",)
    example = """
    graph example(%x: f32[1,3,4,5]) {
      @w: f32[2,3,1,1]
      @c: f32[1,4,5,1]
      %1 = Conv(%x, @w) {kernel_shape=[1,1]}
      %2 = Transpose(%1) {perm=[0,2,3,1]}
      %3 = Concat(%2, @c) {axis=-1}
      return %3
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        if node.output.shape is None or not any(
            shown_channels_last(value, graph) for value in node.present_inputs
        ):
            return False
        rank = node.output.rank
        operands = [in_front(value, graph, node, rank) for value in node.present_inputs]
        if any(operand is None for operand in operands):
            return False
        order = to_channels_last(rank)
        axis = order[int(node.attributes["axis"]) % rank]
        joined = emit(graph, node, "Concat", operands, {"axis": axis})
        return finish(node, graph, transpose(graph, node, joined, order))
