"""Reshape(Transpose(Reshape(x))) => Transpose(x)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, producer_in
from planish.passes.building import finish, reshape, transpose
from planish.passes.matching import permutation, reshape_target


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
        if x is None or x.shape is None or flat is None or out is None or len(out) < 3:
            return False
        if flat[-2:] != (out[-1], out[-2]):
            return False
        apart = (*out[:-2], out[-1], out[-2])
        if x.shape != apart:
            target = reshape_target(x.known_shape, apart)
            if target is None:
                return False
            x = reshape(graph, node, x, target)
        rank = len(out)
        return finish(node, graph, transpose(graph, node, x, _swapped(rank)))


def _swapped(rank: int) -> tuple[int, ...]:
    """Return the permutation that swaps the last two axes."""
    return (*range(rank - 2), rank - 1, rank - 2)
