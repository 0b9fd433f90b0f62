"""Weights in the order in which GEMM tiles read them.

A matrix [K, N] becomes column panels: all panels but the last few have `wide` vectors of `lanes`
columns, the rest one vector fewer, so that no panel is nearly empty (`split_columns`). Within a
panel the layout is [K / group][vectors * lanes][group]: one step of the K loop reads
`vectors` consecutive registers. K consists of *runs* (contiguous in the other operand); each run is
padded with zeros to whole groups, N to whole vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.backends.cpu.codegen.element import ElementKind

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Columns:
    """How N columns are cut: first `wide` panels of `vectors`, then `narrow` of one less.

    Attributes
    ----------
    count : int
        Columns (N).
    lanes : int
        Columns of a vector.
    vectors : int
        Vectors of a wide panel.
    wide, narrow : int
        Panels of each kind.
    """

    count: int
    lanes: int
    vectors: int
    wide: int
    narrow: int

    @property
    def panels(self) -> int:
        """Number of panels."""
        return self.wide + self.narrow

    @property
    def padded(self) -> int:
        """Columns rounded up to whole vectors."""
        return (self.wide * self.vectors + self.narrow * (self.vectors - 1)) * self.lanes

    @property
    def remainder(self) -> int:
        """Columns of the last vector (`lanes` when it is full)."""
        return self.count - (self.padded - self.lanes)

    def first_column(self, panel: int) -> int:
        """Return the first column of `panel`."""
        return (panel * self.vectors - max(panel - self.wide, 0)) * self.lanes


def split_columns(count: int, lanes: int, vectors: int) -> Columns:
    """Return panels of at most `vectors` vectors, as even as possible."""
    total = -(-count // lanes)
    panels = -(-total // vectors)
    high = -(-total // panels)
    narrow = panels * high - total
    return Columns(count, lanes, high, panels - narrow, narrow)


def pack_matrix(matrix: Array, run: int, columns: Columns, kind: ElementKind) -> Array:
    """Return `matrix` [..., K, N] as panels; leading axes (groups, batches) stay outermost.

    Parameters
    ----------
    matrix : numpy.ndarray
        Any float type; converted to the kind's type (round to nearest even). For bytes, integers
        that fit.
    run : int
        Length of the contiguous runs that K consists of.
    columns : Columns
        The panels; `columns.count` is N.
    kind : ElementKind
        Type and group of the packed elements.

    Returns
    -------
    numpy.ndarray
        Shape [..., elements of all panels], `kind.dtype`.
    """
    *leading, depth, _ = matrix.shape
    runs, padded_run = depth // run, kind.padded(run)
    data = np.zeros((*leading, runs, padded_run, columns.padded), kind.dtype.numpy)
    data[..., :run, : columns.count] = matrix.reshape(*leading, runs, run, columns.count)
    data = data.reshape(*leading, runs * padded_run // kind.group, kind.group, columns.padded)
    data = np.swapaxes(data, -1, -2)  # [..., K / group, N, group]
    panels = []
    for panel in range(columns.panels):
        low, high = columns.first_column(panel), columns.first_column(panel + 1)
        panels.append(data[..., low:high, :].reshape(*leading, -1))
    return np.ascontiguousarray(np.concatenate(panels, axis=-1))


def pack_columns(vector: Array, columns: Columns) -> Array:
    """Return per-column values [..., N] as f32 or i32, padded with zeros to whole vectors."""
    dtype = np.int32 if vector.dtype.kind == "i" else np.float32
    packed = np.zeros((*vector.shape[:-1], columns.padded), dtype)
    packed[..., : columns.count] = vector
    return packed
