"""A plan cut into what a GPU runs in one graph, and what the host does between.

The host runs steps without a kernel (numpy), reads the conditions of If, and counts the loops
whose number of iterations only the data tells, or that have such a step inside. All other steps
go into graphs; loops among them are unrolled there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from planish.ir.shape import evaluate, symbols_of
from planish.plan.plan import UNLIMITED, Binding, Loop, Plan
from planish.runtime.cuda.libraries import is_on_device

MOST_UNROLLED = 4096  # launches of one loop in a graph

Guard = tuple[tuple[Binding, bool], ...]


@dataclass(frozen=True)
class KernelSegment:
    """Steps [first, last), loops included, that need nothing of the host; inside `loop` or -1."""

    first: int
    last: int
    loop: int


@dataclass(frozen=True)
class HostSegment:
    """One step that runs on the host."""

    step: int


@dataclass(frozen=True)
class LoopSegment:
    """A loop that the host counts."""

    loop: int
    body: tuple[Segment, ...]


@dataclass(frozen=True)
class GuardSegment:
    """What runs only when the boolean at an address has the given value."""

    condition: Binding
    expected: bool
    body: tuple[Segment, ...]


Segment = KernelSegment | HostSegment | LoopSegment | GuardSegment


@dataclass(frozen=True)
class Iteration:
    """One run of a step in a graph: the symbols' values, and int64 numbers to store before it."""

    step: int
    symbols: Mapping[str, int]
    counters: tuple[tuple[Binding, int], ...] = ()


def segments_of(plan: Plan, symbols: Mapping[str, int]) -> tuple[Segment, ...]:
    """Return the plan's steps as segments, in order, for one set of shapes."""
    return tuple(_Cutter(plan, symbols).cut(0, len(plan.steps), -1, ()))


class _Cutter:
    def __init__(self, plan: Plan, symbols: Mapping[str, int]) -> None:
        self._plan, self._symbols = plan, symbols

    def cut(self, first: int, last: int, around: int, known: Guard) -> Iterator[Segment]:
        """Yield the segments of steps [first, last) inside loop `around`, `known` being true."""
        start = index = first
        while index < last:
            loop = self._plan.loop_at(index, last, around)
            end = index + 1 if loop is None else self._plan.loops[loop].last
            if self._needs_nothing(index, end, loop, known):
                index = end
                continue
            if start < index:
                yield KernelSegment(start, index, around)
            guard = self._guard_at(index, loop)[len(known) :]
            if guard:
                end = self._guarded_until(index, last, around, (*known, guard[0]))
                body = tuple(self.cut(index, end, around, (*known, guard[0])))
                yield GuardSegment(*guard[0], body)
            elif loop is not None:
                yield LoopSegment(loop, tuple(self.cut(index, end, loop, known)))
            else:
                yield HostSegment(index)
            start = index = end
        if start < last:
            yield KernelSegment(start, last, around)

    def _guard_at(self, index: int, loop: int | None) -> Guard:
        steps, loops = self._plan.steps, self._plan.loops
        return steps[index].guard if loop is None else loops[loop].guard

    def _guarded_until(self, first: int, last: int, around: int, known: Guard) -> int:
        """Return the end of the steps and loops from `first` on that are all under `known`."""
        index = first
        while index < last:
            loop = self._plan.loop_at(index, last, around)
            if self._guard_at(index, loop)[: len(known)] != known:
                break
            index = index + 1 if loop is None else self._plan.loops[loop].last
        return index

    def _needs_nothing(self, first: int, last: int, loop: int | None, known: Guard) -> bool:
        """Whether a step or a whole loop can go into a graph."""
        steps = self._plan.steps[first:last]
        if any(step.guard != known or not is_on_device(self._plan, step) for step in steps):
            return False
        if loop is None:
            return True
        inside = [one for one in self._plan.loops if first <= one.first and one.last <= last]
        if not all(self._is_counted(one, known) for one in inside):
            return False
        return len(unrolled(self._plan, first, last, self._symbols)) <= MOST_UNROLLED

    def _is_counted(self, loop: Loop, known: Guard) -> bool:
        """Whether shapes alone tell how often a loop runs."""
        return (
            loop.limit is None
            and loop.condition is None
            and loop.guard == known
            and loop.count != UNLIMITED
            and not symbols_of(loop.count) - self._symbols.keys()
        )


def unrolled(
    plan: Plan, first: int, last: int, symbols: Mapping[str, int], around: int = -1
) -> list[Iteration]:
    """Return every run of steps [first, last) inside loop `around`, in order.

    The loops among them are counted ones. The list ends early once it is longer than
    `MOST_UNROLLED`.
    """
    found: list[Iteration] = []
    index = first
    while index < last and len(found) <= MOST_UNROLLED:
        loop = plan.loop_at(index, last, around)
        if loop is None:
            found.append(Iteration(index, symbols))
            index += 1
            continue
        facts = plan.loops[loop]
        for number in range(evaluate(facts.count, symbols)):
            body = unrolled(plan, index, facts.last, {**symbols, facts.symbol: number}, loop)
            if facts.counter is not None and body:
                counters = ((facts.counter, number), *body[0].counters)
                body[0] = Iteration(body[0].step, body[0].symbols, counters)
            found += body
            if len(found) > MOST_UNROLLED:
                break
        index = facts.last
    return found
