"""Dropout(x) => x."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.matching import may_forward


class DropDropout(Rule):
    """At inference Dropout passes its input through; the mask must be unread."""

    name = "Dropout(x) => x"
    label = "no-op removal"
    roots = ("Dropout",)
    example = """
    graph example(%x: f32[2,3]) {
      %1 = Dropout(%x)
      %2 = Relu(%1)
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, training = node.inputs[0], node.input(2)
        if training is not None and not (training.is_constant and not training.array.any()):
            return False
        if any(output.uses or graph.is_output(output) for output in node.outputs[1:]):
            return False
        if x is None or not may_forward(node, x, graph):
            return False
        graph.replace_value(node.outputs[0], x)
        return True
