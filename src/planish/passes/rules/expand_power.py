"""x ** 2 => x * x, and other powers that are cheaper written out."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, scalar_of
from planish.passes.building import emit, finish


class ExpandPower(Rule):
    """Small whole powers are products, half is a square root, minus one a reciprocal."""

    name = "x ** 2 => x * x, x ** 3 => x * x * x, x ** 0.5 => Sqrt(x), x ** -1 => Reciprocal(x)"
    label = "canonical form"
    roots = ("Pow",)
    example = """
    graph example(%x: f32[2,3]) {
      @three: f32[] = 3.0
      %1 = Pow(%x, @three)
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, exponent = node.inputs[0], scalar_of(node.inputs[1])
        if x is None or exponent is None or not x.dtype.is_float:
            return False
        if exponent == 0.5:
            return finish(node, graph, emit(graph, node, "Sqrt", [x]))
        if exponent == -1:
            return finish(node, graph, emit(graph, node, "Reciprocal", [x]))
        if exponent == -0.5:
            return finish(
                node, graph, emit(graph, node, "Reciprocal", [emit(graph, node, "Sqrt", [x])])
            )
        if exponent not in (2, 3):
            return False
        square = emit(graph, node, "Mul", [x, x])
        return finish(
            node, graph, square if exponent == 2 else emit(graph, node, "Mul", [square, x])
        )
