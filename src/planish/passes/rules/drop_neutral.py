"""x + 0 => x, x * 1 => x, and the like."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule, same_type
from planish.passes.matching import may_forward

NEUTRAL = {"Add": 0, "Sub": 0, "Or": 0, "Mul": 1, "Div": 1, "Pow": 1, "And": 1}
COMMUTATIVE = ("Add", "Mul", "And", "Or")


class DropNeutral(Rule):
    """An operand that changes nothing disappears with its operator."""

    name = "x + 0 => x, x * 1 => x, x ** 1 => x, x and true => x"
    label = "no-op removal"
    roots = tuple(NEUTRAL)
    example = """
    graph example(%x: f32[2,3]) {
      @zero: f32[3] = 0.0
      %1 = Add(@zero, %x)
      %2 = Relu(%1)
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        left, right = node.inputs
        if left is None or right is None:
            return False
        pairs = [(left, right)]
        if node.op in COMMUTATIVE:
            pairs.append((right, left))
        for kept, dropped in pairs:
            neutral = is_all(dropped, NEUTRAL[node.op])
            if neutral and same_type(kept, node.output) and may_forward(node, kept, graph):
                graph.replace_value(node.output, kept)
                return True
        return False


def is_all(value: Value, number: int) -> bool:
    """Whether `value` is a constant whose elements all equal `number`."""
    if value.constant is None or value.array.dtype == object or value.array.size == 0:
        return False
    array = value.array
    # look at one element first: most constants are large weights
    return bool(array.reshape(-1)[0] == number) and bool(np.all(array == number))
