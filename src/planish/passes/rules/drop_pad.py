"""Pad(x, 0) => x."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, integers_of
from planish.passes.matching import may_forward


class DropPad(Rule):
    """Padding by nothing is nothing."""

    name = "Pad(x, 0) => x"
    label = "no-op removal"
    roots = ("Pad",)
    example = """
    graph example(%x: f32[2,3]) {
      @pads: i64[4] = [0, 0, 0, 0]
      %1 = Pad(%x, @pads)
      %2 = Relu(%1)
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, pads = node.inputs[0], integers_of(node.input(1))
        if x is None or pads is None or any(pads) or not may_forward(node, x, graph):
            return False
        graph.replace_value(node.output, x)
        return True
