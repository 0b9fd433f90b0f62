"""Numbers of few bits for a matrix of weights, with a scale for each group of rows and column."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SMALLEST_HALF = 2.0**-14  # the smallest f16 with all of its bits


@dataclass(frozen=True)
class Grid:
    """Which numbers weights become: `bits` bits, a scale for `group` rows, perhaps a zero point."""

    bits: int
    group: int
    symmetric: bool

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest number."""
        if not self.symmetric:
            return 0, 2**self.bits - 1
        return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1

    def parameters(self, rows: Array) -> tuple[Array, Array]:
        """Return the scales and zero points (0 where symmetric) of one group, [K, N] to [N].

        All of the group's weights are in range; scales are numbers that f16 holds exactly, unless
        they are too small for it.
        """
        low = np.minimum(rows.min(axis=0), 0).astype(np.float64)
        high = np.maximum(rows.max(axis=0), 0).astype(np.float64)
        first, last = self.limits
        scale = (high - low) / (last - first)
        if self.symmetric:
            scale = np.maximum(high / last, low / first)
        scale = _rounded(np.where(scale > 0, scale, 1.0))
        if self.symmetric:
            return scale, np.zeros(scale.shape, np.int16)
        zero = np.clip(np.rint(-low / scale), first, last)
        return scale, np.asarray(zero, np.int16)

    def numbers(self, rows: Array, scale: Array, zero: Array) -> Array:
        """Return the nearest numbers, as i16."""
        found = np.rint(rows / scale) + zero
        return np.asarray(np.clip(found, *self.limits), np.int16)


@dataclass(frozen=True)
class GroupedWeights:
    """A quantized matrix.

    Attributes
    ----------
    grid : Grid
    numbers : numpy.ndarray
        i16 [K, N].
    scales : numpy.ndarray
        f32 [groups, N].
    zeros : numpy.ndarray or None
        i16 [groups, N]; None where symmetric.
    """

    grid: Grid
    numbers: Array
    scales: Array
    zeros: Array | None

    def real(self) -> Array:
        """Return the matrix that it stands for, f32."""
        group, depth = self.grid.group, len(self.numbers)
        scales = np.repeat(self.scales, group, axis=0)[:depth]
        if self.zeros is None:
            return np.asarray(self.numbers * scales)
        zeros = np.repeat(self.zeros, group, axis=0)[:depth]
        return np.asarray((self.numbers - zeros) * scales)


def round_to_nearest(weights: Array, grid: Grid) -> GroupedWeights:
    """Return `weights` [K, N] with every number the nearest."""
    numbers = np.empty(weights.shape, np.int16)
    scales, zeros = [], []
    for first in range(0, len(weights), grid.group):
        rows = weights[first : first + grid.group]
        scale, zero = grid.parameters(rows)
        numbers[first : first + grid.group] = grid.numbers(rows, scale, zero)
        scales.append(scale)
        zeros.append(zero)
    return grouped(grid, numbers, scales, zeros)


def grouped(grid: Grid, numbers: Array, scales: list[Array], zeros: list[Array]) -> GroupedWeights:
    """Return a matrix from the parameters of its groups."""
    offsets = None if grid.symmetric else np.stack(zeros)
    return GroupedWeights(grid, numbers, np.stack(scales).astype(np.float32), offsets)


def signal_to_noise(exact: Array, rounded: Array) -> float:
    """Return the decibels by which `exact` is louder than its error."""
    noise = float(np.square(exact - rounded, dtype=np.float64).sum())
    signal = float(np.square(exact, dtype=np.float64).sum())
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def _rounded(scale: Array) -> Array:
    """Return f32 scales, rounded to f16 where all of them are large enough for that."""
    if scale.min() < SMALLEST_HALF or scale.max() > np.finfo(np.float16).max:
        return scale.astype(np.float32)
    return scale.astype(np.float16).astype(np.float32)
