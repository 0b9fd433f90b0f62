"""Steps on several streams: the order that is kept, and memory that is not shared too early."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir.dtypes import F32
from planish.ir.graph import Value
from planish.plan.lifetimes import Access
from planish.plan.streams import Streams, assign_streams


def access(name: str, reads: list[Value], writes: list[Value]) -> Access:
    return Access(name, tuple(reads), tuple(writes), ())


def value(name: str) -> Value:
    return Value(name, F32, (1,))


def block_of_branches() -> list[Access]:
    """x -> stem -> {a, b1 -> b2, c1 -> c2} -> join -> tail."""
    x, s, a, b1, b2, c1, c2, j, t = (value(name) for name in "xsabBcCjt")
    return [
        access("stem", [x], [s]),
        access("a", [s], [a]),
        access("b1", [s], [b1]),
        access("b2", [b1], [b2]),
        access("c1", [s], [c1]),
        access("c2", [c1], [c2]),
        access("join", [a, b2, c2], [j]),
        access("tail", [j], [t]),
    ]


def ancestors(streams: Streams) -> list[set[int]]:
    """Return for each step all steps that have ended when it starts."""
    known: list[set[int]] = []
    last: dict[int, int] = {}
    for step, (stream, after) in enumerate(zip(streams.of, streams.after, strict=True)):
        direct = {*after, *([last[stream]] if stream in last else [])}
        known.append(direct.union(*(known[earlier] for earlier in direct)))
        last[stream] = step
    return known


def test_one_stream_needs_no_waiting() -> None:
    accesses = block_of_branches()
    streams = assign_streams(accesses, [1.0] * len(accesses), 1, ())
    assert set(streams.of) == {0}
    assert not any(streams.after)
    assert streams.sections == ()


def test_branches_run_beside_each_other_and_meet() -> None:
    accesses = block_of_branches()
    streams = assign_streams(accesses, [10.0] * len(accesses), 3, ())
    a, b1, b2, c1, c2 = streams.of[1:6]
    assert len({a, b1, c1}) == 3
    assert (b1, c1) == (b2, c2)
    known = ancestors(streams)
    assert known[6] >= {1, 3, 5}
    assert streams.of[0] == streams.of[7] == 0


def test_short_branches_are_not_worth_another_stream() -> None:
    accesses = block_of_branches()
    streams = assign_streams(accesses, [0.1] * len(accesses), 3, ())
    assert set(streams.of) == {0}


def test_fixed_steps_run_alone() -> None:
    accesses = block_of_branches()
    streams = assign_streams(accesses, [10.0] * len(accesses), 3, {3})
    known = ancestors(streams)
    assert known[3] == {0, 1, 2}
    assert all(3 in known[later] for later in range(4, 8))


@pytest.mark.parametrize("seed", range(40))
def test_steps_without_an_order_share_neither_data_nor_memory(seed: int) -> None:
    generator = np.random.default_rng(seed)
    count = int(generator.integers(2, 40))
    values = [value("x")]
    accesses = []
    for step in range(count):
        number = int(generator.integers(1, 3))
        near = values[-4:]
        reads = [near[int(i)] for i in generator.integers(0, len(near), number)]
        values.append(value(f"v{step}"))
        accesses.append(access(str(step), list(dict.fromkeys(reads)), [values[-1]]))
    times = generator.uniform(0.5, 20.0, count).tolist()
    streams = assign_streams(accesses, times, int(generator.integers(1, 5)), ())
    known = ancestors(streams)
    span = _spans(accesses, streams)
    for later in range(count):
        for earlier in range(later):
            if earlier in known[later]:
                continue
            assert set(accesses[later].reads).isdisjoint(accesses[earlier].writes)
            touched = {*accesses[earlier].reads, *accesses[earlier].writes}
            for root in accesses[later].writes:
                for other in touched - {root}:
                    assert span[root][0] <= span[other][1], "one could lie in the other's memory"


def _spans(accesses: list[Access], streams: Streams) -> dict[Value, tuple[int, int]]:
    """Return lifetimes as `collect_lifetimes` has them."""
    span: dict[Value, tuple[int, int]] = {}
    for step, each in enumerate(accesses):
        for root in (*each.reads, *each.writes):
            span[root] = (span.get(root, (step, step))[0], step)
    for start, end in streams.sections:
        for root, (first, last) in span.items():
            if start <= last < end:
                span[root] = (first, end - 1)
    return span
