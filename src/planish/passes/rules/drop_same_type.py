"""op(x) => x for casts, reshapes and expansions that change neither type nor shape."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, same_type
from planish.passes.matching import may_forward


class DropSameType(Rule):
    """These operators keep the order of elements, so equal types mean an equal tensor."""

    name = "op(x) => x, op in {Cast, Reshape, Expand, Tile, ...}, type(op(x)) = type(x)"
    label = "no-op removal"
    roots = (
        "Cast", "CastLike", "Reshape", "Expand", "Flatten", "Squeeze", "Unsqueeze", "Tile",
        "Concat", "Split", "Sum", "Max", "Min", "Mean",
    )  # fmt: skip
    example = """
    graph example(%x: f32[2,3]) {
      @shape: i64[2] = [2, 3]
      %1 = Reshape(%x, @shape)
      %2 = Relu(%1)
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x = node.inputs[0] if node.inputs else None
        if x is None or len(node.outputs) != 1 or not same_type(x, node.output):
            return False
        # of the variadic operators, only the ones with one operand pass it through
        if node.op in ("Concat", "Sum", "Max", "Min", "Mean") and len(node.inputs) != 1:
            return False
        if not may_forward(node, x, graph):
            return False
        graph.replace_value(node.output, x)
        return True
