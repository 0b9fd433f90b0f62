"""LayerNormalization(x, g, b) + t => LayerNormalization(x, g, b + t)."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, private_producer, split_constant
from planish.passes.building import constant, emit, finish
from planish.passes.rules.scale_into_norm import squeezed


class ShiftIntoNorm(Rule):
    """A constant shift per normalized element goes into the bias."""

    name = "LayerNormalization(x, g, b) + t => LayerNormalization(x, g, b + t)"
    label = "norm bias folding"
    roots = ("Add",)
    stage = "recognise"
    example = """
    graph example(%x: f32[2,3,8]) {
      @g: f32[8]
      @t: f32[8]
      %1 = LayerNormalization(%x, @g)
      %2 = Add(%1, @t)
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        pair = split_constant(node)
        norm = None if pair is None else private_producer(pair[0], graph, "LayerNormalization")
        if pair is None or norm is None or len(norm.outputs) != 1 or norm.inputs[1] is None:
            return False
        gain, bias = norm.inputs[1], norm.input(2)
        if not gain.is_constant or (bias is not None and not bias.is_constant):
            return False
        shift = squeezed(pair[1].array, gain.array.ndim)
        if shift is None or np.broadcast_shapes(shift.shape, gain.array.shape) != gain.array.shape:
            return False
        total = np.broadcast_to(shift, gain.array.shape)
        if bias is not None:
            total = total + bias.array
        inputs = [norm.inputs[0], gain, constant(graph, total, gain)]
        return finish(node, graph, emit(graph, node, norm.op, inputs, norm.attributes, [norm]))
