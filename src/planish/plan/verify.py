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
from planish.plan.plan import UNLIMITED, Binding, Operand, Plan, Step

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
    was written by an earlier step; every output is written. Steps of a loop are looked at in its
    first and its last iteration: their addresses are linear in its symbol.

    Raises
    ------
    PlanError
        Naming the step.
    """
    _check_loops(plan)
    symbols = {loop.symbol for loop in plan.loops}
    for position in (0, 2):
        sizes = {
            name: bounds[position] for name, bounds in plan.ranges.items() if name not in symbols
        }
        _Walk(plan, sizes).check()


def _check_loops(plan: Plan) -> None:
    """Prove that loops are nested and that every step names the innermost one around it."""
    for index, loop in enumerate(plan.loops):
        if not 0 <= loop.first < loop.last <= len(plan.steps):
            raise PlanError(f"it has steps {loop.first} to {loop.last}", where=f"loop {index}")
        outer = None if loop.parent is None else plan.loops[loop.parent]
        if outer is not None and not outer.first <= loop.first < loop.last <= outer.last:
            raise PlanError(f"it is not inside loop {loop.parent}", where=f"loop {index}")
    for position, step in enumerate(plan.steps):
        around = [i for i, loop in enumerate(plan.loops) if loop.first <= position < loop.last]
        if step.loop != (around[-1] if around else None):
            raise PlanError(f"it is not in loop {step.loop}", where=step.name)


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
        self.last: dict[int, int] = {}  # loop to the number of its last iteration

    def check(self) -> None:
        """Check every step in order, then the outputs."""
        skipped = 0  # the end of a loop that does not run
        for position, step in enumerate(self.plan.steps):
            for index, loop in enumerate(self.plan.loops):
                if loop.first == position and position >= skipped:
                    skipped = max(skipped, self._enter(index))
            if position >= skipped:
                self._check_step(step)
        for index, info in enumerate(self.plan.outputs):
            if index not in self.outputs:
                raise PlanError("no step writes an output", where=f"output {info.name}")

    def _enter(self, index: int) -> int:
        """Check what loop `index` reads; return its end when it does not run at these sizes."""
        loop, where = self.plan.loops[index], f"loop {index}"
        count = evaluate(loop.count, self.sizes)
        self.last[index] = 0 if count == UNLIMITED else max(count - 1, 0)
        given = [(binding, 1) for binding in (loop.condition,) if binding is not None]
        given += [(binding, 8) for binding in (loop.limit,) if binding is not None]
        for binding, size in given:
            start = self._at(binding.offset, {})
            if binding.space == "arena" and not self._written((start, start + size)):
                raise PlanError("a loop reads what nothing has written", where=where)
        if loop.counter is not None:
            start = self._at(loop.counter.offset, {})
            if start % 8 or start + 8 > self.plan.arena_bytes:
                raise PlanError("the counter has no place in the arena", where=where)
            self._write((start, start + 8))
        return loop.last if count < 1 else 0

    def _iterations(self, step: Step) -> list[Sizes]:
        """Return the symbols of the loops around `step` in the first and the last iteration."""
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        index = step.loop
        while index is not None:
            loop = self.plan.loops[index]
            first[loop.symbol], last[loop.symbol] = 0, self.last[index]
            index = loop.parent
        return [first, last] if last != first else [first]

    def _check_step(self, step: Step) -> None:
        iterations = self._iterations(step)
        spans = [self._spans_of(step, each) for each in iterations]
        inputs = len(step.operands) - step.outputs
        for found in spans:
            self._check_reads(step, found[:inputs])
        for place, binding in enumerate(step.bindings[inputs : len(step.operands)], inputs):
            if binding.space == "output":
                self.outputs.add(binding.index)
            elif binding.space != "arena":
                raise PlanError(f"a step writes to {binding.space}", where=step.name)
            else:
                parts = [span for found in spans if (span := found[place]) is not None]
                if parts:
                    self._write((min(low for low, _ in parts), max(high for _, high in parts)))
        for binding in step.bindings[len(step.operands) :]:
            if self._at(binding.offset, iterations[0]) % ALIGNMENT:
                raise PlanError("a packed constant is not aligned", where=step.name)

    def _spans_of(self, step: Step, iteration: Sizes) -> list[tuple[int, int] | None]:
        return [
            self._span(step, binding, operand, {**self.sizes, **iteration})
            for binding, operand in zip(step.bindings, step.operands, strict=False)
        ]

    def _check_reads(self, step: Step, spans: Sequence[tuple[int, int] | None]) -> None:
        for binding, span in zip(step.bindings, spans, strict=False):
            if binding.space == "arena" and span is not None and not self._written(span):
                raise PlanError(f"arena bytes {span} are read before a write", where=step.name)

    def _span(
        self, step: Step, binding: Binding, operand: Operand, sizes: Sizes
    ) -> tuple[int, int] | None:
        """Return the first byte and the end of an operand; None when it is empty or unknown."""
        dims = (*operand.shape, *operand.strides, binding.offset)
        numbers = [_number(dim, sizes) for dim in dims]
        if any(number is None for number in numbers):
            return None  # the data decides the extents: an external step makes the array
        known = [number for number in numbers if number is not None]
        rank = len(operand.shape)
        shape, strides, start = known[:rank], known[rank:-1], known[-1]
        itemsize = dtype_by_name(operand.dtype).itemsize
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

    def _at(self, dim: Dim, iteration: Sizes) -> int:
        """Return an offset; loops that it does not name stand at their first iteration."""
        loops = {loop.symbol: 0 for loop in self.plan.loops}
        return evaluate(dim, {**loops, **self.sizes, **iteration})

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


def _number(dim: Dim, sizes: Sizes) -> int | None:
    try:
        return evaluate(dim, sizes)
    except KeyError:
        return None
