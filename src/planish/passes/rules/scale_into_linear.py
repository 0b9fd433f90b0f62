"""Conv(x, w) * s => Conv(x, w * s)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, private_producer, split_constant
from planish.passes.building import channel_vector, finish
from planish.passes.linear import LINEAR, channel_axis, output_channels, scale_and_shift


class ScaleIntoLinear(Rule):
    """A constant factor per output channel (or one for all) goes into the weights."""

    name = "Conv(x, w) * s => Conv(x, w * s), MatMul(x, w) * s => MatMul(x, w * s)"
    label = "scale folding"
    roots = ("Mul",)
    example = """
    graph example(%x: f32[1,3,4,4]) {
      @w: f32[2,3,3,3]
      @b: f32[2]
      @s: f32[2,1,1]
      %1 = Conv(%x, @w, @b) {kernel_shape=[3,3]}
      %2 = Mul(%1, @s)
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        pair = split_constant(node)
        linear = None if pair is None else private_producer(pair[0], graph, *LINEAR)
        channels = None if linear is None else output_channels(linear)
        if pair is None or linear is None or channels is None or linear.output.shape is None:
            return False
        axis = channel_axis(linear)
        scale = channel_vector(pair[1], linear.output.rank, axis, channels)
        if scale is None:
            return False
        scaled = scale_and_shift(graph, node, linear, scale, None)
        return scaled is not None and finish(node, graph, scaled)
