"""(MatMul(x, w) + b) * s => MatMul(x, w * s) + b * s."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, private_producer, split_constant
from planish.passes.building import channel_vector, finish
from planish.passes.linear import output_channels, scale_and_shift


class ScaleIntoBiasedMatmul(Rule):
    """A constant factor behind a matmul and its bias goes into both."""

    name = "(MatMul(x, w) + b) * s => MatMul(x, w * s) + b * s"
    label = "scale folding"
    roots = ("Mul",)
    example = """
    graph example(%x: f32[2,3]) {
      @w: f32[3,4]
      @b: f32[4]
      @s: f32[4]
      %1 = MatMul(%x, @w)
      %2 = Add(%1, @b)
      %3 = Mul(@s, %2)
      return %3
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        outer = split_constant(node)
        biased = None if outer is None else private_producer(outer[0], graph, "Add")
        inner = None if biased is None else split_constant(biased)
        linear = None if inner is None else private_producer(inner[0], graph, "MatMul")
        if outer is None or inner is None or linear is None or linear.output.shape is None:
            return False
        channels, rank = output_channels(linear), linear.output.rank
        if channels is None:
            return False
        scale = channel_vector(outer[1], rank, rank - 1, channels)
        bias = channel_vector(inner[1], rank, rank - 1, channels)
        if scale is None or bias is None:
            return False
        scaled = scale_and_shift(graph, node, linear, scale, np.multiply(bias, scale))
        return scaled is not None and finish(node, graph, scaled)
