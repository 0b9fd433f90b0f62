"""Depthwise convolution of bytes: how taps become dot products.

Four taps of a filter column (four input rows) lie in the four bytes of a lane, one channel a lane:
`gather_rows` of integer.h brings 16 channels of up to four rows together, and each such column of
pixels is multiplied once for every output pixel that it reaches, by the weights of another filter
column. A filter of 3 rows takes one dot product where floats take three, one of 5 rows two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.backends.cpu.codegen.element import ElementKind, VectorUnit
from planish.ops.convolution import Window

GROUP = 4  # rows of a filter in one lane
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ByteTaps:
    """The taps of the last two axes of a window (a line has one row).

    Attributes
    ----------
    unit, kind : VectorUnit, ElementKind
    window : Window
    padded : int
        Channels rounded up to whole vectors.
    """

    unit: VectorUnit
    kind: ElementKind
    window: Window
    padded: int

    @property
    def rows(self) -> int:
        """Rows of the filter."""
        return self.window.kernel[-2] if len(self.window.kernel) > 1 else 1

    @property
    def groups(self) -> int:
        """Groups of four rows."""
        return -(-self.rows // GROUP)

    def pack(self, weights: Array) -> Array:
        """Return filters [channels, *kernel] as [outer taps][group][column][channel][4 rows]."""
        channels, columns = len(weights), self.window.kernel[-1]
        filters = weights.reshape(channels, -1, self.rows, columns)
        shape = (filters.shape[1], self.groups * GROUP, columns, self.padded)
        packed = np.zeros(shape, np.int8)
        packed[:, : self.rows, :, :channels] = filters.transpose(1, 2, 3, 0)
        grouped = packed.reshape(-1, self.groups, GROUP, columns, self.padded)
        return np.ascontiguousarray(grouped.transpose(0, 1, 3, 4, 2))

    def print_products(self, width: int, pointer: str, weights: str, steps: list[str]) -> list[str]:
        """Return the statements that add the products of a tile of `width` pixels to ``a<x>``.

        `pointer` and `weights` are C names of the first pixel and the filters; `steps` are the
        bytes from one row, and from one pixel, to the next. Free C variable: ``part``.
        """
        v, lanes, columns = self.unit.prefix, self.unit.lanes, self.window.kernel[-1]
        lines = []
        for group in range(self.groups):
            rows = min(GROUP, self.rows - group * GROUP)
            lines.append("{")
            for k in range(columns):
                offset = (group * columns + k) * self.padded * GROUP
                lines.append(f"const {v}i f{k} = {v}_load_quads({weights} + {offset});")
            for column, products in sorted(self._uses(width).items()):
                start = f"{pointer} + {group * GROUP} * {steps[0]} + {column} * {steps[1]}"
                call = f"{v}_gather_rows({start}, {steps[0]}, {rows}, part == {lanes} ? -1 : part)"
                gathered = f"{v}_flipped({call})" if self.kind.flips else call
                lines.append(f"{{ const {v}i x = {gathered};")
                lines += [f"a{x} = {v}_dot_quads(x, f{k}, a{x});" for x, k in products]
                lines.append("}")
            lines.append("}")
        return lines

    def _uses(self, width: int) -> dict[int, list[tuple[int, int]]]:
        """Return which (pixel, filter column) pairs each column of input pixels belongs to."""
        step, dilation = self.window.strides[-1], self.window.dilations[-1]
        uses: dict[int, list[tuple[int, int]]] = {}
        for x in range(width):
            for k in range(self.window.kernel[-1]):
                uses.setdefault(x * step + k * dilation, []).append((x, k))
        return uses
