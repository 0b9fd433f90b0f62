"""Where an operand of a step that runs from Python lies, as numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.ir.dtypes import dtype_by_name
from planish.plan.plan import Binding, Operand
from planish.runtime.shapes import BoundShapes


@dataclass(frozen=True)
class Span:
    """Extents, type, offset and strides (in bytes) of an operand, without symbols."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    strides: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, int]:
        """First and last byte (not included), counted from `offset`; strides may be negative."""
        if 0 in self.shape:
            return 0, 0
        ends = [(n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True)]
        low = sum(end for end in ends if end < 0)
        return low, sum(end for end in ends if end > 0) + self.dtype.itemsize

    @property
    def is_dense(self) -> bool:
        """Whether the bytes from the first to the last are all its own."""
        low, high = self.reach
        return high - low == math.prod(self.shape) * self.dtype.itemsize


def span_of(binding: Binding, operand: Operand, symbols: BoundShapes) -> Span | None:
    """Return where an operand lies; None when its extents are not known."""
    shape, strides = symbols.sizes(operand.shape), symbols.sizes(operand.strides)
    offset = symbols.sizes((binding.offset,))
    dtype = dtype_by_name(operand.dtype)
    if shape is None or strides is None or offset is None:
        return None
    return Span(shape, dtype.numpy, offset[0], tuple(n * dtype.itemsize for n in strides))
