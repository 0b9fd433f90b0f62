"""Reshape(x, computed) => Reshape(x, constant)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.building import emit, finish, integers
from planish.passes.matching import reshape_target


class ReshapeToConstant(Rule):
    """A computed target becomes a constant where 0 (copy) and -1 (infer) can say it.

    This is what makes most shape arithmetic dead: `Concat(Shape(x)[0], 12, 64)` turns into
    `[0, 12, 64]`.
    """

    name = "Reshape(x, computed) => Reshape(x, [0, -1, ...])"
    label = "shape arithmetic"
    roots = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
    example = """
    symbols N=(1,2,4)
    graph example(%x: f32[N,6]) {
      @rest: i64[2] = [2, 3]
      %n = Shape(%x) {end=1}
      %s = Concat(%n, @rest) {axis=0}
      %1 = Reshape(%x, %s)
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, shape = node.inputs[0], node.input(1)
        if x is None or shape is None or shape.is_constant:
            return False
        if x.shape is None or node.output.shape is None:
            return False
        target = reshape_target(x.shape, node.output.shape)
        if target is None:
            return False
        wanted = integers(graph, *target, stem=node.output.name)
        return finish(node, graph, emit(graph, node, "Reshape", [x, wanted]))
