"""Transformation matrices of Winograd convolution F(m, r) in one dimension.

    y = A^T [ (G g) * (B^T d) ]        m outputs from m + r - 1 inputs with m + r - 1 products

after A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks" (2015); constructed
by Toom-Cook interpolation at small rational points and infinity (R. Blahut, "Fast Algorithms for
Signal Processing"), exactly, in fractions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

Matrix = tuple[tuple[Fraction, ...], ...]

# Finite points for F(2, 3) and F(4, 3). One half beside two keeps the largest entries of B^T and
# A^T apart: half the error of (0, 1, -1, 2, -2), after B. Barabasz et al., "Error Analysis and
# Improving the Accuracy of Winograd Convolution for Deep Neural Networks" (2020).
POINTS = {
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(-2)),
}


@dataclass(frozen=True)
class Transforms:
    """Matrices of F(m, r), n = m + r - 1: output [m, n], filter [n, r], input [n, n]."""

    output: Matrix
    filter: Matrix
    input: Matrix


def transforms(m: int, r: int = 3) -> Transforms:
    """Return the matrices of F(m, r) for the points in `POINTS`."""
    points = POINTS[m]
    n = m + r - 1
    scales = [_product(p - q for q in points if q != p) for p in points]
    output = [[p**row for p in points] + [Fraction(row == m - 1)] for row in range(m)]
    filters = [[p**column / scale for column in range(r)]
               for p, scale in zip(points, scales, strict=True)]  # fmt: skip
    filters.append([Fraction(column == r - 1) for column in range(r)])
    inputs = [_roots([q for q in points if q != p], n) for p in points]
    inputs.append(_roots(list(points), n))
    return Transforms(_frozen(output), _frozen(filters), _frozen(inputs))


def transform_filters(filters: np.ndarray, m: int) -> np.ndarray:
    """Return G g G^T of `filters` [K, C, 3, 3] as float32 [n, n, C, K], computed in float64."""
    g = np.array([[float(x) for x in row] for row in transforms(m).filter])
    # one product with G (x) G: einsum over the four axes takes ten times as long
    taps = filters.astype(np.float64).transpose(2, 3, 1, 0).reshape(9, -1)
    product = (np.kron(g, g) @ taps).astype(np.float32)
    return product.reshape(len(g), len(g), filters.shape[1], filters.shape[0])


def _product(factors: Iterable[Fraction]) -> Fraction:
    total = Fraction(1)
    for factor in factors:
        total *= factor
    return total


def _roots(points: Sequence[Fraction], length: int) -> list[Fraction]:
    """Return the coefficients, lowest power first, of the polynomial with these roots."""
    polynomial = [Fraction(1)]
    for point in points:
        shifted = [Fraction(0), *polynomial]
        for power, coefficient in enumerate(polynomial):
            shifted[power] -= point * coefficient
        polynomial = shifted
    return polynomial + [Fraction(0)] * (length - len(polynomial))


def _frozen(rows: Sequence[Sequence[Fraction]]) -> Matrix:
    return tuple(tuple(row) for row in rows)
