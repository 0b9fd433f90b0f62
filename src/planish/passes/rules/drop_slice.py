"""Slice(x, whole) => x."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, integers_of, same_type
from planish.passes.matching import may_forward


class DropSlice(Rule):
    """A slice with positive steps that keeps every extent keeps every element."""

    name = "Slice(x, whole) => x"
    label = "no-op removal"
    roots = ("Slice",)
    example = """
    graph example(%x: f32[2,3]) {
      @start: i64[1] = [0]
      @end: i64[1] = [99]
      @axis: i64[1] = [1]
      %1 = Slice(%x, @start, @end, @axis)
      %2 = Relu(%1)
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, steps = node.inputs[0], node.input(4)
        if x is None or not same_type(x, node.output) or not may_forward(node, x, graph):
            return False
        if steps is not None and any(step != 1 for step in integers_of(steps) or (0,)):
            return False
        graph.replace_value(node.output, x)
        return True
