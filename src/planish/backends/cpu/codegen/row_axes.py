"""The rows of an implicit GEMM: which axes they span, and how a tile covers them.

A row of the product is one output position (a pixel, a token). Row axes are the output's axes other
than the column (channel) axis; neighbouring axes over which every operand's addresses advance
evenly are merged, so that a 1x1 convolution over [N,H,W] becomes one long axis. The last axis is
`x`, the one before it `y` when it is static; all others are looped over outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planish.ir.shape import Dim, ceildiv

SMALL_AXIS = 8  # an inner axis shorter than this is merged even with a dynamic outer one


@dataclass(frozen=True)
class Axis:
    """One row axis.

    Attributes
    ----------
    extent : Dim
        Positions along it.
    strides : tuple of Dim
        Elements from one position to the next, one for each memory access of the kernel (the
        multiplied input first).
    own_weights : bool
        Whether every position has its own weight matrix and bias (groups, constant batches).
    """

    extent: Dim
    strides: tuple[Dim, ...]
    own_weights: bool = False


def merge_axes(axes: Sequence[Axis]) -> list[Axis]:
    """Return `axes` without those of extent 1, neighbours merged where all strides allow it."""
    merged: list[Axis] = []
    for axis in axes:
        if axis.extent == 1:
            continue
        if merged and _mergeable(merged[-1], axis):
            merged[-1] = Axis(merged[-1].extent * axis.extent, axis.strides)
            continue
        merged.append(axis)
    if not merged or merged[-1].own_weights:
        merged.append(Axis(1, (0,) * len(axes[0].strides)))
    return merged


def _mergeable(outer: Axis, inner: Axis) -> bool:
    if outer.own_weights or inner.own_weights:
        return False
    if not isinstance(outer.extent, int) and isinstance(inner.extent, int):
        # full static tiles an image are better than run-time remainders, unless they are tiny
        small = inner.extent < SMALL_AXIS
        if not small:
            return False
    return all(a == b * inner.extent for a, b in zip(outer.strides, inner.strides, strict=True))


@dataclass(frozen=True)
class Tiling:
    """How tiles cover the (y, x) plane.

    Static planes have tiles of `height` rows of y by a part of x (`parts` parts; the first `extra`
    of them hold `base` + 1 positions, the others `base`), the last tile in y may be lower. With a
    dynamic x, tiles hold `base` positions and the last one is done in pieces of `pieces`.
    """

    y: int
    x: Dim
    height: int
    parts: int
    base: int
    extra: int
    pieces: tuple[int, ...] = ()

    @property
    def is_dynamic(self) -> bool:
        """Whether the extent of x is known only at run time."""
        return not isinstance(self.x, int)

    @property
    def count(self) -> Dim:
        """Number of tiles."""
        if self.is_dynamic:
            return ceildiv(self.x, self.base)
        return -(-self.y // self.height) * self.parts

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Distinct (height, width) of tiles, the largest first."""
        if self.is_dynamic:
            return [(1, self.base), *((1, piece) for piece in self.pieces)]
        heights = [self.height] if self.y >= self.height else []
        if self.y % self.height:
            heights.append(self.y % self.height)
        widths = [self.base + 1] if self.extra else []
        widths += [self.base] if self.extra < self.parts else []
        return [(height, width) for height in heights for width in widths]

    @property
    def rows(self) -> int:
        """Rows of the largest tile."""
        return max(height * width for height, width in self.shapes)


def tile_rows(y: int, x: Dim, limit: int, stackable: bool = True) -> Tiling:
    """Return the tiling of a plane with at most `limit` rows in a tile.

    Parameters
    ----------
    y, x : Dim
        Extents of the plane; `y` is 1 when `x` is dynamic.
    limit : int
        Most rows of a tile.
    stackable : bool
        Whether a tile may span several rows of y (all of its row offsets are constants).
    """
    if not isinstance(x, int):
        pieces, piece = [], limit // 2
        while piece:
            pieces.append(piece)
            piece //= 2
        return Tiling(1, x, 1, 1, limit, 0, tuple(pieces))
    if x > limit or not stackable:
        parts = -(-x // limit)
        return Tiling(y, x, 1, parts, x // parts, x % parts)
    # balance the chunks of y as well: 7 lines in tiles of at most 4 are 4 + 3
    chunks = -(-y // max(limit // x, 1))
    return Tiling(y, x, -(-y // chunks), 1, x, 0)
