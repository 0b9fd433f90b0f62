"""How weights of few bits lie in memory, for the loops that decode them (compressed.h).

Columns come in panels of `width` (some vectors); within a panel, all of K. Four bits: one word of
32 bits holds eight K steps of a column, numbers 0..15, steps 0 to 3 in the low halves of its bytes
and 4 to 7 in the high ones (so that a mask gives what a dot product of bytes takes). Eight bits:
signed bytes, one row after the other. Scales and zero points follow the same panels, a row for each
group. K is padded to whole octets and N to whole panels with zeros; scales there are zero as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.passes.compressed import OCTET, Compressed

Array = np.ndarray[Any, Any]

LARGEST_PART = 128  # K steps whose products are summed before zero points are taken off


@dataclass(frozen=True)
class Encoding:
    """What generated code knows about compressed weights.

    Attributes
    ----------
    bits : int
        4 or 8.
    depth, columns, group : int
        K, N, and the rows that share a scale.
    half : bool
        Whether scales are stored as f16 (where that loses nothing), not f32.
    zero : int or None
        The one zero point, in the numbers as they are stored; None where there are many.
    """

    bits: int
    depth: int
    columns: int
    group: int
    half: bool
    zero: int | None

    @property
    def padded(self) -> int:
        """K rounded up to whole octets."""
        return -(-self.depth // OCTET) * OCTET

    @property
    def part(self) -> int:
        """K steps whose products are summed before zero points are taken off."""
        return min(self.group, LARGEST_PART)

    @property
    def parts(self) -> int:
        """Parts of a whole group."""
        return -(-self.group // self.part)

    @property
    def groups(self) -> int:
        """Groups along K."""
        return -(-self.depth // self.group)

    @property
    def ctype(self) -> str:
        """C type of what holds the numbers."""
        return "uint32_t" if self.bits == 4 else "int8_t"

    @property
    def zero_ctype(self) -> str:
        """C type of zero points."""
        return "uint8_t" if self.bits == 4 else "int8_t"

    @property
    def scale_ctype(self) -> str:
        """C type of scales."""
        return "uint16_t" if self.half else "float"

    @property
    def scale_name(self) -> str:
        """Name of that type in C functions."""
        return "f16" if self.half else "f32"

    def row_elements(self, step: int) -> int:
        """Return how many elements a column takes for `step` K steps (whole octets)."""
        return step // OCTET if self.bits == 4 else step


def encoding_of(weights: Compressed, half: bool) -> Encoding:
    """Return how `weights` are encoded; with `half` scales may be stored as f16."""
    depth, columns = weights.numbers.shape
    bits = _bits(weights)
    zeros = weights.zeros + _offset(weights, bits)
    single = bool((zeros == zeros.flat[0]).all())
    halves = half and _fits_half(weights.scales)
    zero = int(zeros.flat[0]) if single else None
    return Encoding(bits, depth, columns, weights.group, halves, zero)


def encode(weights: Compressed, encoding: Encoding, width: int) -> list[Array]:
    """Return numbers, scales and, unless there is one, zero points in panels of `width` columns."""
    offset = _offset(weights, encoding.bits)
    numbers = weights.numbers.astype(np.int8).view(np.uint8) + np.uint8(offset % 256)
    numbers = _in_panels(numbers, encoding.padded, width)  # [panels, K, width]
    stored = numbers.view(np.int8)
    if encoding.bits == 4:
        octets = numbers.reshape(len(numbers), -1, 2, OCTET // 2, width)
        pairs = (octets[:, :, 0] | octets[:, :, 1] << np.uint8(4)).swapaxes(2, 3)  # bytes of words
        stored = np.ascontiguousarray(pairs).view(np.uint32)
    scales = _in_panels(weights.scales, encoding.groups, width)
    arrays = [stored, scales.astype(np.float16 if encoding.half else np.float32)]
    if encoding.zero is None:
        zeros = _in_panels(weights.zeros + np.int16(offset), encoding.groups, width)
        arrays.append(zeros.astype(np.uint8 if encoding.bits == 4 else np.int8))
    return [np.ascontiguousarray(array).reshape(-1) for array in arrays]


def _bits(weights: Compressed) -> int:
    """Return how many bits hold every number and zero point."""
    low, high = (-8, 7) if _is_signed(weights) else (0, 15)
    ends = [weights.zeros.min(), weights.zeros.max()]
    if weights.numbers.dtype.itemsize == 1 and weights.numbers.dtype.kind in "iu":
        ends += [weights.numbers.min(), weights.numbers.max()]
    return 4 if min(ends) >= low and max(ends) <= high else 8


def _is_signed(weights: Compressed) -> bool:
    return weights.numbers.dtype.name in ("int8", "int4")


def _offset(weights: Compressed, bits: int) -> int:
    """Return what is added to numbers as they are stored: four bits unsigned, eight signed."""
    if bits == 4:
        return 8 if _is_signed(weights) else 0
    return 0 if _is_signed(weights) else -128


def _fits_half(scales: Array) -> bool:
    with np.errstate(over="ignore"):
        return bool((scales.astype(np.float16).astype(np.float32) == scales).all())


def _in_panels(matrix: Array, rows: int, width: int) -> Array:
    """Return `matrix` with its columns in panels [panels, rows, width], padded with zeros."""
    panels = -(-matrix.shape[1] // width)
    full = np.zeros((rows, panels * width), matrix.dtype)
    full[: matrix.shape[0], : matrix.shape[1]] = matrix
    return full.reshape(rows, panels, width).swapaxes(0, 1)
