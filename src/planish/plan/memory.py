"""Lifetimes to offsets: every intermediate tensor gets its place in one arena.

A buffer lives from the step that first writes it to the step that last reads it. Two buffers may
share bytes when no step lies in both lives. Finding the smallest arena is NP-hard; greedy
placement in a few orders (largest first is the classic one) comes within a few percent of the
lower bound, the largest live set. Sizes of dynamic tensors are their maxima over the declared
ranges, so offsets are plain numbers.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from planish.errors import PlanError
from planish.ir.shape import Dim, symbols_of
from planish.ops.content import bounds

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register
REFINEMENT_LIMIT = 8_000  # placements tried after the plain orders: about 0.1 s
NOISES = (0.1, 0.3, 1.0, 2.0)
SLACK = 64  # bytes after the last buffer that kernels may read past the end of a value

Ranges = Mapping[str, tuple[int, int, int]]
Gap = tuple[int, int | None]  # start and end; no end above the highest neighbour


@dataclass(frozen=True)
class Buffer:
    """A request for memory.

    Attributes
    ----------
    label : str
        Name of the value, for messages.
    size : int
        Bytes, at least 0.
    first, last : int
        First and last step (both included) at which the contents matter.
    """

    label: str
    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Placement:
    """A buffer and its offset in the arena, in bytes."""

    buffer: Buffer
    offset: int


def place_buffers(buffers: Sequence[Buffer]) -> tuple[list[Placement], int]:
    """Return a placement of every buffer, in the given order, and the bytes of the arena.

    The result depends on nothing but `buffers`. Several greedy orders are tried and the smallest
    arena wins; the search ends early when the lower bound is met.
    """
    if not buffers:
        return [], 0
    search = _Search(buffers, largest_live_set(buffers))
    for key in _ORDERS:
        order = sorted(range(len(buffers)), key=lambda index: (*key(buffers[index]), index))
        for rank in (_tightest_gap, _lowest_gap):
            search.attempt(order, rank)
    search.refine()
    placements = [Placement(b, offset) for b, offset in zip(buffers, search.offsets, strict=True)]
    return placements, search.end + SLACK


class _Search:
    """The best placement found so far; attempts stop when it meets the lower bound."""

    def __init__(self, buffers: Sequence[Buffer], bound: int) -> None:
        self.buffers = buffers
        self.bound = bound
        self.offsets: list[int] = []
        self.end = -1

    def attempt(self, order: list[int], rank: Callable[[Gap], tuple[int, int]]) -> None:
        """Place the buffers in `order`; keep the result if the arena is smaller."""
        if 0 <= self.end <= self.bound:
            return
        offsets, end = _place(self.buffers, order, rank)
        if self.end < 0 or end < self.end:
            self.offsets, self.end = offsets, end

    def refine(self) -> None:
        """Try orders near the largest-first one, for as many placements as the limit allows."""
        count = len(self.buffers)
        generator = random.Random(0)
        for attempt in range(REFINEMENT_LIMIT // (2 * count)):
            noise = NOISES[attempt % len(NOISES)]
            keys = [-b.size * (1 + noise * generator.random()) for b in self.buffers]
            order = sorted(range(count), key=keys.__getitem__)
            self.attempt(order, _lowest_gap)
            self.attempt(order, _tightest_gap)


def largest_live_set(buffers: Sequence[Buffer]) -> int:
    """Return the largest number of bytes alive at one step: no arena can be smaller."""
    changes: dict[int, int] = {}
    for buffer in buffers:
        changes[buffer.first] = changes.get(buffer.first, 0) + aligned(buffer.size)
        changes[buffer.last + 1] = changes.get(buffer.last + 1, 0) - aligned(buffer.size)
    largest = live = 0
    for step in sorted(changes):
        live += changes[step]
        largest = max(largest, live)
    return largest


def aligned(size: int) -> int:
    """Return `size` rounded up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def upper_bound(dim: Dim, ranges: Ranges) -> int:
    """Return a number that `dim` does not exceed while every symbol stays in its range.

    Raises
    ------
    PlanError
        When there is none: the extent holds a symbol without a range.
    """
    high = bounds(dim, ranges)[1]
    if math.isinf(high):
        unbound = sorted(symbols_of(dim) - set(ranges))
        raise PlanError(
            f"the extent {dim} has no upper bound: no range is known for {', '.join(unbound)}",
            fix="give a profile for the inputs that it comes from; extents that only the data "
            'decides (their names start with "?") cannot be planned',
        )
    return int(high)


def _span(buffer: Buffer) -> int:
    return buffer.last - buffer.first + 1


_ORDERS: tuple[Callable[[Buffer], tuple[int, int]], ...] = (
    lambda buffer: (-buffer.size, buffer.first),
    lambda buffer: (buffer.first, -buffer.size),
    lambda buffer: (-_span(buffer), -buffer.size),
    lambda buffer: (-_span(buffer) * buffer.size, buffer.first),
)


def _tightest_gap(gap: Gap) -> tuple[int, int]:
    start, end = gap
    return (1, start) if end is None else (0, end - start)


def _lowest_gap(gap: Gap) -> tuple[int, int]:
    return (0, gap[0])


def _place(
    buffers: Sequence[Buffer], order: Sequence[int], rank: Callable[[Gap], tuple[int, int]]
) -> tuple[list[int], int]:
    """Place buffers one after another, each in the best gap between those alive with it."""
    offsets = [0] * len(buffers)
    alive: dict[int, list[int]] = {}  # step -> buffers placed so far that live there
    starts: list[tuple[int, int]] = []  # (first step, buffer), sorted
    end = 0
    for index in order:
        buffer = buffers[index]
        size = aligned(buffer.size)
        neighbours = _alive_with(buffer, alive, starts)
        spans = sorted((offsets[i], offsets[i] + aligned(buffers[i].size)) for i in neighbours)
        offsets[index] = min(_gaps(spans, size), key=rank)[0]
        end = max(end, offsets[index] + size)
        bisect.insort(starts, (buffer.first, index))
        for step in range(buffer.first, buffer.last + 1):
            alive.setdefault(step, []).append(index)
    return offsets, end


def _alive_with(
    buffer: Buffer, alive: Mapping[int, list[int]], starts: Sequence[tuple[int, int]]
) -> list[int]:
    """Return placed buffers that share a step: alive at the first one, or starting later."""
    begin = bisect.bisect_right(starts, (buffer.first + 1, -1))
    stop = bisect.bisect_left(starts, (buffer.last + 1, -1))
    return [*alive.get(buffer.first, ()), *(index for _, index in starts[begin:stop])]


def _gaps(spans: Sequence[tuple[int, int]], size: int) -> list[Gap]:
    """Return the free ranges of at least `size` bytes between occupied `spans` (sorted)."""
    gaps: list[Gap] = []
    top = 0
    for start, end in spans:
        if start - top >= size:
            gaps.append((top, start))
        top = max(top, end)
    return [*gaps, (top, None)]
