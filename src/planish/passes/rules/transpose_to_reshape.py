"""Transpose(x) => Reshape(x) where only axes of extent 1 move."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.building import emit, finish, integers
from planish.passes.matching import permutation, reshape_target


class TransposeToReshape(Rule):
    """If the axes with more than one element keep their order, the memory keeps its order too."""

    name = "Transpose(x) => Reshape(x), only axes of extent 1 move"
    label = "view merging"
    roots = ("Transpose",)
    example = """
    graph example(%x: f32[2,1,3,1]) {
      %1 = Transpose(%x) {perm=[0,2,3,1]}
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, order = node.inputs[0], permutation(node)
        if x is None or x.shape is None or order is None:
            return False
        moved = [axis for axis in order if x.shape[axis] != 1]
        if order == tuple(range(len(order))) or moved != sorted(moved):
            return False
        target = reshape_target(x.shape, node.output.known_shape)
        if target is None:
            return False
        shape = integers(graph, *target, stem=node.output.name)
        return finish(node, graph, emit(graph, node, "Reshape", [x, shape]))
