"""LayerNormalization(x, g) * s => LayerNormalization(x, g * s)."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, private_producer, split_constant
from planish.passes.building import constant, emit, finish

NORMS = ("LayerNormalization", "RMSNormalization")


class ScaleIntoNorm(Rule):
    """A constant factor per normalized element goes into the scale (and into the bias)."""

    name = "LayerNormalization(x, g, b) * s => LayerNormalization(x, g * s, b * s)"
    label = "norm scale folding"
    roots = ("Mul",)
    stage = "recognise"
    example = """
    graph example(%x: f32[2,3,8]) {
      @g: f32[8]
      @s: f32[8]
      %1 = LayerNormalization(%x, @g)
      %2 = Mul(@s, %1)
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        pair = split_constant(node)
        norm = None if pair is None else private_producer(pair[0], graph, *NORMS)
        if pair is None or norm is None or len(norm.outputs) != 1 or norm.inputs[1] is None:
            return False
        gain, bias = norm.inputs[1], norm.input(2)
        if not gain.is_constant or (bias is not None and not bias.is_constant):
            return False
        factor = squeezed(pair[1].array, gain.array.ndim)
        if (
            factor is None
            or np.broadcast_shapes(factor.shape, gain.array.shape) != gain.array.shape
        ):
            return False
        inputs = [norm.inputs[0], constant(graph, gain.array * factor, gain)]
        if bias is not None:
            inputs.append(constant(graph, bias.array * factor, bias))
        return finish(node, graph, emit(graph, node, norm.op, inputs, norm.attributes, [norm]))


def squeezed(array: np.ndarray, rank: int) -> np.ndarray | None:
    """Return `array` without leading axes of extent 1 beyond `rank`, None if others are there."""
    extra = max(array.ndim - rank, 0)
    return (
        None
        if any(extent != 1 for extent in array.shape[:extra])
        else array.reshape(array.shape[extra:])
    )
