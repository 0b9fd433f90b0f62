"""Which steps may run beside each other, and on which streams.

The plan's order is cut where a single tensor is all that later steps read of earlier ones: between
the blocks of a network. Inside such a section, every step goes to the stream on which it can start
first (list scheduling: Graham, Bounds on multiprocessing timing anomalies, 1969). A section begins
when the one before has ended, so memory is shared between sections as it is without streams; what
lives inside a section of several streams keeps its memory to the section's end.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from planish.ir.graph import Value
from planish.plan.lifetimes import Access

CHANGE_MICROSECONDS = 1.0  # what waiting for another stream costs


@dataclass(frozen=True)
class Streams:
    """Streams of a plan's steps.

    Attributes
    ----------
    of : tuple of int
        One a step.
    after : tuple of tuple of int
        For each step the steps on other streams that it waits for.
    sections : tuple of (int, int)
        Spans [first, last) of steps that use several streams.
    """

    of: tuple[int, ...]
    after: tuple[tuple[int, ...], ...]
    sections: tuple[tuple[int, int], ...]


def assign_streams(
    accesses: Sequence[Access], times: Sequence[float], count: int, fixed: Collection[int]
) -> Streams:
    """Return streams for the steps.

    Parameters
    ----------
    accesses : sequence of Access
        What each step reads and writes.
    times : sequence of float
        Microseconds of each step.
    count : int
        Streams to use at most.
    fixed : collection of int
        Steps that have to run alone: inside loops, under conditions, on the host.
    """
    of = [0] * len(accesses)
    after: list[set[int]] = [set() for _ in accesses]
    sections = []
    last: dict[int, int] = {}  # the last step of each stream that was used since all met
    for first, end in _sections(accesses, fixed):
        chosen = _schedule(accesses, times, count, first, end)
        of[first:end] = chosen
        if len(set(chosen)) > 1:
            sections.append((first, end))
        meeting, last = last, {}
        for step in range(first, end):
            stream = of[step]
            if stream not in last:
                after[step] |= {tail for other, tail in meeting.items() if other != stream}
            last[stream] = step
            after[step] |= {p for p in _needed(accesses, first, step) if of[p] != stream}
    return Streams(tuple(of), tuple(tuple(sorted(each)) for each in after), tuple(sections))


def _sections(accesses: Sequence[Access], fixed: Collection[int]) -> list[tuple[int, int]]:
    """Return the spans between places that at most one tensor crosses; fixed steps are alone."""
    first: dict[Value, int] = {}
    last: dict[Value, int] = {}
    for step, access in enumerate(accesses):
        for root in (*access.reads, *access.writes):
            first.setdefault(root, step)
        for root in access.reads:
            last[root] = step
    crossing = [0] * (len(accesses) + 1)
    for root, end in last.items():
        for place in range(first[root] + 1, end + 1):
            crossing[place] += 1
    cuts = {place for place in range(1, len(accesses)) if crossing[place] <= 1}
    cuts |= {place for step in fixed for place in (step, step + 1)}
    places = [0, *sorted(cuts - {0, len(accesses)}), len(accesses)]
    return [(a, b) for a, b in itertools.pairwise(places) if a < b]


def _needed(accesses: Sequence[Access], first: int, step: int) -> list[int]:
    """Return the steps from `first` on that write what `step` reads."""
    reads = set(accesses[step].reads)
    return [p for p in range(first, step) if not reads.isdisjoint(accesses[p].writes)]


def _schedule(
    accesses: Sequence[Access], times: Sequence[float], count: int, first: int, end: int
) -> list[int]:
    """Return the streams of one section's steps."""
    free = [0.0] * count
    done: dict[int, float] = {}
    chosen: dict[int, int] = {}
    for step in range(first, end):
        needed = _needed(accesses, first, step)

        def start(stream: int, needed: list[int] = needed) -> float:
            ready = [done[p] + CHANGE_MICROSECONDS * (chosen[p] != stream) for p in needed]
            return max([free[stream], CHANGE_MICROSECONDS * (stream != 0), *ready])

        previous = chosen[needed[-1]] if needed else 0
        stream = min(range(count), key=lambda s: (start(s), s != previous, s))
        chosen[step] = stream
        done[step] = free[stream] = start(stream) + times[step]
    return [chosen[step] for step in range(first, end)]
