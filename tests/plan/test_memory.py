from __future__ import annotations

import random

import pytest

from planish.errors import PlanError
from planish.ir.shape import dim_max, floordiv, mod, symbol
from planish.plan.memory import (
    ALIGNMENT,
    SLACK,
    Buffer,
    aligned,
    largest_live_set,
    place_buffers,
    upper_bound,
)


def random_buffers(seed: int, count: int) -> list[Buffer]:
    generator = random.Random(seed)
    buffers = []
    for index in range(count):
        first = generator.randrange(count)
        length = generator.choice([0, 1, 1, 2, 5, count // 2])
        size = generator.choice([0, 1, 64, 100, 4096, 70_000])
        buffers.append(Buffer(f"b{index}", size, first, min(count, first + length)))
    return buffers


@pytest.mark.parametrize("seed", range(20))
def test_live_buffers_never_share_bytes(seed: int) -> None:
    buffers = random_buffers(seed, 40)
    placements, arena = place_buffers(buffers)
    assert [placement.buffer for placement in placements] == buffers
    for placement in placements:
        assert placement.offset % ALIGNMENT == 0
        assert placement.offset + aligned(placement.buffer.size) + SLACK <= arena
    for index, a in enumerate(placements):
        for b in placements[index + 1 :]:
            together = a.buffer.first <= b.buffer.last and b.buffer.first <= a.buffer.last
            if together and a.buffer.size and b.buffer.size:
                end_a, end_b = a.offset + a.buffer.size, b.offset + b.buffer.size
                assert end_a <= b.offset or end_b <= a.offset
    assert arena - SLACK <= 1.2 * largest_live_set(buffers)


def test_placement_is_deterministic() -> None:
    buffers = random_buffers(7, 60)
    assert place_buffers(buffers) == place_buffers(list(buffers))


def test_a_chain_needs_two_buffers() -> None:
    buffers = [Buffer(str(i), 1000, i, i + 1) for i in range(10)]
    _, arena = place_buffers(buffers)
    assert arena == 2 * aligned(1000) + SLACK


def test_nothing_needs_no_arena() -> None:
    assert place_buffers([]) == ([], 0)


def test_largest_live_set_counts_both_ends() -> None:
    buffers = [Buffer("a", 64, 0, 3), Buffer("b", 128, 3, 5), Buffer("c", 64, 6, 6)]
    assert largest_live_set(buffers) == 64 + 128


def test_upper_bounds_follow_the_ranges() -> None:
    n, s = symbol("N"), symbol("S")
    ranges = {"N": (1, 2, 4), "S": (3, 5, 10)}
    assert upper_bound(n * s * 8 + 3, ranges) == 323
    assert upper_bound(20 - s, ranges) == 17
    assert upper_bound(floordiv(s - 1, 2) + dim_max(n, s), ranges) == 14
    assert upper_bound(mod(s, 4), ranges) == 3


def test_an_extent_without_a_range_is_refused_by_name() -> None:
    with pytest.raises(PlanError, match=r"\?boxes_0"):
        upper_bound(symbol("?boxes_0") * 4, {})
