"""Thresholds against the published algorithms written out literally, and against known caches."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest

from planish.quantize.histogram import BINS, FineHistogram, Histogram
from planish.quantize.threshold import (
    MOST_CLIPPED,
    entropy_threshold,
    mse_threshold,
    quantile_threshold,
)

Array = np.ndarray[Any, Any]


def histogram_of(numbers: Array) -> tuple[Histogram, float]:
    fine = FineHistogram()
    fine.add(numbers.astype(np.float32))
    return fine.finish(), fine.amax


def literal_entropy(counts: Array, width: float) -> float:
    """NVIDIA's algorithm (GTC 2017, S7310), bin by bin."""
    counts = counts.astype(float)
    counts[0] = counts[1]
    total, best, least = counts.sum(), 0, math.inf
    for cut in range(128, len(counts) + 1):
        if counts[cut:].sum() > MOST_CLIPPED * total:
            continue
        p, q = counts[:cut].copy(), np.zeros(cut)
        p[-1] += counts[cut:].sum()
        groups = [bin_ * 128 // cut for bin_ in range(cut)]
        for group in range(128):
            members = [b for b in range(cut) if groups[b] == group and counts[b] > 0]
            for member in members:
                q[member] = sum(counts[b] for b in members) / len(members)
        if np.any((q == 0) & (p > 0)) or not q.any():
            continue
        p, q = p / p.sum(), q / q.sum()
        divergence = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
        if divergence <= least + 1e-12:
            best, least = cut, min(divergence, least)
    return (best + 0.5) * width


DISTRIBUTIONS = {
    "normal": lambda g: g.standard_normal(20_000),
    "relu": lambda g: np.maximum(g.standard_normal(20_000), 0),
    "laplace": lambda g: g.laplace(size=20_000),
    "heavy tail": lambda g: g.standard_t(3, 20_000),
    "uniform": lambda g: g.random(20_000),
    "few": lambda g: g.standard_normal(50),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_entropy_is_the_published_search(name: str) -> None:
    histogram, _ = histogram_of(DISTRIBUTIONS[name](np.random.default_rng(3)))
    histogram = Histogram(histogram.counts[:700], histogram.width)  # the literal loop is slow
    want = literal_entropy(histogram.counts, histogram.width)
    assert entropy_threshold(histogram) == pytest.approx(want, rel=1e-12)


def per_cut_entropy(counts: Array, width: float) -> float:
    """The published search over all 2048 bins, with no bound on what is clipped; by numpy a cut."""
    counts = counts.astype(float)
    counts[0] = counts[1]
    divergences = []
    for cut in range(128, len(counts) + 1):
        inside = counts[:cut]
        p = inside.copy()
        p[-1] += counts[cut:].sum()
        group = np.floor(np.arange(cut) * (128 / cut) + 1e-9).astype(int)
        filled = inside > 0
        sums = np.bincount(group, inside, 128)
        members = np.bincount(group, filled, 128)
        q = np.where(filled, (sums / np.maximum(members, 1))[group], 0.0)
        if np.any((q == 0) & (p > 0)):
            divergences.append(math.inf)
            continue
        p, q = p[p > 0] / p.sum(), q[p > 0] / q.sum()
        divergences.append(float((p * np.log(p / q)).sum()))
    found = np.array(divergences)
    last = np.flatnonzero(found <= found.min() + 1e-12)[-1]
    return (128 + int(last) + 0.5) * width


@pytest.mark.parametrize("name", ["normal", "relu", "laplace", "uniform", "exponential"])
def test_the_bound_on_clipping_changes_nothing_for_smooth_distributions(name: str) -> None:
    more = {"exponential": lambda g: g.exponential(size=200_000)}
    histogram, amax = histogram_of({**DISTRIBUTIONS, **more}[name](np.random.default_rng(11)))
    assert len(histogram.counts) == BINS
    want = per_cut_entropy(histogram.counts, histogram.width)
    assert entropy_threshold(histogram) == pytest.approx(want, rel=1e-12)
    assert 0.3 * amax < want <= amax + histogram.width


def test_a_uniform_histogram_keeps_its_whole_range() -> None:
    # NVIDIA's MNIST sample: `prob` in [0, 1] has the scale 3c010a14, which is 2048.5 / 2048 / 127
    (scale,) = struct.unpack(">f", bytes.fromhex("3c010a14"))
    threshold = entropy_threshold(Histogram(np.full(BINS, 100), 1.0 / BINS))
    assert threshold == 2048.5 / 2048
    assert np.float32(threshold / 127) == np.float32(scale)


def test_a_background_of_one_value_is_no_reason_to_clip() -> None:
    numbers = np.concatenate([np.full(90_000, 0.42), np.random.default_rng(0).random(10_000) * 3])
    histogram, _ = histogram_of(numbers)
    assert entropy_threshold(histogram) > 2.6
    assert histogram.share_above(entropy_threshold(histogram)) <= 2 * MOST_CLIPPED


@pytest.mark.parametrize("counts", [[0, 0, 5], [7] + [0] * 600, [0] * 400 + [3]])
def test_degenerate_histograms_have_a_threshold(counts: list[int]) -> None:
    histogram = Histogram(np.array(counts), 0.5)
    end = len(counts) * 0.5
    assert end <= entropy_threshold(histogram) <= end + 0.5
    assert 0 < mse_threshold(histogram, end) <= end


def quantization_error(numbers: Array, threshold: float, levels: int) -> float:
    scale = threshold / levels
    rounded = np.clip(np.rint(numbers / scale), -levels, levels) * scale
    return float(np.mean((rounded - numbers) ** 2))


@pytest.mark.parametrize("name", ["normal", "laplace", "heavy tail"])
@pytest.mark.parametrize("levels", [127, 255])
def test_mse_is_the_least_error_of_all_cuts(name: str, levels: int) -> None:
    numbers = np.abs(DISTRIBUTIONS[name](np.random.default_rng(4)))
    fine = FineHistogram()
    fine.add(numbers.astype(np.float32))
    histogram = fine.finish(levels)
    found = quantization_error(numbers, mse_threshold(histogram, fine.amax), levels)
    cuts = np.arange(128, len(histogram.counts) + 1) * histogram.width
    least = min(quantization_error(numbers, cut, levels) for cut in cuts)
    assert found <= 1.02 * least
    assert found < quantization_error(numbers, fine.amax, levels)


def test_quantiles_are_numpy_s() -> None:
    numbers = np.abs(np.random.default_rng(5).standard_normal(100_000))
    histogram, amax = histogram_of(numbers)
    for quantile in (0.5, 0.99, 0.9999):
        want = np.quantile(numbers, quantile)
        assert quantile_threshold(histogram, amax, quantile) == pytest.approx(want, abs=5e-3)
    assert quantile_threshold(histogram, amax, 1.0) == amax


def test_elements_above_the_cutoff_do_not_count() -> None:
    numbers = np.concatenate([np.linspace(0, 1, 10_001), [100.0] * 5_000])
    histogram, amax = histogram_of(numbers)
    assert quantile_threshold(histogram, amax, 0.99) == pytest.approx(100, rel=1e-3)
    assert quantile_threshold(histogram, amax, 0.99, 0.5) == pytest.approx(0.99, abs=0.05)
