"""MatMul(Reshape(x, [-1, k]), w) => Reshape(MatMul(x, w))."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, private_producer
from planish.ir.shape import Dim, Shape
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
        rows = _rows(x.shape, flat.output.shape)
        if rows is None or len(rows) < 2:
            return False
        inner = reshape_target(x.shape, (*rows, weights.known_shape[0]))
        outer = reshape_target((*rows, weights.known_shape[1]), node.output.known_shape)
        if inner is None or outer is None:
            return False
        if len(rows) < x.rank - 1:
            x = emit(graph, node, "Reshape", [x, integers(graph, *inner)], matched=[flat])
        product = emit(graph, node, "MatMul", [x, weights])
        wanted = integers(graph, *outer, stem=node.output.name)
        return finish(node, graph, emit(graph, node, "Reshape", [product, wanted], matched=[flat]))


def _rows(shape: Shape, flat: Shape) -> Shape | None:
    """Return the leading extents of `shape` that `flat` = [rows, k] merges into its rows."""
    if len(flat) != 2:
        return None
    columns: Dim = 1
    for axis in reversed(range(1, len(shape))):
        columns = columns * shape[axis]
        if columns == flat[1]:
            return shape[:axis]
    return None
