"""Identity(x) => x."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.matching import may_forward


class DropIdentity(Rule):
    """An Identity disappears, unless it is what makes a graph's output a value of its own."""

    name = "Identity(x) => x"
    label = "no-op removal"
    roots = ("Identity",)
    example = """
    graph example(%x: f32[2,3]) {
      %1 = Identity(%x)
      %2 = Relu(%1)
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x = node.inputs[0]
        if x is None or not may_forward(node, x, graph):
            return False
        graph.replace_value(node.output, x)
        return True
