"""How an implicit GEMM is cut for AMX: tiles of rows, steps of K, panels of columns, blockings.

A tile register holds 16 rows of 64 bytes, so one step multiplies up to 16 rows by 16 columns over
up to 32 bf16 (64 8-bit) elements of K.

*Steps.* A contiguous run of K is cut into equal steps where that takes no more steps than full ones
would (48 channels are 2 x 24); otherwise the last full step overlaps the one before it, and its
weights are zero where elements were taken already. So a tile never reads an element outside of its
run, which could be a NaN that a weight of zero does not silence. What differs from other kernels:
an infinite input becomes a NaN when it lies in an overlap.

*Rows.* All tile registers of a kernel have one number of rows, the most even one. The last tile
starts early enough to stay inside and skips the rows that its neighbour did already.
Two-dimensional planes are walked line by line or *flat*: with the halo between lines as if it were
data, whose results are dropped (7 x 7 pixels are 61 positions = 4 tiles instead of 7).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planish.backends.cpu.codegen.element import ElementKind
from planish.backends.cpu.codegen.gemm_problem import Problem
from planish.backends.cpu.codegen.packing import Columns
from planish.ir.shape import Dim, ceildiv

REGISTERS = 8
TILE_ROWS = 16
LANES = 16  # 32-bit columns of a tile
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class AmxBlocking:
    """The tunable part of an AMX kernel.

    Attributes
    ----------
    rows, vectors : int
        Accumulator tiles of a block, in rows and in columns.
    order : str
        "n": weights in the outer loop (read once), "m": the input in the outer loop.
    blocks, panels : int
        Blocks of rows and panels of columns of an item (0: all).
    flat : bool
        Whether lines are walked as one, halo included.
    interleave : bool
        Whether the epilogue of a block runs between the products of the next one.
    prefetch, ahead : int
        K steps ahead at which weights are prefetched into L1, into L2 (0: not).
    stream : int
        Cache lines of the next panel that are prefetched into L2 at every K step (0: none): the
        blocks of an item share the fetching of a panel.
    depth : int
        Into how many parts K is cut: a part of a panel then stays in L1 while all blocks of the
        item accumulate through memory (0: not cut).
    """

    rows: int
    vectors: int
    order: str = "n"
    blocks: int = 0
    panels: int = 1
    flat: bool = False
    interleave: bool = True
    prefetch: int = 0
    ahead: int = 0
    depth: int = 0
    stream: int = 0

    @staticmethod
    def of(config: Mapping[str, Any]) -> AmxBlocking:
        """Read a tactic's configuration."""
        names = AmxBlocking.__dataclass_fields__
        return AmxBlocking(**{key: value for key, value in config.items() if key in names})

    def as_config(self) -> dict[str, Any]:
        """Return the fields as a printable configuration."""
        return {name: getattr(self, name) for name in AmxBlocking.__dataclass_fields__}


@dataclass(frozen=True)
class Registers:
    """Which tile registers hold what.

    The smaller side of a block stays in registers during a step, tiles of the other one pass
    through the registers that are left.
    """

    rows: int
    vectors: int

    @property
    def accumulators(self) -> int:
        """Number of accumulators; they come first."""
        return self.rows * self.vectors

    @property
    def holds_left(self) -> bool:
        """Whether the input's tiles stay while the weights' pass through."""
        return self.rows <= self.vectors

    @property
    def left(self) -> int:
        """Registers of the input's tiles."""
        free = REGISTERS - self.accumulators
        return self.rows if self.holds_left else min(self.rows, free - self.vectors)

    @property
    def right(self) -> int:
        """Registers of the weights' tiles."""
        free = REGISTERS - self.accumulators
        return min(self.vectors, free - self.rows) if self.holds_left else self.vectors

    @property
    def fits(self) -> bool:
        """Whether eight registers are enough."""
        return self.accumulators < REGISTERS and self.left > 0 and self.right > 0


@dataclass(frozen=True)
class Steps:
    """How a run of K is cut: `count` steps of `size` elements, the last one ending at `run`."""

    run: int
    count: int
    size: int

    @property
    def overlaps(self) -> bool:
        """Whether the last step reads elements that the one before it read."""
        return self.count * self.size != self.run


