"""Conv(x * s, w) => Conv(x, s * w)."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, private_producer, split_constant
from planish.passes.building import channel_vector, constant, emit, finish


class ScaledInputIntoLinear(Rule):
    """A constant factor per input channel goes into the weights (zero padding stays zero)."""

    name = "Conv(x * s, w) => Conv(x, s * w), MatMul(x * s, w) => MatMul(x, s * w)"
    label = "scale folding"
    roots = ("Conv", "MatMul")
    example = """
    graph example(%x: f32[1,4,5,5]) {
      @w: f32[2,2,3,3]
      @s: f32[1,4,1,1]
      %1 = Mul(%x, @s)
      %2 = Conv(%1, @w) {kernel_shape=[3,3], pads=[1,1,1,1], group=2}
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        scaling = private_producer(node.inputs[0], graph, "Mul")
        pair = None if scaling is None else split_constant(scaling)
        weights = node.inputs[1]
        if pair is None or scaling is None or weights is None or not weights.is_constant:
            return False
        if pair[0].shape is None or pair[0].shape != scaling.output.shape:
            return False
        axis = pair[0].rank - 1 if node.op == "MatMul" else 1
        channels = pair[0].known_shape[axis]
        if not isinstance(channels, int) or weights.array.ndim < 2:
            return False
        scale = channel_vector(pair[1], pair[0].rank, axis, channels)
        if scale is None:
            return False
        wide = weights.array.astype(np.float64)
        if node.op == "MatMul":
            scaled = wide * scale.reshape(-1, 1)
        else:
            group = int(node.attributes["group"])
            per_group = scale.reshape(group, 1, -1, *(1,) * (wide.ndim - 2))
            grouped = wide.reshape(group, -1, *wide.shape[1:])
            scaled = (grouped * per_group).reshape(wide.shape)
        inputs = [pair[0], constant(graph, scaled, weights), *node.inputs[2:]]
        result = emit(graph, node, node.op, inputs, node.attributes, matched=[scaling])
        return finish(node, graph, result)
