"""What the readers of every value wish for: an axis order, and zeros around it.

One walk over the graph backwards. A reader that needs an order (a convolution, a graph output)
casts a *hard* vote; one that merely likes it (a matmul) a soft one. Pointwise regions and view
operators hand on what their own readers want, axes renamed. Halos travel the same way, and stop
where a reader could not cope with them (a Reshape over the padded axes, a graph output).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from planish.ir.graph import Graph, Node, Value
from planish.ir.layout import Halo
from planish.ir.shape import Shape
from planish.passes.operands import FOLLOW, requirement, widest
from planish.passes.views import (
    BIJECTIVE,
    Ranges,
    inverse,
    no_halo,
    numeric,
    permutation,
)

Order = tuple[int, ...]
HARD, SOFT = 1000, 1


class Wishes:
    """Wished orders and halos of the values of a graph and its subgraphs."""

    def __init__(self, graph: Graph, ranges: Ranges, halos: bool = True) -> None:
        self.halos = halos
        self._ranges = ranges
        self._votes: dict[Value, dict[Order, int]] = {}
        self._halos: dict[Value, Halo] = {}
        self._blocked: set[Value] = set()
        self._visit(graph)
        self._join_concats(graph)

    def order(self, value: Value) -> tuple[Order | None, bool]:
        """Return the order with most votes (None without any), and whether the wish is hard."""
        votes = self._votes.get(value)
        if not votes:
            return None, False
        best = max(votes, key=lambda order: votes[order])
        return best, votes[best] >= HARD

    def own_halo(self, value: Value) -> Halo:
        """Return the halo that `value` should keep in its own memory."""
        if value in self._blocked:
            return no_halo(value.rank)
        return self.needed_halo(value)

    def needed_halo(self, value: Value) -> Halo:
        """Return the halo that readers of `value` need, wherever it is kept."""
        return self._halos.get(value, no_halo(value.rank))

    # -- one walk backwards ----------------------------------------------------------------------

    def _visit(self, graph: Graph) -> None:
        for value in graph.outputs:
            self._vote(value, tuple(range(value.rank)), HARD)
            self._blocked.add(value)
        for node in reversed(graph):
            if node.op == "Region":
                self._visit_region(node)
            elif node.op == "Concat":
                self._visit_concat(node)
            elif node.subgraphs:
                for subgraph in reversed(node.subgraphs):
                    self._visit(subgraph)
            else:
                self._visit_view(node)

    def _visit_region(self, node: Node) -> None:
        follows = node.attributes["kind"] in FOLLOW
        for index, value in enumerate(node.present_inputs):
            need = requirement(node, index, self.halos)
            if need.order is not None:
                self._vote(value, need.order, HARD)
                self._need(value, need.halo)
            elif follows:
                self._inherit(value, node.outputs[0])
            elif need.rows:
                self._vote(value, tuple(range(value.rank)), SOFT)

    def _inherit(self, value: Value, output: Value) -> None:
        """Vote for what the readers of a following region's output want, if shapes agree."""
        order, hard = self.order(output)
        if order is not None and value.shape == output.shape:
            self._vote(value, order, HARD if hard else SOFT)

    def _visit_concat(self, node: Node) -> None:
        axis = int(node.attributes["axis"]) % node.outputs[0].rank
        order, _ = self.order(node.outputs[0])
        for value in node.present_inputs:
            if order is not None:
                self._vote(value, order, HARD)
            if node.outputs[0] not in self._blocked:
                self._need(value, _without(self.needed_halo(node.outputs[0]), axis))

    def _visit_view(self, node: Node) -> None:
        source = node.inputs[0] if node.inputs else None
        if source is None:
            return
        for output in node.outputs:
            order, hard = self.order(output)
            wanted = None if order is None else order_before(node, output, order, self._ranges)
            if wanted is not None:
                self._vote(source, wanted, HARD if hard else SOFT)
            self._hand_on_halo(node, source, output)

    def _hand_on_halo(self, node: Node, source: Value, output: Value) -> None:
        halo, blocked = self.needed_halo(output), output in self._blocked
        axes = kept_axes(node, source, output)
        if axes is None:
            self._blocked.add(source)
            return
        if blocked and node.op in BIJECTIVE:
            self._blocked.add(source)
        padded = {axis for axis, pair in enumerate(halo) if pair != (0, 0)}
        if blocked or not padded.issubset(axes):
            return
        result = list(no_halo(source.rank))
        for axis in padded:
            result[axes[axis]] = halo[axis]
        self._need(source, tuple(result))

    def _vote(self, value: Value, order: Order, weight: int) -> None:
        votes = self._votes.setdefault(value, {})
        votes[order] = votes.get(order, 0) + weight

    def _need(self, value: Value, halo: Halo) -> None:
        self._halos[value] = widest(self.needed_halo(value), halo)

    def _join_concats(self, graph: Graph) -> None:
        """Widen a concat's halo to what readers of its operands need: they share its memory."""
        for node in graph:
            for subgraph in () if node.op == "Region" else node.subgraphs:
                self._join_concats(subgraph)
            if node.op != "Concat" or node.outputs[0] in self._blocked:
                continue
            axis = int(node.attributes["axis"]) % node.outputs[0].rank
            for value in node.present_inputs:
                self._need(node.outputs[0], _without(self.needed_halo(value), axis))


