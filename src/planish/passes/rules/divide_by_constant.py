"""x / c => x * (1 / c) where that is exact."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.building import constant, emit, finish


class DivideByConstant(Rule):
    """Division by powers of two is multiplication by the exact reciprocal, which is faster."""

    name = "x / c => x * (1 / c), c a power of two"
    label = "canonical form"
    roots = ("Div",)
    example = """
    graph example(%x: f32[2,3]) {
      @c: f32[3] = [2.0, 0.25, 8.0]
      %1 = Div(%x, @c)
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, c = node.inputs
        if x is None or c is None or not c.is_constant or x.is_constant or not c.dtype.is_float:
            return False
        mantissa, exponent = np.frexp(np.abs(c.array.astype(np.float64)))
        if not (np.all(mantissa == 0.5) and np.all(np.abs(exponent) < 14)):
            return False
        reciprocal = constant(graph, 1.0 / c.array.astype(np.float64), c)
        return finish(node, graph, emit(graph, node, "Mul", [x, reciprocal]))
