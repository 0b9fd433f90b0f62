"""StridedSlice: Python's slicing of tensors with its five masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planish.importers.tensorflow_builder import Builder, rule
from planish.importers.tensorflow_graph import TfNode
from planish.ir.dtypes import I64
from planish.ir.graph import Value
from planish.ir.shape import Dim

END = (1 << 31) - 1


@dataclass(frozen=True)
class Cut:
    """What happens to one axis of the operand.

    `begin` and `end` are numbers, or positions in the begin and end operands where only data
    knows them; None takes the axis from its first or to its last element.
    """

    axis: int
    entry: int
    begin: Dim | None
    end: Dim | None
    step: int
    shrink: bool


@rule("StridedSlice")
def strided_slice(node: TfNode, builder: Builder) -> Value:
    """Cut, drop and insert axes."""
    x, strides = builder.input(0), builder.integers(3, "the strides")
    rank = builder.rank(x)
    cuts, added = _cuts(builder, rank, strides)
    kept = [cut for cut in cuts if not _is_whole(cut)]
    for cut in [cut for cut in kept if cut.shrink and cut.begin is None]:
        builder.refuse(f"the index of axis {cut.axis} is masked")
    known = [cut for cut in kept if not (cut.shrink and not _is_number(cut.begin))]
    if known:
        x = _sliced(builder, x, known)
    dropped = [cut for cut in cuts if cut.shrink]
    unknown = [cut for cut in dropped if not _is_number(cut.begin)]
    for cut in reversed(unknown):
        x = builder.emit("Gather", x, _index(builder, cut), axis=cut.axis)
    gone = {cut.axis for cut in unknown}
    axes = [cut.axis for cut in dropped if cut not in unknown]
    if axes:
        x = builder.squeeze(x, *(axis - sum(each < axis for each in gone) for axis in axes))
    return builder.unsqueeze(x, *added) if added else x


def _cuts(builder: Builder, rank: int, strides: tuple[int, ...]) -> tuple[list[Cut], list[int]]:
    """Return the cut of every axis, and where the result has new axes."""
    masks = {
        name: int(builder.attribute(f"{name}_mask", 0))
        for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    begin, end = builder.dims(builder.input(1)), builder.dims(builder.input(2))
    count = len(strides)

    def masked(name: str, entry: int) -> bool:
        return bool(masks[name] >> entry & 1)

    ellipses = [entry for entry in range(count) if masked("ellipsis", entry)]
    inserted = sum(
        masked("new_axis", entry) for entry in range(count) if not masked("ellipsis", entry)
    )
    covered = count - inserted - len(ellipses)
    if covered > rank:
        builder.refuse(f"{covered} indices into a tensor of rank {rank}")
    cuts: list[Cut] = []
    added: list[int] = []
    axis = position = 0
    for entry in range(count):
        if masked("ellipsis", entry):
            axis, position = axis + rank - covered, position + rank - covered
        elif masked("new_axis", entry):
            added.append(position)
            position += 1
        else:
            shrink = masked("shrink_axis", entry)
            first = _entry(begin, entry, masked("begin", entry) and not shrink)
            last = _entry(end, entry, masked("end", entry))
            cuts.append(Cut(axis, entry, first, last, strides[entry], shrink))
            axis, position = axis + 1, position + (not shrink)
    return cuts, added


class _Unknown(int):
    """Marks a bound that only data decides."""


_UNKNOWN = _Unknown(0)


def _entry(numbers: tuple[Dim, ...] | None, entry: int, masked: bool) -> Dim | None:
    if masked:
        return None
    return _UNKNOWN if numbers is None else numbers[entry]


def _is_number(bound: Dim | None) -> bool:
    return isinstance(bound, int) and not isinstance(bound, _Unknown)


def _is_whole(cut: Cut) -> bool:
    starts = cut.begin is None or (_is_number(cut.begin) and cut.begin == 0)
    return starts and cut.end is None and cut.step == 1 and not cut.shrink


def _sliced(builder: Builder, x: Value, cuts: list[Cut]) -> Value:
    starts = [_bound(builder, cut, 1) for cut in cuts]
    ends = [_bound(builder, cut, 2) for cut in cuts]
    axes = builder.constant(np.array([cut.axis for cut in cuts], np.int64))
    steps = builder.constant(np.array([1 if cut.shrink else cut.step for cut in cuts], np.int64))
    return builder.emit("Slice", x, builder.concat(starts), builder.concat(ends), axes, steps)


def _bound(builder: Builder, cut: Cut, operand: int) -> Value:
    """Return where a cut starts (operand 1) or ends (operand 2) as a vector of one number."""
    bound = cut.begin if operand == 1 else cut.end
    if cut.shrink and operand == 2:
        begin = cut.begin
        bound = END if begin == -1 else begin + 1 if begin is not None else None
    elif bound is None:
        forward = cut.step > 0
        first = operand == 1
        bound = 0 if forward and first else -1 if first else END if forward else -END
    if _is_number(bound):
        return builder.constant(np.array([bound], np.int64))
    return builder.reshape(_index(builder, cut, operand), 1)


def _index(builder: Builder, cut: Cut, operand: int = 1) -> Value:
    """Return one entry of the begin or end operand as an int64 scalar."""
    vector = builder.cast(builder.input(operand), I64)
    return builder.emit("Gather", vector, builder.constant(np.array(cut.entry, np.int64)), axis=0)
