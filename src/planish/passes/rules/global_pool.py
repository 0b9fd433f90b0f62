"""GlobalAveragePool(x) => ReduceMean(x, spatial axes)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.building import emit, finish, integers

REDUCTIONS = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}


class GlobalPool(Rule):
    """Pooling over everything is a reduction; kernels see one spelling."""

    name = "GlobalAveragePool(x) => ReduceMean(x, spatial), GlobalMaxPool(x) => ReduceMax(x)"
    label = "canonical form"
    roots = tuple(REDUCTIONS)
    example = """
    graph example(%x: f32[2,3,4,5]) {
      %1 = GlobalAveragePool(%x)
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x = node.inputs[0]
        if x is None or x.shape is None:
            return False
        axes = integers(graph, *range(2, x.rank))
        result = emit(graph, node, REDUCTIONS[node.op], [x, axes], {"keepdims": 1})
        return finish(node, graph, result)
