"""Histograms: exact counts, and independence of the order and the size of batches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from planish.backends.cpu.device import detect
from planish.backends.cpu.observe import NativeObserver
from planish.quantize.histogram import BINS, FineHistogram, Histogram
from planish.quantize.threshold import entropy_threshold

Array = np.ndarray[Any, Any]


def collected(batches: Sequence[Array]) -> FineHistogram:
    fine = FineHistogram()
    for batch in batches:
        fine.add(batch)
    return fine


def batches(seed: int = 0) -> list[Array]:
    generator = np.random.default_rng(seed)
    return [(generator.standard_normal((7, 300)) * 4.0**i).astype(np.float32) for i in range(4)]


def test_any_order_of_batches_gives_the_same_histogram() -> None:
    want = collected(batches()).finish()
    for order in permutations(batches()):
        found = collected(order).finish()
        assert found.width == want.width
        np.testing.assert_array_equal(found.counts, want.counts)


def test_any_size_of_batches_gives_the_same_histogram() -> None:
    whole = np.concatenate([batch.reshape(-1) for batch in batches()])
    want = collected([whole]).finish()
    found = collected(np.array_split(whole, 97)).finish()
    np.testing.assert_array_equal(found.counts, want.counts)


def test_counts_are_those_of_numpy() -> None:
    numbers = np.concatenate([batch.reshape(-1) for batch in batches(1)])
    numbers[0] = 1024.0  # the range is a power of two: nothing has to be split
    fine = collected([numbers])
    found = fine.finish()
    assert fine.amax == 1024
    want, _ = np.histogram(np.abs(numbers), bins=BINS, range=(0, 1024))
    np.testing.assert_array_equal(found.counts, want)


@pytest.mark.parametrize("seed", range(4))
def test_other_ranges_give_nearly_the_counts_and_the_same_threshold(seed: int) -> None:
    numbers = np.random.default_rng(seed).laplace(size=200_000).astype(np.float32)
    fine = collected([numbers])
    found = fine.finish()
    counts, _ = np.histogram(np.abs(numbers), bins=BINS, range=(0, fine.amax))
    assert found.width == fine.amax / BINS
    assert found.total == numbers.size
    assert np.abs(np.cumsum(found.counts) - np.cumsum(counts)).max() < 30
    exact = entropy_threshold(Histogram(counts, found.width))
    assert entropy_threshold(found) == pytest.approx(exact, rel=0.03)


def test_whole_numbers_are_not_split() -> None:
    numbers = np.tile(np.arange(256, dtype=np.float32), 1000)
    found = collected([numbers]).finish()
    assert set(np.unique(found.counts)) == {0, 1000}
    assert found.width == 255 / BINS


@pytest.mark.parametrize("largest", [1.0, 0.75, 3e38, 1e-30, 2.0**-100])
def test_the_largest_magnitude_lies_in_the_last_bin(largest: float) -> None:
    numbers = np.linspace(-1, 1, 1001).astype(np.float32) * np.float32(largest)
    fine = collected([numbers])
    found = fine.finish()
    assert fine.amax == np.float32(largest)
    assert found.counts[-1] >= 2
    assert found.total == numbers.size


def test_zeros_and_nothing_else() -> None:
    fine = collected([np.zeros((3, 5), np.float32)])
    assert fine.amax == 0
    assert fine.finish().total == 15


def test_numbers_that_are_not_finite_are_counted_apart() -> None:
    fine = collected([np.array([1, np.nan, -np.inf, 2, np.inf], np.float32)])
    assert (fine["count"], fine["not_finite"], fine["nan"]) == (5, 3, 1)
    assert (fine["minimum"], fine["maximum"]) == (1, 2)
    assert fine.finish().total == 2


def test_share_above() -> None:
    found = collected([np.linspace(0, 10, 10_001, dtype=np.float32)]).finish()
    assert found.share_above(9.0) == pytest.approx(0.1, abs=1e-3)
    assert found.share_above(10.1) == 0


def test_bars_hold_every_element() -> None:
    found = collected(batches()).finish()
    bars = found.bars(128)
    assert sum(bars) == found.total
    assert len(bars) <= 128
    assert found.end == len(found.counts) * found.width


# -- the native code ---------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["this machine", "avx2"])
def observe(request: pytest.FixtureRequest) -> NativeObserver:
    target = detect(1)
    if request.param == "avx2":
        kept = {name for name in target.features if "512" not in name}
        target = type(target)(target.device, frozenset(kept))
    return NativeObserver(target)


def test_native_code_counts_as_the_reference_does(observe: NativeObserver) -> None:
    generator = np.random.default_rng(2)
    want, found = FineHistogram(), FineHistogram()
    for size, scale in ((0, 1), (1, 0), (2047, 1e-3), (5000, 7), (100_003, 300), (64, 1)):
        batch = (generator.standard_normal(size) * scale).astype(np.float32)
        batch[::11] = 0
        want.add(batch)
        observe(batch, found.bins, found.state)
    np.testing.assert_array_equal(found.bins, want.bins)
    np.testing.assert_array_equal(found.state, want.state)


def test_native_code_sets_apart_what_is_not_finite(observe: NativeObserver) -> None:
    batch = np.random.default_rng(3).standard_normal(9000).astype(np.float32)
    batch[[5, 2048, 8999]] = np.nan, np.inf, -np.inf
    want, found = FineHistogram(), FineHistogram()
    want.add(batch)
    observe(batch, found.bins, found.state)
    np.testing.assert_array_equal(found.bins, want.bins)
    np.testing.assert_array_equal(found.state, want.state)
    assert found["nan"] == 1
