"""Reduce(channels_last(x), spatial axes) => Reduce(x, spatial axes)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.ops.reduction import reduced_axes
from planish.passes.building import emit, finish, integers, transpose
from planish.passes.channels import shown_channels_last, to_channels_last

REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")


class ReduceOfChannelsLast(Rule):
    """A mean over all pixels does not care where the channels are."""

    name = "Reduce(channels_last(x), spatial axes) => channels_last(Reduce(x, spatial axes))"
    label = "view motion"
    roots = REDUCTIONS
    example = """
    graph example(%x: f32[1,3,4,5]) {
      @w: f32[2,3,1,1]
      @axes: i64[2] = [1, 2]
      %1 = Conv(%x, @w) {kernel_shape=[1,1]}
      %2 = Transpose(%1) {perm=[0,2,3,1]}
      %3 = ReduceMean(%2, @axes) {keepdims=0}
      return %3
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, axes = shown_channels_last(node.inputs[0], graph), reduced_axes_of(node)
        if x is None or axes is None or axes != tuple(range(1, x.rank - 1)):
            return False
        inputs = [x, integers(graph, *range(2, x.rank))]
        result = emit(graph, node, node.op, inputs, node.attributes)
        if node.attributes["keepdims"]:
            result = transpose(graph, node, result, to_channels_last(x.rank))
        return finish(node, graph, result)


def reduced_axes_of(node: Node) -> tuple[int, ...] | None:
    """Return the axes that a reduction runs over, None where they or the rank are not known."""
    x = node.inputs[0]
    return None if x is None or x.shape is None else reduced_axes(node)
