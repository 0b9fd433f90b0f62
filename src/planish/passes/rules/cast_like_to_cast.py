"""CastLike(x, y) => Cast(x)."""

from __future__ import annotations

from planish.ir.declarations import DECLARED
from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.building import emit, finish


class CastLikeToCast(Rule):
    """Only the type of y counts: its elements need not be read, nor its shape fit."""

    name = "CastLike(x, y) => Cast(x)"
    label = "canonical form"
    roots = ("CastLike",)
    example = """
    graph example(%x: f32[2,3], %y: i32[4]) {
      %1 = CastLike(%x, %y)
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        shared = {key: node.attributes[key] for key in DECLARED["Cast"] if key in node.attributes}
        attributes = {**shared, "to": node.output.dtype}
        return finish(node, graph, emit(graph, node, "Cast", node.inputs[:1], attributes))
