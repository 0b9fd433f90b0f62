"""The one tolerance table: how far a result may be from numpy's, by element type.

A float tensor agrees when ``|got - expected| <= atol * scale + rtol * |expected|`` holds for every
element. ``scale`` is the largest finite magnitude in `expected`, at least 1: errors of a sum are
relative to its terms, not to what cancellation leaves of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.ir.dtypes import BF16, F8E4M3, F8E5M2, F16, F32, F64, DType

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Tolerance:
    """Allowed error: absolute (in units of the tensor's magnitude) and relative an element."""

    atol: float
    rtol: float


EXACT = Tolerance(0.0, 0.0)

TOLERANCES: dict[DType, Tolerance] = {
    F64: Tolerance(1e-9, 1e-8),
    F32: Tolerance(1e-5, 1e-4),
    F16: Tolerance(2e-3, 4e-3),
    BF16: Tolerance(1e-2, 1.6e-2),
    F8E4M3: Tolerance(2e-3, 0.13),
    F8E5M2: Tolerance(2e-3, 0.26),
}


def tolerance_of(dtype: DType) -> Tolerance:
    """Return the tolerance for `dtype`; everything but floats must agree exactly."""
    return TOLERANCES.get(dtype, EXACT)


def mismatch(got: Array, expected: Array, tolerance: Tolerance) -> str | None:
    """Return what differs between two tensors, or None where they agree.

    Parameters
    ----------
    got, expected : numpy.ndarray
        Compared by shape and contents, not by dtype: compare the dtypes first where they matter.
        NaN agrees with NaN, an infinity with itself.
    tolerance : Tolerance
        Usually `tolerance_of` of the coarsest type that took part.
    """
    if got.shape != expected.shape:
        return f"shape is {got.shape}, expected {expected.shape}"
    if got.size == 0:
        return None
    if expected.dtype.kind in "OUSb":
        wrong = np.asarray(got != expected)
        return f"{int(wrong.sum())} of {wrong.size} elements differ" if wrong.any() else None
    a, b = _widened(got), _widened(expected)
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.abs(b[np.isfinite(b)])
        scale = max(1.0, float(finite.max(initial=0.0)))
        error = np.abs(a - b)
        allowed = tolerance.atol * scale + tolerance.rtol * np.abs(b)
        agree = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.isfinite(b) & (error <= allowed))
    if agree.all():
        return None
    worst = int(np.argmax(np.where(agree, -1.0, np.where(np.isfinite(error), error, np.inf))))
    index = tuple(int(i) for i in np.unravel_index(worst, got.shape))
    return (
        f"{int((~agree).sum())} of {agree.size} elements differ; worst at {index}: "
        f"got {a.reshape(-1)[worst]}, expected {b.reshape(-1)[worst]} (scale {scale:.4g})"
    )


def _widened(array: Array) -> Array:
    """Return `array` in a type that subtracts without loss (64-bit integers beyond 2**53 round)."""
    if np.iscomplexobj(array):
        return array.astype(np.complex128)
    return array.astype(np.longdouble if array.dtype.itemsize == 8 else np.float64)
