"""Pad: the interior is one strided copy, the border a few boxes.

The output is cut into the box that holds the input and, axis by axis, the boxes before and after
it, so that the interior (nearly all of the work) is an affine copy and only borders compute
mirrored, clamped or periodic indices. Bound by memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from planish.backends.cpu.codegen.access import Term
from planish.backends.cpu.codegen.indexing import Index, IndexMap, loop_index, shifted_map
from planish.backends.cpu.codegen.injection import Builder, Describe, Injection, InjectiveTactic
from planish.backends.cpu.codegen.scalar import literal
from planish.ir.shape import Dim, Shape
from planish.ops.content import bounds, contents

Border = Callable[[str, str], str]  # (index relative to the input, extent) to an index inside

BORDERS: dict[str, Border] = {
    "edge": lambda i, n: f"planish_clamp_i64({i}, 0, {n} - 1)",
    "reflect": lambda i, n: f"planish_reflect_i64({i}, {n})",
    "wrap": lambda i, n: f"planish_mod_i64({i}, {n})",
}


def _pad(builder: Builder) -> list[Injection] | str:
    pads = _pads(builder)
    if isinstance(pads, str):
        return pads
    shape, target = builder.shape(0), builder.node.outputs[0].known_shape
    rank = len(shape)
    ranges = builder.writer.region.ranges
    added: list[tuple[Dim, Dim]] = []
    cut: list[Dim] = []
    kept: list[Dim] = []
    for extent, (before, after) in zip(shape, pads, strict=True):
        signs = [_sign(dim, ranges) for dim in (before, after)]
        if None in signs:
            return "the sign of a pad is not known"
        front = before if signs[0] else 0
        back = after if signs[1] else 0
        added.append((front, back))
        cut.append(0 if signs[0] else -before)
        kept.append(extent + (before - front) + (after - back))
    boxes = _border_boxes(tuple(kept), added)
    interior = Injection(
        tuple(kept),
        ((builder.value(0), shifted_map(cut)),),
        shifted_map([front for front, _ in added]),
    )
    fill = _fill(builder)
    if fill is None:
        return "the fill value is computed in the region"
    mode = str(builder.node.attributes["mode"])
    if len(target) != rank:
        return "pads do not fit the rank"
    borders = []
    for start, extents in boxes:
        write = shifted_map(start)
        if mode == "constant":
            borders.append(Injection(extents, (), write, 0, lambda _: fill))
            continue
        read = _mirrored(builder, BORDERS[mode], start, added, cut, kept)
        borders.append(Injection(extents, ((builder.value(0), read),), write))
    return [interior, *borders]


def _pads(builder: Builder) -> list[tuple[Dim, Dim]] | str:
    """Return (before, after) of every axis."""
    node, rank = builder.node, builder.value(0).rank
    given = contents(node.input(1))
    axes = contents(node.input(3)) if node.input(3) is not None else tuple(range(rank))
    if given is None or axes is None:
        return "the pads are known only at run time"
    pairs: list[tuple[Dim, Dim]] = [(0, 0)] * rank
    for position, axis in enumerate(axes):
        if not isinstance(axis, int):
            return "an axis is symbolic"
        pairs[axis % rank] = (given[position], given[position + len(axes)])
    return pairs


def _sign(dim: Dim, ranges: dict[str, tuple[int, int, int]] | object) -> bool | None:
    """Return whether a pad adds (True) or cuts (False); None where it is not known."""
    low, high = bounds(dim, ranges)  # type: ignore[arg-type]
    if low >= 0:
        return True
    return False if high <= 0 else None


def _fill(builder: Builder) -> str | None:
    value = builder.node.input(2)
    if value is None:
        return literal(0, builder.value(0).dtype)
    return builder.scalar(value)


def _border_boxes(kept: Shape, added: list[tuple[Dim, Dim]]) -> list[tuple[list[Dim], Shape]]:
    """Return (start, extents) of disjoint boxes that cover everything around the interior."""
    rank = len(kept)
    boxes: list[tuple[list[Dim], Shape]] = []
    for axis in range(rank):
        front, back = added[axis]
        start: list[Dim] = [added[k][0] if k < axis else 0 for k in range(rank)]
        extents: list[Dim] = [
            kept[k] if k < axis else kept[k] + added[k][0] + added[k][1] for k in range(rank)
        ]
        for size, first in ((front, 0), (back, front + kept[axis])):
            if size == 0:
                continue
            at, box = list(start), list(extents)
            at[axis], box[axis] = first, size
            boxes.append((at, tuple(box)))
    return boxes


def _mirrored(
    builder: Builder,
    border: Border,
    start: list[Dim],
    added: list[tuple[Dim, Dim]],
    cut: list[Dim],
    kept: list[Dim],
) -> IndexMap:
    """Return where a border box reads: mirrored along the axes that are padded."""
    rank, dim = len(start), builder.writer.dim
    read = []
    for axis in range(rank):
        shift = start[axis] - added[axis][0]
        if added[axis] == (0, 0):
            read.append(loop_index(axis, rank, 1, shift + cut[axis]))
            continue
        text = border(f"i{axis} + {dim(shift)}", dim(kept[axis]))
        read.append(Index((0,) * rank, cut[axis], (Term(text, frozenset({axis})),)))
    return tuple(read)


class PadTactic(InjectiveTactic):
    """A copy of the interior and boxes around it."""

    name: ClassVar[str] = "pad"
    describe: ClassVar[dict[str, Describe]] = {"Pad": _pad}
