"""(x - mean(x)) / sqrt(mean((x - mean(x)) ** 2) + e) => LayerNormalization(x, 1)."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.ir.shape import static_shape
from planish.passes.building import constant, emit, finish
from planish.passes.moments import centred, normalized


class RecogniseLayerNorm(Rule):
    """The core of a layer norm, with a scale of ones; other rules absorb scale and bias."""

    name = "(x - mean(x)) / sqrt(mean((x - mean(x)) ** 2) + e) => LayerNormalization(x, ones, e)"
    label = "LayerNorm"
    roots = ("Div", "Mul")
    stage = "recognise"
    example = """
    graph example(%x: f32[2,3,8]) {
      @axis: i64[1] = [-1]
      @two: f32[] = 2.0
      @epsilon: f32[] = 0.00001
      %1 = ReduceMean(%x, @axis)
      %2 = Sub(%x, %1)
      %3 = Pow(%2, @two)
      %4 = ReduceMean(%3, @axis)
      %5 = Add(%4, @epsilon)
      %6 = Sqrt(%5)
      %7 = Div(%2, %6)
      return %7
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        found = normalized(node, graph)
        centre = None if found is None else centred(found.base, graph)
        if found is None or centre is None or centre[1] != found.axis:
            return False
        x, axis = centre
        extents = static_shape(x.known_shape[axis:])
        if extents is None or not x.dtype.is_float:
            return False
        ones = constant(graph, np.ones(extents), x)
        attributes = {"axis": axis - x.rank, "epsilon": found.epsilon}
        return finish(node, graph, emit(graph, node, "LayerNormalization", [x, ones], attributes))
