"""Reshape(Transpose(Reshape(x))) => Transpose(x)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, producer_in
from planish.ir.shape import Shape
from planish.passes.building import finish, transpose
from planish.passes.matching import permutation


class ReshapedTranspose(Rule):
    """PyTorch's exporter swaps the last two axes of a tensor by flattening all others first."""

    name = "Reshape(Transpose(Reshape(x, [-1, s, d]), [0, 2, 1])) => Transpose(x, last two axes)"
    label = "view merging"
    roots = ("Reshape",)
    example = """
    graph example(%x: f32[2,3,4,5]) {
      @flat: i64[3] = [-1, 4, 5]
      @back: i64[4] = [2, 3, 5, 4]
      %1 = Reshape(%x, @flat)
      %2 = Transpose(%1) {perm=[0,2,1]}
      %3 = Reshape(%2, @back)
      return %3
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        middle = producer_in(node.inputs[0], graph, "Transpose")
        inner = None if middle is None else producer_in(middle.inputs[0], graph, "Reshape")
        if middle is None or inner is None or permutation(middle) != (0, 2, 1):
            return False
        x, flat, out = inner.inputs[0], inner.output.shape, node.output.shape
        if x is None or not _swaps_last_axes(x.shape, flat, out):
            return False
        rank = x.rank
        order = (*range(rank - 2), rank - 1, rank - 2)
        return finish(node, graph, transpose(graph, node, x, order))


def _swaps_last_axes(x: Shape | None, flat: Shape | None, out: Shape | None) -> bool:
    if x is None or flat is None or out is None or len(x) < 3 or len(x) != len(out):
        return False
    return x[-2:] == flat[-2:] and out == (*x[:-2], x[-1], x[-2])
