"""An operand's memory on the host: laid out as its strides and halo say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from planish.ir.shape import evaluate
from planish.tactics.tactic import Operand

Array = np.ndarray[Any, Any]
SLACK = 1024
POISON = 0xA5


class Placed:
    """Bytes around an operand, and the operand as a view of them.

    Attributes
    ----------
    raw : array of uint8
        All memory, zeros at first.
    view : array
        The operand's elements.
    offset : int
        Bytes from the start of `raw` to the operand's first element.
    """

    def __init__(self, operand: Operand, sizes: Mapping[str, int]) -> None:
        dtype = operand.dtype.numpy
        size = [evaluate(dim, sizes) for dim in operand.shape]
        steps = [evaluate(dim, sizes) for dim in operand.strides]
        before = sum(step * halo[0] for step, halo in zip(steps, operand.halo, strict=True))
        after = sum(
            step * (extent - 1 + halo[1])
            for step, extent, halo in zip(steps, size, operand.halo, strict=True)
        )
        self.raw = np.zeros((before + after + 1) * dtype.itemsize + SLACK, np.uint8)
        self.offset = before * dtype.itemsize
        strides = [step * dtype.itemsize for step in steps]
        self.view: Array = np.ndarray(size, dtype, self.raw.data, self.offset, strides)
