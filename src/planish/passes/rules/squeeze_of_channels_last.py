"""Squeeze(channels_last(x)) => channels_last(Squeeze(x)), Unsqueeze likewise."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, integers_of
from planish.passes.building import emit, finish, integers, transpose
from planish.passes.channels import shown_channels_last, to_channels_last


class SqueezeOfChannelsLast(Rule):
    """TensorFlow convolves signals as images of height 1: the height comes and goes.

    Between two such convolutions the transposes then meet, and so do the two views.
    """

    name = "Squeeze(channels_last(x)) => channels_last(Squeeze(x)), Unsqueeze likewise"
    label = "view motion"
    roots = ("Squeeze", "Unsqueeze")
    example = """
    graph example(%x: f32[1,3,1,5]) {
      @w: f32[2,3,1,1]
      @height: i64[1] = [1]
      %1 = Conv(%x, @w) {kernel_shape=[1,1]}
      %2 = Transpose(%1) {perm=[0,2,3,1]}
      %3 = Squeeze(%2, @height)
      return %3
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, axes = shown_channels_last(node.inputs[0], graph), integers_of(node.input(1))
        if x is None or axes is None or node.output.shape is None:
            return False
        rank = node.output.rank
        longest = max(rank, x.rank)
        places = [axis % longest for axis in axes]
        if min(rank, x.rank) < 3 or any(place in (0, longest - 1) for place in places):
            return False
        # spatial axis i of the longer shape lies one further behind when channels come first
        inputs = [x, integers(graph, *(place + 1 for place in places))]
        moved = emit(graph, node, node.op, inputs)
        return finish(node, graph, transpose(graph, node, moved, to_channels_last(rank)))
