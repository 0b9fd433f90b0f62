"""(x + a) + b => x + (a + b), (x * a) * b => x * (a * b)."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, private_producer, split_constant
from planish.passes.building import constant, emit, finish


class MergeConstants(Rule):
    """Two constants in a row become one."""

    name = "(x + a) + b => x + (a + b), (x * a) * b => x * (a * b)"
    label = "constant merging"
    roots = ("Add", "Mul")
    example = """
    graph example(%x: f32[2,3]) {
      @a: f32[3]
      @b: f32[2,1]
      %1 = Mul(%x, @a)
      %2 = Mul(@b, %1)
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        outer = split_constant(node)
        if outer is None or not node.output.dtype.is_float:
            return False
        inner_node = private_producer(outer[0], graph, node.op)
        inner = None if inner_node is None else split_constant(inner_node)
        if inner is None or inner_node is None:
            return False
        a, b = inner[1].array, outer[1].array
        merged_shape = np.broadcast_shapes(a.shape, b.shape)
        if int(np.prod(merged_shape)) > max(a.size, b.size, 4096):
            return False
        with np.errstate(over="ignore", invalid="ignore"):
            merged = a + b if node.op == "Add" else a * b
        value = constant(graph, merged, outer[1])
        result = emit(graph, node, node.op, [inner[0], value], matched=[inner_node])
        return finish(node, graph, result)
