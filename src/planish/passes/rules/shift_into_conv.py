"""Conv(x, w, b) + t => Conv(x, w, b + t)."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, private_producer, split_constant
from planish.passes.building import channel_vector, finish
from planish.passes.linear import CONVOLUTIONS, output_channels, scale_and_shift


class ShiftIntoConv(Rule):
    """A constant shift per output channel goes into a convolution's bias."""

    name = "Conv(x, w, b) + t => Conv(x, w, b + t)"
    label = "bias folding"
    roots = ("Add",)
    example = """
    graph example(%x: f32[1,4,5]) {
      @w: f32[4,3,3]
      @t: f32[6,1]
      %1 = ConvTranspose(%x, @w) {kernel_shape=[3], group=2}
      %2 = Add(%1, @t)
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        pair = split_constant(node)
        linear = None if pair is None else private_producer(pair[0], graph, *CONVOLUTIONS)
        channels = None if linear is None else output_channels(linear)
        if pair is None or linear is None or channels is None or linear.output.shape is None:
            return False
        shift = channel_vector(pair[1], linear.output.rank, 1, channels)
        if shift is None:
            return False
        shifted = scale_and_shift(graph, node, linear, np.ones(channels), shift)
        return shifted is not None and finish(node, graph, shifted)