def unfolded(problem: Problem) -> Problem:
    """Return `problem` with one lane a column, which is how tiles lie."""
    return replace(problem, kind=problem.kind.folded(1))


def steps_of(run: int, kind: ElementKind) -> Steps | None:
    """Return the steps of a run, or None for a short run that does not consist of whole groups."""
    full = TILE_ROWS * kind.group
    count = -(-run // full)
    if run % (count * kind.group) == 0:
        return Steps(run, count, run // count)
    return Steps(run, count, full) if run >= full else None


@dataclass(frozen=True)
class Lines:
    """How tiles cover the plane of rows.

    Attributes
    ----------
    extent : Dim
        Positions of a line.
    lines : int
        Lines; a tile never spans two.
    rows : int or None
        Rows of a tile; None where it is known at run time.
    parts : Dim
        Tiles of a line (with run-time rows: a multiple of the block's, some may be empty).
    pitch : int
        Position = y * pitch + x; 0 where positions are x.
    width : int
        Positions of a pitch that are output positions.
    """

    extent: Dim
    lines: int
    rows: int | None
    parts: Dim
    pitch: int
    width: int

    @property
    def tiles(self) -> Dim:
        """Tiles of the plane."""
        return self.parts * self.lines

    def blocks(self, rows: int) -> Dim:
        """Return the number of blocks of `rows` tiles."""
        return ceildiv(self.tiles, rows)


def can_be_flat(problem: Problem) -> bool:
    """Whether the positions of the plane, halo included, are evenly spaced in the input."""
    return _pitch_of(problem) > 0


def _pitch_of(problem: Problem) -> int:
    y, x = problem.y, problem.x
    if y is None or not isinstance(x.extent, int):
        return 0
    line, step = y.strides[0], x.strides[0]
    if not isinstance(line, int) or not isinstance(step, int) or step <= 0 or line % step:
        return 0
    return line // step if line // step >= x.extent else 0


def lines_of(problem: Problem, rows: int, flat: bool) -> Lines:
    """Return how tiles, `rows` of them in a block, cover the plane of `problem`."""
    y, x = problem.y, problem.x
    if not isinstance(x.extent, int):
        blocks = ceildiv(x.extent, TILE_ROWS * rows)
        return Lines(x.extent, 1, None, blocks * rows, 0, 0)
    pitch = _pitch_of(problem) if flat else 0
    if y is not None and isinstance(y.extent, int) and not pitch:
        parts = -(-x.extent // TILE_ROWS)
        height = -(-x.extent // parts)
        return Lines(x.extent, y.extent, height, parts, x.extent, x.extent)
    extent = x.extent
    if y is not None and isinstance(y.extent, int):
        extent += (y.extent - 1) * pitch
    blocks = -(-extent // (TILE_ROWS * rows))
    height = -(-extent // (blocks * rows))
    return Lines(extent, 1, height, -(-extent // height), pitch, x.extent)


def pack_tiles(matrix: Array, steps: Steps, columns: Columns, kind: ElementKind) -> Array:
    """Return `matrix` [..., K, N] in panels of tiles: [K step][vector][K / group][lane][group].

    Leading axes stay outermost; within a panel of `columns` come all steps of all runs.
    """
    *leading, depth, _ = matrix.shape
    runs = depth // steps.run
    source = np.zeros((*leading, runs, steps.run, columns.padded), kind.dtype.numpy)
    source[..., : columns.count] = matrix.reshape(*leading, runs, steps.run, columns.count)
    data = np.zeros((*leading, runs, steps.count, steps.size, columns.padded), kind.dtype.numpy)
    for step in range(steps.count):
        low = step * steps.size
        high = min(low + steps.size, steps.run)
        data[..., step, steps.size - (high - low) :, :] = source[..., low:high, :]
    vectors, groups = columns.padded // LANES, steps.size // kind.group
    shape = (*leading, runs * steps.count, groups, kind.group, vectors, LANES)
    data = np.moveaxis(data.reshape(shape), (-2, -4, -1, -3), (-4, -3, -2, -1))
    panels = []
    for panel in range(columns.panels):
        low = columns.first_column(panel) // LANES
        high = columns.first_column(panel + 1) // LANES
        panels.append(data[..., low:high, :, :, :].reshape(*leading, -1))
    return np.ascontiguousarray(np.concatenate(panels, axis=-1))
