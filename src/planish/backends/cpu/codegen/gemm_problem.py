"""What a GEMM kernel computes (`Problem`) and how it is blocked (`Blocking`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from planish.backends.cpu.codegen.element import ElementKind, VectorUnit
from planish.backends.cpu.codegen.epilogue import Epilogue
from planish.backends.cpu.codegen.packing import Columns, split_columns
from planish.backends.cpu.codegen.row_axes import Axis, Tiling, tile_rows
from planish.ir.dtypes import DType
from planish.ir.shape import Dim, ceildiv, evaluate


@dataclass(frozen=True)
class Blocking:
    """The tunable part of a GEMM kernel.

    Attributes
    ----------
    rows, vectors : int
        Limits of a tile.
    order : str
        "n" or "m": what the outer loop walks.
    tiles, panels : int
        Tiles and panels of an item (0: all).
    depth : int
        Longest run of K; a longer one becomes a loop of shorter ones (0: as it is).
    hoist : int
        K loops around the tile loop.
    prefetch : int
        K steps ahead at which packed weights are prefetched.
    ahead : bool
        Whether an item's tiles prefetch the next panel into L2 while they use this one.
    """

    rows: int
    vectors: int
    order: str = "n"
    tiles: int = 0
    panels: int = 1
    depth: int = 0
    hoist: int = 0
    prefetch: int = 0
    ahead: bool = False

    @staticmethod
    def of(config: Mapping[str, Any]) -> Blocking:
        """Read the entries of a tactic's configuration that are a blocking's."""
        names = Blocking.__dataclass_fields__
        return Blocking(**{key: value for key, value in config.items() if key in names})

    def as_config(self) -> dict[str, Any]:
        """Return the fields as a printable configuration."""
        return {name: getattr(self, name) for name in Blocking.__dataclass_fields__}


@dataclass(frozen=True)
class RightOperand:
    """A second operand that is no constant: every item packs its panels into scratch first.

    Attributes
    ----------
    pointer : int
        Index into the kernel's pointers.
    dtype : DType
        Element type in memory.
    row, column : Dim
        Strides along K and N, in elements; one of them is 1.
    outer : tuple of Dim
        Strides along the axes around the tiles (`Problem.outer`).
    """

    pointer: int
    dtype: DType
    row: Dim
    column: Dim
    outer: tuple[Dim, ...]


@dataclass(frozen=True)
class RowClip:
    """Which iterations of the first K loop see more than padding, by the position in y.

    Iteration t of position y reads input line ``y * stride + t * dilation - pad`` of `extent`.
    """

    stride: int
    dilation: int
    pad: int
    extent: int

    def bounds(self, y: int, count: int) -> tuple[int, int]:
        """Return the first iteration, and the one behind the last."""
        low = max(0, -(-(self.pad - y * self.stride) // self.dilation))
        high = min(count, (self.extent - 1 + self.pad - y * self.stride) // self.dilation + 1)
        return low, high

    def is_useful(self, positions: int, count: int) -> bool:
        """Whether iterations can be left out, and every position keeps at least one."""
        bounds = [self.bounds(y, count) for y in range(positions)]
        return any(b != (0, count) for b in bounds) and all(low < high for low, high in bounds)


@dataclass(frozen=True)
class Problem:
    """One GEMM, everything but the blocking.

    Attributes
    ----------
    unit, kind : VectorUnit, ElementKind
        What it is computed with.
    symbols : tuple of str
        Symbols in the order of the kernel's `d`.
    axes : tuple of Axis
        Row axes after `merge_axes`; strides[0] is the input's, the others the epilogue's accesses'.
    columns : Dim
        N (of one group); symbolic only with a `right` operand.
    loops : tuple of (int, Dim)
        Outer K loops: count, stride in the input.
    run : Dim
        Innermost contiguous K elements; symbolic only with a `right` operand.
    epilogue : Epilogue
    input_offset : Dim
        Elements from the input's pointer to the first row's first tap (negative into the halo).
    input_pointer : int
        Index into the kernel's pointers.
    weight_pointer, bias_pointer : int or None
        Packed weights and bias.
    right : RightOperand or None
        Instead of packed weights.
    clip : RowClip or None
        Lets tiles of one line of y leave out iterations of the first K loop.
    """

    unit: VectorUnit
    kind: ElementKind
    symbols: tuple[str, ...]
    axes: tuple[Axis, ...]
    columns: Dim
    loops: tuple[tuple[int, Dim], ...]
    run: Dim
    epilogue: Epilogue
    input_offset: Dim
    input_pointer: int
    weight_pointer: int | None
    bias_pointer: int | None
    right: RightOperand | None = None
    clip: RowClip | None = None

    @property
    def lanes(self) -> int:
        """Columns of a vector."""
        return self.unit.lanes // self.kind.fold

    @property
    def depth(self) -> Dim:
        """K in packed elements."""
        group = self.kind.group
        total = ceildiv(self.run, group) * group
        for count, _ in self.loops:
            total = total * count
        return total

    def overwrites(self, inputs: int) -> tuple[int, ...]:
        """Return which of so many inputs are read only where the one result is written.

        A kernel that finishes every element once may write it over such an input (`Kernel`).
        """
        if len(self.epilogue.writes) != 1:
            return ()
        ((_, write),) = self.epilogue.writes
        same = [a.pointer for _, a in self.epilogue.reads if a.strides == write.strides]
        return tuple(place for place in same if place < inputs and place != self.input_pointer)

    @property
    def x(self) -> Axis:
        """The innermost row axis."""
        return self.axes[-1]

    @property
    def y(self) -> Axis | None:
        """The axis around `x` when a tile may span it."""
        if len(self.axes) < 2 or not isinstance(self.x.extent, int):
            return None
        axis = self.axes[-2]
        return axis if isinstance(axis.extent, int) and not axis.own_weights else None

    @property
    def outer(self) -> tuple[Axis, ...]:
        """Axes that the kernel loops over outside of tiles."""
        return self.axes[: len(self.axes) - (1 if self.y is None else 2)]

    def tiling(self, rows: int) -> Tiling:
        """Return how tiles of at most `rows` rows cover the plane of y and x."""
        y = self.y
        if y is None:
            return tile_rows(1, self.x.extent, rows)
        stackable = all(isinstance(stride, int) for stride in y.strides)
        extent = y.extent
        return tile_rows(extent if isinstance(extent, int) else 1, self.x.extent, rows, stackable)

    def with_short_runs(self, limit: int) -> Problem:
        """Return this problem with the run cut into equal parts of at most `limit`, if it can be.

        The packed weights stay the same: parts are whole groups.
        """
        group = self.kind.group
        if not isinstance(self.run, int) or not limit or self.run <= limit or self.run % group:
            return self
        parts = -(-self.run // limit)
        while self.run % (parts * group):
            parts += 1
        run = self.run // parts
        return replace(self, loops=(*self.loops, (parts, run)), run=run)

    def column_split(self, vectors: int, bindings: Mapping[str, int] | None = None) -> Columns:
        """Return the panels for at most `vectors` vectors.

        With symbolic columns these are the panels of the extents in `bindings`, or of one panel.
        """
        if isinstance(self.columns, int):
            return split_columns(self.columns, self.lanes, vectors)
        if bindings is None:
            return Columns(vectors * self.lanes, self.lanes, vectors, 1, 0)
        return split_columns(evaluate(self.columns, bindings), self.lanes, vectors)
