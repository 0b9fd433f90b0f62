"""x - c => x + (-c)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.building import constant, emit, finish


class SubtractConstant(Rule):
    """One spelling for shifts, so that other rules need to know only one; exact in floats."""

    name = "x - c => x + (-c)"
    label = "canonical form"
    roots = ("Sub",)
    example = """
    graph example(%x: f32[2,3]) {
      @c: f32[3]
      %1 = Sub(%x, @c)
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, c = node.inputs
        if x is None or c is None or not c.is_constant or x.is_constant or not c.dtype.is_float:
            return False
        negated = constant(graph, -c.array, c)
        return finish(node, graph, emit(graph, node, "Add", [x, negated]))
