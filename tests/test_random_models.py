"""Random models through the whole build, between pages that nobody may touch."""

from __future__ import annotations

import numpy as np
import pytest

import planish
from planish import BuildConfig, Profile
from tests import small_models
from tests.guarded import Guarded
from tests.random_models import BATCH, RandomModel

TOLERANCE = {"fp32": 2e-4, "bf16": 0.25}  # of the largest element; bf16 adds up over the layers
STATIC = [(2, 5)]
DYNAMIC = [(2, 5), (1, 1), (4, 9), (3, 2)]  # batches and sequence lengths


def _profiles(model: RandomModel) -> dict[str, Profile]:
    def shape(dims: tuple[int | str, ...], batch: int, sequence: int) -> tuple[int, ...]:
        return tuple(
            dim if isinstance(dim, int) else batch if dim == BATCH else sequence for dim in dims
        )

    return {
        name: Profile(shape(dims, 1, 1), shape(dims, 2, 5), shape(dims, 4, 9))
        for name, dims in model.inputs.items()
    }


def check(seed: int, dynamic: bool, precision: str) -> None:
    """Build the model of `seed` and compare it with ONNX's reference on guarded inputs."""
    model = RandomModel(seed, 8 + seed % 20, dynamic=dynamic)
    proto = model.proto()
    profiles = _profiles(model) if dynamic else {}
    threads = 1 + (seed + dynamic) % 2
    config = BuildConfig(tune="off", threads=threads, precision=precision, profiles=profiles)
    engine = planish.build(proto, config)
    for batch, sequence in DYNAMIC if dynamic else STATIC:
        guarded = Guarded()
        feeds = {
            name: guarded.copy(array, at_end=batch % 2 == 0)
            for name, array in model.feeds(batch, sequence, seed).items()
        }
        outputs = engine.run(feeds)
        for name, expected in small_models.expected(proto, feeds).items():
            assert outputs[name].shape == expected.shape
            scale = max(1.0, np.abs(expected).max(initial=0))
            error = np.abs(outputs[name].astype(np.float64) - expected).max(initial=0) / scale
            assert error <= TOLERANCE[precision], f"{name} at batch {batch}: {error:.2g}"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("seed", [3, 35, 129, 146])
def test_a_random_model_matches_the_reference(seed: int, dynamic: bool, precision: str) -> None:
    check(seed, dynamic, precision)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 160))
def test_more_random_models_match_the_reference(seed: int) -> None:
    for dynamic in (False, True):
        for precision in TOLERANCE:
            check(seed, dynamic, precision)
