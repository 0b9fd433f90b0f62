from __future__ import annotations

import random

import pytest

from planish.ir.shape import Dim, evaluate, symbol
from planish.plan.arrange import arrange
from planish.plan.memory import Buffer, upper_bound

N, S = symbol("N"), symbol("S")
RANGES = {"N": (1, 1, 32), "S": (1, 16, 100)}


def requests(sizes: list[Dim], spans: list[tuple[int, int]]) -> tuple[list[Buffer], list[Dim]]:
    buffers = [
        Buffer(f"b{index}", upper_bound(size, RANGES), first, last)
        for index, (size, (first, last)) in enumerate(zip(sizes, spans, strict=True))
    ]
    return buffers, sizes


def test_a_batch_scales_the_offsets() -> None:
    buffers, sizes = requests([N * 4096, N * 8192, N * 4096], [(0, 1), (1, 2), (2, 3)])
    arrangement = arrange(buffers, sizes, RANGES)
    assert [str(offset) for offset in arrangement.offsets] == ["8192*N", "0", "8192*N"]
    assert arrangement.arena_bytes == 32 * (4096 + 8192) + 64


def test_other_sizes_lie_in_front() -> None:
    sizes: list[Dim] = [N * S * 6400, N * S * 6400, 1000, S * 640]
    buffers, sizes = requests(sizes, [(0, 1), (1, 2), (0, 2), (0, 2)])
    arrangement = arrange(buffers, sizes, RANGES)
    plain, scaled = arrangement.sections
    assert scaled.factor == N * S
    assert len(plain.placements) == 2
    assert all(isinstance(arrangement.offsets[index], int) for index in (2, 3))


def test_static_sizes_get_plain_offsets() -> None:
    arrangement = arrange([Buffer("a", 100, 0, 0), Buffer("b", 100, 0, 0)], [100, 100], {})
    assert set(arrangement.offsets) == {0, 128}
    assert arrange([], [], {}).arena_bytes == 0


def test_small_units_are_not_blown_up_by_the_alignment() -> None:
    buffers, sizes = requests([N * S * 4, N * S * 4], [(0, 1), (1, 2)])
    assert arrange(buffers, sizes, RANGES).arena_bytes <= 2 * (32 * 100 * 4 + 64) + 64


@pytest.mark.parametrize("seed", range(10))
def test_live_buffers_are_disjoint_at_every_shape(seed: int) -> None:
    generator = random.Random(seed)
    forms: list[Dim] = [N * 640, N * 8000, N * S * 64, N * (S + 2) * 128, S * 64, 500, N * 4]
    sizes = [generator.choice(forms) for _ in range(30)]
    spans = [(first := generator.randrange(30), first + generator.randrange(4)) for _ in sizes]
    buffers, sizes = requests(sizes, spans)
    arrangement = arrange(buffers, sizes, RANGES)
    for values in ({"N": 1, "S": 1}, {"N": 3, "S": 50}, {"N": 32, "S": 100}):
        placed = [
            (evaluate(offset, values), evaluate(size, values), buffer)
            for offset, size, buffer in zip(arrangement.offsets, sizes, buffers, strict=True)
        ]
        for index, (start, size, a) in enumerate(placed):
            assert start % 64 == 0
            assert start + size + 64 <= arrangement.arena_bytes
            for other, length, b in placed[index + 1 :]:
                if a.first <= b.last and b.first <= a.last:
                    assert start + size <= other or other + length <= start
