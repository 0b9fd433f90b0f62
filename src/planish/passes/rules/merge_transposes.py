"""Transpose(Transpose(x, p), q) => Transpose(x, p[q])."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, producer_in
from planish.passes.building import finish, transpose
from planish.passes.matching import may_forward, permutation


class MergeTransposes(Rule):
    """Transposes compose; a composition that moves nothing disappears."""

    name = "Transpose(Transpose(x, p), q) => Transpose(x, p[q]); Transpose(x, identity) => x"
    label = "view merging"
    roots = ("Transpose",)
    example = """
    graph example(%x: f32[2,3,4]) {
      %1 = Transpose(%x) {perm=[1,2,0]}
      %2 = Transpose(%1) {perm=[2,1,0]}
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, order = node.inputs[0], permutation(node)
        if x is None or order is None:
            return False
        if order == tuple(range(len(order))):
            if not may_forward(node, x, graph):
                return False
            graph.replace_value(node.output, x)
            return True
        inner = producer_in(x, graph, "Transpose")
        first = None if inner is None else permutation(inner)
        if inner is None or first is None or inner.inputs[0] is None:
            return False
        source = inner.inputs[0]
        composed = tuple(first[axis] for axis in order)
        return finish(node, graph, transpose(graph, node, source, composed))
