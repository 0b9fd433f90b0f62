"""FusedMatMul(a, b) => alpha * MatMul(a', b')."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule
from planish.passes.building import constant, emit, finish, transpose


class SplitFusedMatmul(Rule):
    """Transposes become views (or are folded into constants), the scale a product."""

    name = "FusedMatMul(a, b) => alpha * MatMul(transposed a, transposed b)"
    label = "canonical form"
    roots = ("com.microsoft.FusedMatMul",)
    example = """
    graph example(%a: f32[2,5,3], %b: f32[2,4,5]) {
      %1 = com.microsoft.FusedMatMul(%a, %b) {alpha=0.5, transA=1, transB=1}
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        a, b, attributes = node.inputs[0], node.inputs[1], node.attributes
        if a is None or b is None or a.shape is None or b.shape is None:
            return False
        if attributes["transBatchA"] or attributes["transBatchB"]:
            return False
        left = _swapped(graph, node, a) if attributes["transA"] else a
        right = _swapped(graph, node, b) if attributes["transB"] else b
        result = emit(graph, node, "MatMul", [left, right])
        if attributes["alpha"] != 1.0:
            alpha = constant(graph, np.array(attributes["alpha"]), result)
            result = emit(graph, node, "Mul", [result, alpha])
        return finish(node, graph, result)


def _swapped(graph: Graph, node: Node, value: Value) -> Value:
    rank = value.rank
    if rank < 2:
        return value
    return transpose(graph, node, value, (*range(rank - 2), rank - 1, rank - 2))
