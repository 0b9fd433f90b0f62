"""The error function, which numpy lacks, vectorised in float64.

W. J. Cody, "Rational Chebyshev approximations for the error function", Mathematics of Computation
23 (1969): three intervals of |x|, relative error below 1e-15 in each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planish.ops.op import Array

SMALL, LARGE = 0.46875, 4.0
BLOCK = 1 << 14  # elements at a time, so that intermediates stay in the cache

# numerator and denominator, each in the order that `_ratio` consumes them
NEAR = (
    (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
     3.20937758913846947e3),
    (2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)  # fmt: skip
MIDDLE = (
    (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
     2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
     1.23033935479799725e3),
    (1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
     3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3),
)  # fmt: skip
FAR = (
    (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1,
     1.25781726111229246e-1, 1.60837851487422766e-2, 6.58749161529837803e-4),
    (2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1,
     6.05183413124413191e-2, 2.33520497626869185e-3),
)  # fmt: skip


def erf(x: Array) -> Array:
    """Return the error function of `x` in the type of `x`, computed in float64."""
    flat = np.ravel(x)
    result = np.empty_like(flat)
    for start in range(0, flat.size, BLOCK):
        part = slice(start, start + BLOCK)
        result[part] = _erf(flat[part].astype(np.float64))
    return result.reshape(x.shape)


def _erf(x: Array) -> Array:
    size = np.abs(x)
    near = np.minimum(size, SMALL)
    result = near * _ratio(near * near, *NEAR)
    middle = np.flatnonzero((size > SMALL) & (size <= LARGE))
    y = size[middle]
    result[middle] = 1 - np.exp(-y * y) * _ratio(y, *MIDDLE)
    far = np.flatnonzero(size > LARGE)
    y = np.minimum(size[far], 30.0)
    z = 1 / (y * y)
    result[far] = 1 - np.exp(-y * y) * (1 / np.sqrt(np.pi) - z * _ratio(z, *FAR)) / y
    return np.where(np.isnan(x), x, np.copysign(result, x))


def _ratio(z: Array, numerator: Sequence[float], denominator: Sequence[float]) -> Array:
    """Return a quotient of polynomials: leading coefficient first, the denominator's is 1."""
    top, bottom = numerator[0] * z, z.copy()
    for a, b in zip(numerator[1:-1], denominator[:-1], strict=True):
        top += a
        top *= z
        bottom += b
        bottom *= z
    top += numerator[-1]
    bottom += denominator[-1]
    return np.asarray(top / bottom)
