"""x / sqrt(mean(x ** 2) + e) => RMSNormalization(x, 1)."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.ir.shape import static_shape
from planish.passes.building import constant, emit, finish
from planish.passes.moments import centred, normalized


class RecogniseRmsNorm(Rule):
    """As `recognise_layer_norm`, without the mean subtracted."""

    name = "x / sqrt(mean(x ** 2) + e) => RMSNormalization(x, ones, e)"
    label = "RMSNorm"
    roots = ("Div", "Mul")
    stage = "recognise"
    example = """
    graph example(%x: f32[2,3,8]) {
      @axis: i64[1] = [-1]
      @two: f32[] = 2.0
      @epsilon: f32[] = 0.00001
      %1 = Pow(%x, @two)
      %2 = ReduceMean(%1, @axis)
      %3 = Add(%2, @epsilon)
      %4 = Sqrt(%3)
      %5 = Reciprocal(%4)
      %6 = Mul(%x, %5)
      return %6
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        found = normalized(node, graph)
        if found is None or centred(found.base, graph) is not None:
            return False
        x, axis = found.base, found.axis
        extents = static_shape(x.known_shape[axis:])
        if extents is None or not x.dtype.is_float:
            return False
        ones = constant(graph, np.ones(extents), x)
        attributes = {"axis": axis - x.rank, "epsilon": found.epsilon}
        return finish(node, graph, emit(graph, node, "RMSNormalization", [x, ones], attributes))
