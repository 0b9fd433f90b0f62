"""The part of a report about weights that are stored in few bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CompressedLayer:
    """A layer whose weights were quantized while its data stay floating point.

    Attributes
    ----------
    name : str
        The user's name of the layer.
    shape : tuple of int
        Rows and columns of its weights.
    bits, group : int
        Of a number; rows that share a scale (0: one scale a column, or a row of a table).
    method : str
        "round" or "gptq".
    decibels : float
        Signal-to-noise ratio of the weights.
    """

    name: str
    shape: tuple[int, int]
    bits: int
    group: int
    method: str
    decibels: float

    def line(self) -> str:
        """Return the layer as a line of text."""
        scales = f"in groups of {self.group}" if self.group else "with a scale a channel"
        noise = "exact" if math.isinf(self.decibels) else f"{self.decibels:.1f} dB"
        rows, columns = self.shape
        return (
            f"  {self.name}: {rows} x {columns}, {self.bits} bits {scales}, {self.method}, {noise}"
        )


def compressed_lines(layers: Sequence[CompressedLayer]) -> list[str]:
    """Return the lines of a report."""
    if not layers:
        return []
    return [
        "weights in few bits (signal-to-noise ratio of the weights):",
        *(layer.line() for layer in layers),
    ]
