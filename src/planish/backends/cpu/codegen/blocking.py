"""Candidate blockings of a GEMM, the best guess first, from a small model of the core.

A K step of a tile of r rows and v vectors takes max(r*v/2, (r+v)/2, latency) cycles on a core with
two FMA and two load ports; a tile adds a constant. That ranks the tile shapes by how well they
divide the rows and columns at hand. The order of the loops follows from what fits which cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from planish.backends.cpu.codegen.gemm_problem import Blocking, Problem
from planish.backends.cpu.codegen.packing import Columns
from planish.backends.cpu.codegen.row_axes import Tiling
from planish.backends.cpu.codegen.tile import MINIMUM_CHAINS
from planish.ir.shape import Dim, evaluate
from planish.tactics.target import Target

# (rows, vectors) that leave room for the weights' registers and one broadcast
WIDE_SHAPES = (
    (12, 2),
    (14, 2),
    (8, 3),
    (9, 3),
    (6, 4),
    (7, 3),
    (8, 2),
    (16, 1),
    (4, 6),
    (2, 8),
    (1, 8),
)
NARROW_SHAPES = ((6, 2), (4, 3), (5, 2), (12, 1), (3, 3), (2, 4), (1, 6))
FOLDED_SHAPES = ((12, 1), (8, 1), (16, 1), (14, 1))
TILE_CYCLES = 30.0  # call, address arithmetic, first loads
CELL_CYCLES = 1.2  # start and finish of one accumulator
BYTES_CYCLES = 3.0  # the same where sums are scaled, rounded and saturated
L2_LOAD_CYCLES = 0.1  # what a load of weights costs beyond its slot when a panel exceeds L1
L1_BYTES = 32 << 10
SHAPES_TRIED = 4
ITEM_CYCLES = 40_000  # items shorter than this are not worth handing out


@dataclass(frozen=True)
class _Candidate:
    rows: int
    vectors: int
    tiling: Tiling
    cycles: float


def candidate_blockings(
    problem: Problem, target: Target, bindings: dict[str, int]
) -> list[Blocking]:
    """Return blockings worth timing, the best guess first.

    Parameters
    ----------
    problem : Problem
    target : Target
        Cache sizes and threads.
    bindings : dict
        Symbols at the extents to tune for.
    """
    shapes: Sequence[tuple[int, int]] = FOLDED_SHAPES
    if problem.kind.fold == 1:
        shapes = WIDE_SHAPES if problem.unit.lanes == 16 else NARROW_SHAPES
    found: dict[tuple[object, ...], _Candidate] = {}
    for rows, vectors in shapes:
        tiling = problem.tiling(rows)
        columns = problem.column_split(vectors, bindings)
        key = (tuple(tiling.shapes), columns.vectors, columns.narrow)
        cycles = _cycles(problem, tiling, vectors, bindings)
        if key not in found or cycles < found[key].cycles:
            found[key] = _Candidate(rows, vectors, tiling, cycles)
    ranked = sorted(found.values(), key=lambda candidate: candidate.cycles)[:SHAPES_TRIED]
    result: dict[Blocking, None] = {}
    for candidate in ranked:
        result.setdefault(_arrange(problem, candidate, target, bindings))
    for other in _variations(problem, ranked[0], target, bindings):
        result.setdefault(other)
    return list(result)


def _cycles(problem: Problem, tiling: Tiling, vectors: int, bindings: dict[str, int]) -> float:
    """Return the modelled cycles of one plane."""
    columns = problem.column_split(vectors, bindings)
    steps = extent_at(problem.depth, bindings) / problem.kind.group
    panel = steps * columns.vectors * problem.unit.lanes * 4
    finish = BYTES_CYCLES if problem.kind.is_integer else CELL_CYCLES
    far = L2_LOAD_CYCLES if panel > L1_BYTES else 0.0
    total = 0.0
    for count, height, width in _tile_counts(tiling, bindings):
        for panels, wide in (
            (columns.wide, columns.vectors),
            (columns.narrow, columns.vectors - 1),
        ):
            cells = height * width * wide
            if not panels or not wide:
                continue
            chains = min(4, MINIMUM_CHAINS // cells) or 1
            step = max(cells / 2, (height * width + wide) / 2, 4.0 / chains)
            # many rows at the same cache set evict each other
            step *= 1.04 if height * width > 12 else 1.0
            step += far * wide
            total += count * panels * (steps * step + TILE_CYCLES + finish * cells)
    return total


def _tile_counts(tiling: Tiling, bindings: dict[str, int]) -> list[tuple[int, int, int]]:
    """Return (how many, height, width) of the plane's tiles."""
    if tiling.is_dynamic:
        rows = extent_at(tiling.x, bindings)
        counts, left = [(rows // tiling.base, 1, tiling.base)], rows % tiling.base
        for piece in tiling.pieces:
            counts.append((left // piece, 1, piece))
            left %= piece
        return counts
    full, low = divmod(tiling.y, tiling.height)
    counts = []
    for chunks, height in ((full, tiling.height), (1 if low else 0, low)):
        counts.append((chunks * tiling.extra, height, tiling.base + 1))
        counts.append((chunks * (tiling.parts - tiling.extra), height, tiling.base))
    return [entry for entry in counts if entry[0] and entry[1]]


def fold_columns(problem: Problem) -> Problem:
    """Return `problem` with as many lanes a column as shorten its K loop, if columns are few."""
    kind, unit = problem.kind, problem.unit
    if unit.lanes != 16 or problem.right is not None or kind.input_ctype != kind.ctype:
        return problem
    if kind.is_integer:
        return problem
    if not isinstance(problem.columns, int) or not isinstance(problem.run, int):
        return problem
    best, fold = problem, 2
    while problem.columns * fold <= unit.lanes:
        folded = replace(problem, kind=kind.folded(fold))
        if _steps(folded) * 1.3 < _steps(best):
            best = folded
        fold *= 2
    return best


def _steps(problem: Problem) -> float:
    return extent_at(problem.depth, {}) / problem.kind.group


def extent_at(dim: Dim, bindings: dict[str, int]) -> int:
    """Return an extent at the shapes to tune for."""
    return dim if isinstance(dim, int) else evaluate(dim, bindings)


def _arrange(
    problem: Problem, candidate: _Candidate, target: Target, bindings: dict[str, int]
) -> Blocking:
    """Return the loop order and the sizes of items for one tile shape."""
    itemsize = problem.kind.dtype.itemsize
    columns = problem.column_split(candidate.vectors, bindings)
    depth = extent_at(problem.depth, bindings)
    weights = depth * columns.padded * itemsize
    tiles = extent_at(candidate.tiling.count, bindings)
    row_bytes = max(depth // _overlap(problem), 1) * itemsize
    tile_bytes = candidate.tiling.rows * row_bytes
    blocking = Blocking(candidate.rows, candidate.vectors)
    if problem.right is not None:
        # panels are packed by the item that uses them: all tiles of a plane belong to one item
        return _spread_panels(problem, Blocking(candidate.rows, candidate.vectors), columns, target)
    if problem.kind.fold > 1 or (weights <= target.l2 // 2 and tiles > 1):
        block = max(1, min(tiles, target.l1 // 2 // max(tile_bytes, 1)))
        blocking = replace(blocking, order="m", tiles=block, panels=0)
        return _spread(problem, blocking, candidate, target, bindings)
    blocking = _stream(problem, blocking, candidate, target, bindings)
    if not blocking.hoist:
        block = max(1, min(tiles, target.l2 // 2 // max(tile_bytes, 1)))
        blocking = replace(blocking, tiles=0 if block >= tiles else block)
    return _spread(problem, blocking, candidate, target, bindings)


def _stream(
    problem: Problem,
    blocking: Blocking,
    candidate: _Candidate,
    target: Target,
    bindings: dict[str, int],
) -> Blocking:
    """Return `blocking` for weights that come from memory: read once, ahead of their use.

    Measured with cold weights: prefetching the next panel from all tiles of the current one lifts
    the late layers of ResNet-50 (49 pixels) from 83 to 95 % of the FMA peak; a panel that takes
    more than a third of L2 leaves no room for the next one and is cut along K.
    """
    if extent_at(candidate.tiling.count, bindings) == 1:
        return replace(blocking, order="n", panels=1, prefetch=16)
    blocking = replace(blocking, order="n", panels=1, ahead=True)
    columns = problem.column_split(candidate.vectors, bindings)
    depth = extent_at(problem.depth, bindings)
    panel = depth * columns.vectors * problem.unit.lanes * problem.kind.dtype.itemsize
    if panel <= target.l2 // 3:
        return blocking
    if problem.loops:
        return replace(blocking, hoist=1)
    return replace(blocking, depth=512, hoist=1)


def _spread_panels(
    problem: Problem, blocking: Blocking, columns: Columns, target: Target
) -> Blocking:
    """Return `blocking` for a right operand: as few items as the threads need."""
    static = [axis.extent for axis in problem.outer if isinstance(axis.extent, int)]
    batch = math.prod(static)
    tiles = 1 << 20  # all
    if batch >= 2 * target.threads:
        return replace(blocking, tiles=tiles, panels=columns.panels)
    panels = max(1, columns.panels // (2 * target.threads))
    return replace(blocking, tiles=tiles, panels=panels)


def _overlap(problem: Problem) -> int:
    """Return how many rows share one input element (taps over stride)."""
    taps = 1
    for count, _ in problem.loops:
        taps *= count
    return taps


def _spread(
    problem: Problem,
    blocking: Blocking,
    candidate: _Candidate,
    target: Target,
    bindings: dict[str, int],
) -> Blocking:
    """Return `blocking` with items that threads can share evenly."""
    if target.threads == 1:
        return blocking
    images = 1
    for axis in problem.outer:
        images *= extent_at(axis.extent, bindings)
    columns = problem.column_split(candidate.vectors, bindings)
    tiles = extent_at(candidate.tiling.count, bindings)
    wanted = target.threads * 4
    for _ in range(16):
        block = min(blocking.tiles or tiles, tiles)
        panels = min(blocking.panels or columns.panels, columns.panels)
        items = images * -(-tiles // block) * -(-columns.panels // panels)
        short = images * candidate.cycles / max(items, 1) < ITEM_CYCLES / 4
        if items >= wanted or (short and items >= target.threads):
            break
        if panels > 1:
            blocking = replace(blocking, panels=-(-panels // 2))
        elif block > 1:
            blocking = replace(blocking, tiles=-(-block // 2))
        else:
            break
    return blocking


def _variations(
    problem: Problem, candidate: _Candidate, target: Target, bindings: dict[str, int]
) -> Sequence[Blocking]:
    """Return other loop orders, prefetch distances and K blockings for one tile shape."""
    base = _arrange(problem, candidate, target, bindings)
    if problem.right is not None or problem.kind.fold > 1:
        return []
    tiles = extent_at(candidate.tiling.count, bindings)
    variations = [replace(base, ahead=not base.ahead), replace(base, prefetch=8)]
    if base.order == "m":
        other = replace(base, order="n", tiles=0, panels=1, ahead=True)
        variations += [other, replace(base, tiles=max(1, base.tiles * 4))]
        return [_spread(problem, entry, candidate, target, bindings) for entry in variations]
    variations.append(replace(base, order="m", tiles=min(8, tiles), panels=0, hoist=0, depth=0))
    if base.hoist:
        variations.append(replace(base, hoist=0, depth=0))
    elif problem.loops:
        variations.append(replace(base, hoist=1, tiles=0))
    elif isinstance(problem.run, int) and problem.run >= 1024:
        variations.append(replace(base, depth=512, hoist=1, tiles=0))
    return [_spread(problem, entry, candidate, target, bindings) for entry in variations]
