"""GPTQ and rounding to nearest, without engines."""

from __future__ import annotations

import numpy as np
import pytest

from planish.quantize.gptq import Hessian, quantize_by_hessian
from planish.quantize.group_scales import Grid, round_to_nearest, signal_to_noise


def correlated(depth: int, columns: int) -> tuple[np.ndarray, Hessian]:
    """Return weights, and second moments of inputs with few strong directions."""
    random = np.random.default_rng(depth)
    x = random.standard_normal((4 * depth, depth // 8)) @ random.standard_normal(
        (depth // 8, depth)
    )
    x += 0.1 * random.standard_normal(x.shape)
    weights = random.standard_normal((depth, columns)).astype(np.float32)
    return weights, Hessian(x.T @ x / len(x))


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero points"])
@pytest.mark.parametrize(("depth", "group"), [(96, 32), (300, 40), (200, 200), (333, 128)])
def test_gptq_leaves_less_than_half_of_the_error(depth: int, group: int, symmetric: bool) -> None:
    weights, hessian = correlated(depth, 24)
    grid = Grid(4, group, symmetric)
    rounded = round_to_nearest(weights, grid)
    better = quantize_by_hessian(weights, grid, hessian)
    assert better is not None
    for found in (rounded, better):
        assert found.numbers.min() >= grid.limits[0]
        assert found.numbers.max() <= grid.limits[1]
        assert found.scales.shape == (-(-depth // group), 24)
    left = hessian.error(weights - better.real())
    assert left < 0.5 * hessian.error(weights - rounded.real())


def test_independent_inputs_make_gptq_round_to_nearest() -> None:
    weights = correlated(128, 16)[0]
    grid = Grid(4, 32, symmetric=True)
    found = quantize_by_hessian(weights, grid, Hessian(np.eye(128)))
    assert found is not None
    np.testing.assert_array_equal(found.numbers, round_to_nearest(weights, grid).numbers)


def test_inputs_that_are_always_zero_are_rounded_and_all_of_them_refused() -> None:
    weights, hessian = correlated(64, 16)
    grid = Grid(4, 32, symmetric=True)
    hessian.moments[5] = hessian.moments[:, 5] = 0
    found = quantize_by_hessian(weights, grid, hessian)
    assert found is not None
    assert np.isfinite(found.real()).all()
    assert quantize_by_hessian(weights, grid, Hessian(np.zeros((64, 64)))) is None
    assert quantize_by_hessian(weights, grid, Hessian(np.full((64, 64), np.nan))) is None


@pytest.mark.parametrize(("bits", "least"), [(4, 17), (8, 42)])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero points"])
def test_rounding_is_within_half_a_step(bits: int, least: float, symmetric: bool) -> None:
    weights = np.random.default_rng(1).standard_normal((100, 40)).astype(np.float32)
    weights[:32, 3] = 0
    weights[32:64, 4] = np.abs(weights[32:64, 4])
    found = round_to_nearest(weights, Grid(bits, 32, symmetric))
    steps = np.repeat(found.scales, 32, axis=0)[:100]
    share = 0.5 if symmetric else 1.2  # the zero point is rounded, too
    # scales are rounded to f16, which moves the largest weights by 2^-11
    assert (np.abs(found.real() - weights) <= steps * share + np.abs(weights) * 2**-10).all()
    assert (found.scales == found.scales.astype(np.float16)).all()
    assert signal_to_noise(weights, found.real()) > least


def test_tiny_scales_stay_float32() -> None:
    weights = np.full((32, 16), 1e-7, np.float32)
    found = round_to_nearest(weights, Grid(4, 32, symmetric=True))
    np.testing.assert_allclose(found.real(), weights, rtol=1e-5)
