"""MatMul(Reshape(x, [-1, k]), w) => Reshape(MatMul(x, w))."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, private_producer
from planish.passes.building import emit, finish, integers
from planish.passes.matching import reshape_target


class MatmulOfFlattened(Rule):
    """A matmul with a matrix of weights does not care how the rows are grouped.

    The reshape moves behind it, where it usually meets the one that undoes it.
    """

    name = "MatMul(Reshape(x, [-1, k]), w) => Reshape(MatMul(x, w), [-1, n])"
    label = "view motion"
    roots = ("MatMul",)
    example = """
    graph example(%x: f32[2,3,4]) {
      @flat: i64[2] = [-1, 4]
      @w: f32[4,5]
      %1 = Reshape(%x, @flat)
      %2 = MatMul(%1, @w)
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        flat, weights = private_producer(node.inputs[0], graph, "Reshape"), node.inputs[1]
        if flat is None or weights is None or weights.shape is None or weights.rank != 2:
            return False
        x = flat.inputs[0]
        if x is None or x.shape is None or x.rank <= 2 or flat.output.shape is None:
            return False
        if flat.output.rank != 2 or flat.output.known_shape[1] != x.known_shape[-1]:
            return False
        shape = (*x.known_shape[:-1], weights.known_shape[1])
        target = reshape_target(shape, node.output.known_shape)
        if target is None:
            return False
        product = emit(graph, node, "MatMul", [x, weights])
        wanted = integers(graph, *target, stem=node.output.name)
        return finish(node, graph, emit(graph, node, "Reshape", [product, wanted], matched=[flat]))
