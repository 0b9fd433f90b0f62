"""How well an output agrees with float32's: sums over its elements, and what follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass
class Agreement:
    """Sums over the elements of one output: of squares, and of products with float32's.

    Elements that are masked in float32 (infinite or no number) are left out.

    Attributes
    ----------
    signal, noise, own, product : float
        Sums of squares of float32's elements, of the differences, of the elements compared, and
        of products of the two.
    largest, error : float
        Largest magnitude in float32, and of a difference.
    """

    signal: float = 0.0
    noise: float = 0.0
    own: float = 0.0
    product: float = 0.0
    largest: float = 0.0
    error: float = 0.0

    def add(self, want: Array, got: Array) -> None:
        """Take in `want`, from float32, and `got`: arrays of one shape."""
        counted = np.isfinite(want)
        a, b = want[counted].astype(np.float64), got[counted].astype(np.float64)
        if not a.size:
            return
        difference = a - b
        self.signal += float(a @ a)
        self.noise += float(difference @ difference)
        self.own += float(b @ b)
        self.product += float(a @ b)
        self.largest = max(self.largest, float(np.abs(a).max()))
        worst = float(np.abs(difference).max())
        self.error = math.inf if math.isnan(worst) else max(self.error, worst)

    @property
    def decibels(self) -> float:
        """Signal-to-noise ratio; infinite without any noise."""
        if not math.isfinite(self.noise):
            return -math.inf
        if not self.noise:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two as vectors."""
        if not math.isfinite(self.noise):
            return 0.0
        length = math.sqrt(self.signal) * math.sqrt(self.own)
        return self.product / length if length else float(self.signal == self.own)

    @property
    def relative_error(self) -> float:
        """Largest difference, as a share of the largest magnitude in float32."""
        if not self.error:
            return 0.0
        return self.error / self.largest if self.largest else math.inf
