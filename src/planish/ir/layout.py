"""Physical arrangement of values: axis order, zero halo, and shared storage.

The graph's *logical* shapes and semantics never change (they stay ONNX's); where a value lies in
memory is an annotation. Two annotations exist, set by the passes of the same names:

- ``Layout`` (assign_layouts): in which order the axes lie and how many zero elements are kept
  around each axis, so that a convolution can read its padding as ordinary memory.
- ``Storage`` (assign_storage): where the value lies inside its root value's memory. A value that
  is its own root owns memory; a view (reshape, transpose, slice, split) or a concat's operand is
  an offset and strides into another value's memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planish.ir.shape import Dim, Shape

if TYPE_CHECKING:
    from planish.ir.graph import Value

Halo = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Layout:
    """Axis order (outermost first) and zero elements kept before and after each logical axis."""

    order: tuple[int, ...]
    halo: Halo

    @staticmethod
    def row_major(rank: int) -> Layout:
        """Return C order without a halo: what every value has unless a pass says otherwise."""
        return Layout(tuple(range(rank)), ((0, 0),) * rank)

    @staticmethod
    def channels_last(rank: int) -> Layout:
        """Return N, spatial..., C order (axis 1 innermost) without a halo."""
        return Layout((0, *range(2, rank), 1), ((0, 0),) * rank)

    @property
    def has_halo(self) -> bool:
        """Whether any axis keeps zero elements."""
        return any(pair != (0, 0) for pair in self.halo)

    def padded(self, shape: Shape) -> Shape:
        """Return extents with the halo included, in logical axis order."""
        return tuple(
            dim + before + after for dim, (before, after) in zip(shape, self.halo, strict=True)
        )

    def strides(self, shape: Shape) -> Shape:
        """Return the stride of each logical axis, in elements."""
        sizes, strides, step = self.padded(shape), list(shape), 1
        running: Dim = step
        for axis in reversed(self.order):
            strides[axis] = running
            running = running * sizes[axis]
        return tuple(strides)

    def origin(self, shape: Shape) -> Dim:
        """Return the offset, in elements, of logical element (0, ..., 0)."""
        offset: Dim = 0
        for stride, (before, _) in zip(self.strides(shape), self.halo, strict=True):
            offset = offset + stride * before
        return offset

    def elements(self, shape: Shape) -> Dim:
        """Return how many elements the memory holds, halo included."""
        total: Dim = 1
        for dim in self.padded(shape):
            total = total * dim
        return total

    def __str__(self) -> str:
        text = "".join("nchwdefg"[axis] if axis < 8 else "?" for axis in self.order)
        if self.has_halo:
            text += "+" + ",".join(f"{before}:{after}" for before, after in self.halo)
        return text


@dataclass(frozen=True)
class Storage:
    """Where a value lies: element (i, j, ...) is at root memory[offset + i*strides[0] + ...].

    Attributes
    ----------
    root : Value
        The value that owns the memory (its storage's root is itself).
    offset : Dim
        Position of logical element (0, ..., 0), in elements of the root's memory.
    strides : Shape
        One stride a logical axis, in elements; 0 on a broadcast axis.
    """

    root: Value
    offset: Dim
    strides: Shape
