"""AveragePool(x, 1x1 windows) => x."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, same_type
from planish.ops.convolution import resolve_padding
from planish.passes.matching import may_forward


class DropUnitPool(Rule):
    """A window of one element with stride one pools nothing (adaptive pooling exports these)."""

    name = "AveragePool(x, 1x1) => x, MaxPool(x, 1x1) => x"
    label = "no-op removal"
    roots = ("AveragePool", "MaxPool")
    example = """
    graph example(%x: f32[1,2,3,4]) {
      %1 = AveragePool(%x) {kernel_shape=[1,1]}
      %2 = Relu(%1)
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x = node.inputs[0]
        if x is None or len(node.outputs) != 1 or not same_type(x, node.output):
            return False
        if any(extent != 1 for extent in node.attributes["kernel_shape"]):
            return False
        if not resolve_padding(node).is_zero or not may_forward(node, x, graph):
            return False
        graph.replace_value(node.output, x)
        return True
