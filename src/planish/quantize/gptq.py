"""GPTQ: rounding a row of weights changes the rows behind it so that the output stays close.

E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh: "GPTQ: Accurate Post-Training Quantization for
Generative Pre-trained Transformers", ICLR 2023 (arXiv 2210.17323), Algorithm 1, for weights [K, N]
whose rows are the inputs. With H = X'X of the layer's inputs X and U the upper Cholesky factor of
its inverse, row k is rounded, and its error e = (w - q) / U[k,k] is taken off the rows behind it:
w[j] -= U[k,j] e. Rows are done in blocks, so that most of the work is a matrix product. Scales of a
group are found when its first row is reached, from rows that earlier errors have changed already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.quantize.group_scales import Grid, GroupedWeights, grouped

Array = np.ndarray[Any, Any]

BLOCK = 128  # rows whose errors are applied to the rest at once
DAMPING = (0.01, 0.1, 1.0)  # shares of the mean of the diagonal that are added to it


@dataclass(frozen=True)
class Hessian:
    """Second moments of a layer's inputs: the mean of x x' over all rows x, f64 [K, K]."""

    moments: Array

    def error(self, difference: Array) -> float:
        """Return the mean squared norm of x' `difference` [K, N] over the inputs x."""
        wide = difference.astype(np.float64)
        return float(np.einsum("kn,kn->", wide, self.moments @ wide))


def quantize_by_hessian(weights: Array, grid: Grid, hessian: Hessian) -> GroupedWeights | None:
    """Return `weights` [K, N] rounded by GPTQ; None where the moments have no inverse."""
    factor = _inverse_factor(hessian.moments)
    if factor is None:
        return None
    left = weights.astype(np.float64)
    numbers = np.empty(weights.shape, np.int16)
    scales: list[Array] = []
    zeros: list[Array] = []
    depth = len(weights)
    for first in range(0, depth, BLOCK):
        last = min(first + BLOCK, depth)
        errors = np.empty((last - first, weights.shape[1]))
        for k in range(first, last):
            if k % grid.group == 0:
                rows = _as_left(left, errors, factor, first, k, min(k + grid.group, depth), last)
                scale, zero = grid.parameters(rows)
                scales.append(scale)
                zeros.append(zero)
            numbers[k] = grid.numbers(left[k], scales[-1], zeros[-1])
            real = (numbers[k] - zeros[-1]) * scales[-1].astype(np.float64)
            error = (left[k] - real) / factor[k, k]
            left[k + 1 : last] -= factor[k, k + 1 : last, None] * error
            errors[k - first] = error
        left[last:] -= factor[first:last, last:].T @ errors
    return grouped(grid, numbers, scales, zeros)


def _as_left(
    left: Array, errors: Array, factor: Array, first: int, k: int, end: int, last: int
) -> Array:
    """Return rows k to `end` with the errors so far, also behind the block [first, last)."""
    if end <= last:
        return left[k:end]
    behind = left[last:end] - factor[first:k, last:end].T @ errors[: k - first]
    return np.concatenate([left[k:last], behind])


def _inverse_factor(moments: Array) -> Array | None:
    """Return upper U with U'U the inverse of the damped moments; None where there is none."""
    diagonal = np.diag(moments)
    mean = float(diagonal.mean())
    if not mean > 0 or not np.isfinite(moments).all():
        return None
    for damping in DAMPING:
        damped = moments.copy()
        damped[np.diag_indices_from(damped)] += damping * mean
        try:
            inverse = np.linalg.inv(np.linalg.cholesky(damped))
            return np.asarray(np.linalg.cholesky(inverse.T @ inverse).T)
        except np.linalg.LinAlgError:
            continue
    return None