def _without(halo: Halo, axis: int) -> Halo:
    return (*halo[:axis], (0, 0), *halo[axis + 1 :])


def kept_axes(node: Node, source: Value, output: Value) -> dict[int, int] | None:
    """Return which output axes are whole input axes (output axis to input axis).

    None when the operator cannot keep a halo on any axis of its input: padded memory of the
    source would stand in the way of a view.
    """
    rank = output.rank
    if node.op == "Transpose":
        return dict(enumerate(permutation(node)))
    if node.op in ("Identity", "Slice", "Split"):
        return {
            axis: axis
            for axis in range(rank)
            if source.known_shape[axis] == output.known_shape[axis]
        }
    if node.op in ("Squeeze", "Unsqueeze"):
        wide = [axis for axis in range(source.rank) if source.known_shape[axis] != 1]
        result = [axis for axis in range(rank) if output.known_shape[axis] != 1]
        return dict(zip(result, wide, strict=True)) if len(wide) == len(result) else None
    return None


def order_before(node: Node, output: Value, order: Order, ranges: Ranges) -> Order | None:
    """Return the order of a view operator's input that gives its output `order`; None if none."""
    source = node.inputs[0]
    if source is None:
        return None
    if node.op == "Transpose":
        perm = permutation(node)
        return tuple(perm[axis] for axis in order)
    if node.op in ("Identity", "Slice", "Split"):
        return order
    if node.op not in BIJECTIVE:
        return None
    return _order_through_reshape(source.known_shape, output.known_shape, order, ranges)


def order_after(node: Node, order: Order) -> Order:
    """Return the order of a Transpose's output when its input lies in `order`."""
    back = inverse(permutation(node))
    return tuple(back[axis] for axis in order)


def _order_through_reshape(old: Shape, new: Shape, order: Order, ranges: Ranges) -> Order | None:
    """Return the order of axes of `old` that puts the axes of `new` into `order`.

    Both shapes are cut into the same atoms, the intervals between their row-major strides. The
    wish can be met when the atoms of every old axis stay together.
    """
    old_cuts, new_cuts = _cuts(old, ranges), _cuts(new, ranges)
    cuts = sorted({*old_cuts, *new_cuts})
    if old_cuts[0] != new_cuts[0] or any(b % a for a, b in pairwise(cuts)):
        return None
    sequence: list[float] = []  # atoms by their lower cut, outermost first
    for axis in order:
        sequence += _atoms(cuts, new_cuts, axis)
    position = {atom: index for index, atom in enumerate(sequence)}
    keys: list[tuple[float, int]] = []
    previous = -1.0
    for axis in range(len(old)):
        places = [position[atom] for atom in _atoms(cuts, old_cuts, axis)]
        if places and places != list(range(places[0], places[0] + len(places))):
            return None
        previous = places[0] if places else previous + 0.001
        keys.append((previous, axis))
    return tuple(axis for _, axis in sorted(keys))


def _cuts(shape: Shape, ranges: Ranges) -> list[float]:
    """Return the number of elements inside axis 0, 1, ...: the last entry is 1."""
    cuts = [1.0]
    for dim in reversed(shape):
        cuts.append(cuts[-1] * max(numeric(dim, ranges), 1))
    return cuts[::-1]


def _atoms(cuts: Sequence[float], own: Sequence[float], axis: int) -> list[float]:
    high, low = own[axis], own[axis + 1]
    return [cut for cut in reversed(cuts) if low <= cut < high]
