"""Engines with dynamic extents, run at many sizes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import planish
from planish.config import BuildConfig, Profile
from planish.errors import InputError
from planish.runtime.engine import Engine
from planish.tactics.select import FallbackWarning
from tests import small_models

Array = np.ndarray[Any, Any]
Arguments = tuple[onnx.ModelProto, dict[str, Profile], Callable[[int, int], dict[str, Array]]]

GENERATOR = np.random.default_rng(0)


def floats(*shape: int) -> Array:
    return GENERATOR.standard_normal(shape).astype(np.float32)


# Model, profiles, and inputs for a batch and another extent.
CASES: dict[str, Callable[[], Arguments]] = {
    "convolutions": lambda: (
        small_models.convolutions(), {}, lambda n, _: {"x": floats(n, 3, 12, 12)}
    ),
    "images": lambda: (
        small_models.convolutions("N", "H"),
        {"x": Profile((1, 3, 8, 8), (1, 3, 16, 16), (8, 3, 72, 72))},
        lambda n, s: {"x": floats(n, 3, s + 7, s + 7)},
    ),
    "transformer": lambda: (
        small_models.transformer(),
        {"ids": Profile((1, 1), (2, 16), (8, 64))},
        lambda n, s: {"ids": GENERATOR.integers(0, 50, (n, s))},
    ),
    "recurrent": lambda: (
        small_models.recurrent(),
        {"x": Profile((1, 1, 8), (16, 2, 8), (64, 8, 8))},
        lambda n, s: {"x": floats(s, n, 8)},
    ),
}  # fmt: skip
SIZES = [(1, 1), (2, 16), (8, 64), (3, 17), (1, 33), (7, 5)]


def build(proto: onnx.ModelProto, **options: Any) -> Engine:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        return planish.build(proto, BuildConfig(tune="off", **options))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_many_sizes(case: str, precision: str) -> None:
    proto, profiles, inputs_of = CASES[case]()
    engine = build(proto, profiles=profiles, precision=precision)
    limit = 1e-5 if precision == "fp32" else 3e-2
    for batch, extent in [*SIZES, *reversed(SIZES)]:
        inputs = inputs_of(batch, extent)
        got, want = engine.run(inputs), small_models.expected(proto, inputs)
        assert got.keys() == want.keys()
        for name, array in want.items():
            assert got[name].shape == array.shape
            allowed = limit * max(1.0, float(np.abs(array).max()))
            assert np.abs(got[name] - array).max() <= allowed, (name, batch, extent)


def test_default_batch_is_1_to_32() -> None:
    engine = build(small_models.convolutions())
    assert engine.ranges == {"N": (1, 1, 32)}
    assert engine(floats(32, 3, 12, 12)).shape == (32, 10)
    with pytest.raises(InputError, match="32"):
        engine(floats(33, 3, 12, 12))


@pytest.mark.parametrize("shape", [(9, 16), (1, 65), (0, 16), (1, 0)])
def test_sizes_outside_the_profile(shape: tuple[int, int]) -> None:
    proto, profiles, _ = CASES["transformer"]()
    engine = build(proto, profiles=profiles)
    with pytest.raises(InputError) as caught:
        engine.run({"ids": np.zeros(shape, np.int64)})
    assert "64" in str(caught.value) or "8" in str(caught.value)


def test_a_profile_of_one_shape_makes_the_extents_constant() -> None:
    proto, _, _ = CASES["transformer"]()
    engine = build(proto, profiles={"ids": Profile((2, 16), (2, 16), (2, 16))})
    assert engine.ranges == {}
    assert engine.outputs[0].shape == (2, 16, 32)
    inputs = {"ids": GENERATOR.integers(0, 50, (2, 16))}
    np.testing.assert_allclose(
        engine.run(inputs)["y"], small_models.expected(proto, inputs)["y"], atol=2e-5
    )
