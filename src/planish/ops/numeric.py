"""Numerical helpers that several operator families share: wide arithmetic and sample arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from planish.ir.dtypes import BF16, F16, F32, DType, dtype_of
from planish.ir.shape import Dim
from planish.ops.op import Array


def widen(array: Array) -> Array:
    """Return floats narrower than 32 bits as float32, everything else unchanged.

    References accumulate in float32 at least, as kernels do, and round once at the end.
    """
    dtype = dtype_of(array)
    return array.astype(np.float32) if dtype.is_float and dtype.bits < 32 else array


def narrow(array: Array, like: Array) -> Array:
    """Return `array` in the element type of `like`, contiguous."""
    return np.asarray(array, dtype=like.dtype, order="C")


def wide_dtype(dtype: DType) -> DType:
    """Return the type that `widen` computes `dtype` in."""
    return F32 if dtype in (F16, BF16) else dtype


def required(inputs: Sequence[Array | None], index: int) -> Array:
    """Return input `index`, which the operator declares as not optional."""
    array = optional(inputs, index)
    if array is None:
        raise ValueError(f"input {index} is required and absent")
    return array


def optional(inputs: Sequence[Array | None], index: int) -> Array | None:
    """Return input `index`, or None where it is absent or not given."""
    return inputs[index] if index < len(inputs) else None


def plain(dims: Iterable[Dim]) -> tuple[int, ...]:
    """Return extents as numbers; raise TypeError where one is symbolic."""
    numbers = tuple(dims)
    for dim in numbers:
        if not isinstance(dim, int):
            raise TypeError(f"the extent {dim} is symbolic")
    return numbers  # type: ignore[return-value]  # checked above


def random_array(seed: int, *shape: int, dtype: Any = np.float32) -> Array:
    """Return a reproducible array of standard normal numbers."""
    numbers = np.random.default_rng(seed).standard_normal(shape)
    return np.asarray(numbers, dtype=dtype)


def positive_array(seed: int, *shape: int, dtype: Any = np.float32) -> Array:
    """Return a reproducible array of numbers between 0.5 and 1.5."""
    numbers = np.random.default_rng(seed).random(shape) + 0.5
    return np.asarray(numbers, dtype=dtype)
