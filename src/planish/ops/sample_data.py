"""Small seeded arrays for operators' samples."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def floats(
    *shape: int,
    low: float = -3.0,
    high: float = 3.0,
    dtype: np.typing.DTypeLike = np.float32,
    seed: int = 0,
) -> Array:
    """Return uniform values in [low, high)."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(dtype)


def whole(
    *shape: int,
    low: int = -9,
    high: int = 10,
    dtype: np.typing.DTypeLike = np.int64,
    seed: int = 0,
) -> Array:
    """Return uniform whole numbers in [low, high)."""
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def truths(*shape: int, seed: int = 0) -> Array:
    """Return random booleans."""
    return np.random.default_rng(seed).integers(0, 2, shape).astype(np.bool_)


def indices(*items: int) -> Array:
    """Return a one-dimensional int64 array (axes, shapes, sizes)."""
    return np.array(items, dtype=np.int64)


def f32(items: object) -> Array:
    """Return a float32 array of the nested numbers `items`."""
    return np.array(items, dtype=np.float32)
