"""Proofs about a plan: no two live buffers overlap, every read has a writer, alignment, bounds.

`verify_plan` needs the plan alone; the others are called by the scheduler, which still knows which
value every address stands for. All take time about linear in the steps.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence

from planish.errors import PlanError
from planish.ir.dtypes import dtype_by_name
from planish.ir.graph import Value
from planish.ir.shape import Dim, evaluate
from planish.plan.lifetimes import Access, Guard
from planish.plan.memory import ALIGNMENT, Placement
from planish.plan.plan import Binding, Operand, Plan, Step

Sizes = Mapping[str, int]


def verify_placements(placements: Sequence[Placement], size: int) -> None:
    """Prove that buffers that are alive together are disjoint, aligned, and within `size` bytes.

    Raises
    ------
    PlanError
        Naming the buffers.
    """
    for placement in placements:
        _check_placement(placement, size)
    _check_disjoint(placements)


def verify_accesses(accesses: Sequence[Access], given: Sequence[Value]) -> None:
    """Prove that every root read was written before, under conditions that the reader implies.

    Parameters
    ----------
    accesses : sequence of Access
        One a step, in order.
    given : sequence of Value
        Roots that are full before the first step (graph inputs).

    Raises
    ------
    PlanError
        Naming the root and the step.
    """
    written: dict[Value, list[Guard]] = {root: [()] for root in given}
    for access in accesses:
        for root in access.reads:
            if not _reached(written.get(root, []), access.guard):
                raise PlanError(f"%{root.name} is read before it is written", where=access.step)
        for root in access.writes:
            written.setdefault(root, []).append(access.guard)


def verify_plan(plan: Plan) -> None:
    """Prove what can be seen from a plan alone, at the smallest and the largest shapes.

    Every address lies in its memory, is aligned to its type, and what a step reads from the arena
    was written by an earlier step; every output is written.

    Raises
    ------
    PlanError
        Naming the step.
    """
    loops = {loop.symbol: 0 for loop in plan.loops}
    for position in (0, 2):
        sizes = {name: bounds[position] for name, bounds in plan.ranges.items()}
        _Walk(plan, {**sizes, **loops}).check()


def _check_placement(placement: Placement, size: int) -> None:
    label = placement.buffer.label
    if placement.offset % ALIGNMENT:
        raise PlanError(f"the buffer of %{label} starts at {placement.offset}, not aligned")
    if placement.offset < 0 or placement.offset + placement.buffer.size > size:
        raise PlanError(f"the buffer of %{label} does not fit into {size} bytes")


def _check_disjoint(placements: Sequence[Placement]) -> None:
    """Sweep over the steps with the live buffers sorted by offset; neighbours must not overlap."""
    events: list[tuple[int, int, int]] = []  # step, 0 to remove or 1 to add, placement
    for index, placement in enumerate(placements):
        if placement.buffer.size:
            events.append((placement.buffer.first, 1, index))
            events.append((placement.buffer.last + 1, 0, index))
    live: list[tuple[int, int]] = []  # offset, placement
    for _, adds, index in sorted(events):
        entry = (placements[index].offset, index)
        position = bisect.bisect_left(live, entry)
        if not adds:
            del live[position]
            continue
        for neighbour in live[max(position - 1, 0) : position + 1]:
            if _overlap(placements[neighbour[1]], placements[index]):
                a, b = placements[neighbour[1]].buffer.label, placements[index].buffer.label
                raise PlanError(f"the buffers of %{a} and %{b} overlap while both are alive")
        live.insert(position, entry)


def _overlap(a: Placement, b: Placement) -> bool:
    return a.offset < b.offset + b.buffer.size and b.offset < a.offset + a.buffer.size


def _reached(guards: Sequence[Guard], reader: Guard) -> bool:
    """Whether under the reader's conditions one of the writers has run.

    A writer has run when its conditions are among the reader's, or when both branches of a
    condition have writers.
    """
    conditions = set(reader)
    open_guards = [tuple(c for c in guard if c not in conditions) for guard in guards]
    if any(not guard for guard in open_guards):
        return True
    for condition, value in {guard[0] for guard in open_guards}:
        if not value:
            continue
        then = [g[1:] for g in open_guards if g[0] == (condition, True)]
        otherwise = [g[1:] for g in open_guards if g[0] == (condition, False)]
        if then and otherwise and _reached(then, ()) and _reached(otherwise, ()):
            return True
    return False


class _Walk:
    """One walk over a plan's steps with every symbol bound to a number."""

    def __init__(self, plan: Plan, sizes: Sizes) -> None:
        self.plan = plan
        self.sizes = sizes
        self.starts: list[int] = []  # written arena intervals, disjoint and sorted
        self.ends: list[int] = []
        self.outputs: set[int] = set()

    def check(self) -> None:
        """Check every step in order, then the outputs."""
        for step in self.plan.steps:
            self._check_step(step)
        for index, info in enumerate(self.plan.outputs):
            if index not in self.outputs:
                raise PlanError("no step writes an output", where=f"output {info.name}")

    def _check_step(self, step: Step) -> None:
        inputs = len(step.operands) - step.outputs
        spans = [
            self._span(step, binding, operand)
            for binding, operand in zip(step.bindings, step.operands, strict=False)
        ]
        for binding, span in zip(step.bindings[:inputs], spans[:inputs], strict=True):
            if binding.space == "arena" and span is not None and not self._written(span):
                raise PlanError(f"arena bytes {span} are read before a write", where=step.name)
        for binding, span in zip(step.bindings[inputs:], spans[inputs:], strict=False):
            if binding.space == "output":
                self.outputs.add(binding.index)
            elif binding.space == "arena" and span is not None:
                self._write(span)
            elif binding.space != "arena":
                raise PlanError(f"a step writes to {binding.space}", where=step.name)
        for binding in step.bindings[len(step.operands) :]:
            if self._number(binding.offset) % ALIGNMENT:
                raise PlanError("a packed constant is not aligned", where=step.name)

    def _span(self, step: Step, binding: Binding, operand: Operand) -> tuple[int, int] | None:
        """Return the first byte and the end of an operand; None when it is empty or unknown."""
        dims = (*operand.shape, *operand.strides, binding.offset)
        if any(dim is None for dim in map(self._try_number, dims)):
            return None  # the data decides the extents: an external step makes the array
        shape = [self._number(dim) for dim in operand.shape]
        strides = [self._number(dim) for dim in operand.strides]
        itemsize = dtype_by_name(operand.dtype).itemsize
        start = self._number(binding.offset)
        if 0 in shape:
            return None
        reach = [(n - 1) * stride * itemsize for n, stride in zip(shape, strides, strict=True)]
        low = start + sum(step for step in reach if step < 0)
        high = start + sum(step for step in reach if step > 0) + itemsize
        if start % itemsize:
            raise PlanError(f"offset {start} is not aligned to {operand.dtype}", where=step.name)
        limit = self.plan.arena_bytes if binding.space == "arena" else high
        if low < 0 or high > limit:
            raise PlanError(f"bytes {low} to {high} lie outside {binding.space}", where=step.name)
        return low, high

    def _try_number(self, dim: Dim) -> int | None:
        try:
            return evaluate(dim, self.sizes)
        except KeyError:
            return None

    def _number(self, dim: Dim) -> int:
        return evaluate(dim, self.sizes)

    def _written(self, span: tuple[int, int]) -> bool:
        """Whether the first and the last byte of `span` (both hold elements) were written."""
        return all(self._covers(byte) for byte in (span[0], span[1] - 1))

    def _covers(self, byte: int) -> bool:
        position = bisect.bisect_right(self.starts, byte) - 1
        return position >= 0 and byte < self.ends[position]

    def _write(self, span: tuple[int, int]) -> None:
        """Add an interval, joining those that it touches."""
        begin, end = span
        first = bisect.bisect_left(self.ends, begin)
        last = bisect.bisect_right(self.starts, end)
        if first < last:
            begin = min(begin, self.starts[first])
            end = max(end, self.ends[last - 1])
        self.starts[first:last] = [begin]
        self.ends[first:last] = [end]
