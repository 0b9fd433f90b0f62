"""Candidate blockings of an AMX kernel, the best guess first, from a small model of the core.

A step of a block of m x n tiles costs the longer of its products (each a cycle for every row of the
larger of its two operands) and its tile loads. The constants were fitted to an Emerald Rapids core
(benchmarks/results). What is in L1 follows from the order of the loops: "n" keeps a panel of
weights there if it fits, "m" a block of the input. 2 x 2 loads four tiles for four products, 4 x 1
and 1 x 4 five: they pay where 2 x 2 would leave rows or columns empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from planish.backends.cpu.codegen.amx_plan import (
    LANES,
    TILE_ROWS,
    AmxBlocking,
    Lines,
    Registers,
    Steps,
    can_be_flat,
    lines_of,
    steps_of,
)
from planish.backends.cpu.codegen.blocking import extent_at
from planish.backends.cpu.codegen.gemm_problem import Problem
from planish.backends.cpu.codegen.packing import Columns, split_columns
from planish.tactics.target import Target

SHAPES = ((2, 2), (4, 1), (1, 4), (3, 1), (1, 6), (2, 1), (1, 2), (1, 1))
L1_LINES = 2.0  # cache lines a cycle
L2_LEFT, L2_RIGHT = 0.65, 0.8  # of the input (rows apart), of the weights (in one piece)
L3_LINES = 0.15
LONG_SHAPE = 1.08  # what 4 x 1 and 1 x 4 cost more than their loads explain
STREAMED = 64 << 10  # bytes of weights that are not in L2 when their turn comes again
EXPOSED = 1.0  # of the time that such weights take from L3 the order "m" has to wait
SCATTERED = 1.5  # what results cost more where each panel writes pieces of a plane beyond L2
BLOCK_CYCLES = 50.0  # call, zeroing, storing, filling and draining the pipeline
VECTOR_CYCLES = 3.0  # finishing 16 columns of a row
BYTES_CYCLES = 4.5  # the same where sums are scaled, rounded and saturated
FOREIGN = 4.0  # what a byte from another core's cache costs, against one of weights
ITEM_CYCLES = 10_000.0  # items shorter than this are not worth handing out


@dataclass(frozen=True)
class _Guess:
    """One shape of blocks in one loop order, and its modelled cycles."""

    blocking: AmxBlocking
    lines: Lines
    columns: Columns
    cycles: float


def candidate_amx_blockings(
    problem: Problem, target: Target, bindings: Mapping[str, int]
) -> list[AmxBlocking]:
    """Return blockings worth timing, the best guess first.

    Parameters
    ----------
    problem : Problem
        One that `print_amx` can do.
    target : Target
        Cache sizes and threads.
    bindings : dict
        Symbols at the extents to tune for.
    """
    model = _Model(problem, target, dict(bindings))
    guesses = sorted(model.guesses(), key=lambda guess: guess.cycles)
    best: dict[tuple[int, int], _Guess] = {}
    for guess in guesses:
        best.setdefault((guess.blocking.rows, guess.blocking.vectors), guess)
    ranked = list(best.values())
    found: dict[AmxBlocking, None] = {model.spread(ranked[0]): None}
    for other in model.variations(ranked[0], guesses):
        found.setdefault(other)
    for guess in ranked[1:3]:
        if guess.cycles > 1.6 * ranked[0].cycles:
            break
        for blocking in _simple_variations(guess.blocking):
            found.setdefault(model.spread(replace(guess, blocking=blocking)))
    return list(found)


def _simple_variations(base: AmxBlocking) -> list[AmxBlocking]:
    other = "m" if base.order == "n" else "n"
    return [base, replace(base, order=other, stream=0)]


@dataclass
class _Model:
    problem: Problem
    target: Target
    bindings: dict[str, int]

    @property
    def steps(self) -> Steps:
        run = self.problem.run
        found = steps_of(run, self.problem.kind) if isinstance(run, int) else None
        if found is None:
            raise ValueError(f"a run of {run} has no steps")
        return found

    @property
    def total_steps(self) -> int:
        return self.steps.count * self.taps

    @property
    def taps(self) -> int:
        total = 1
        for count, _ in self.problem.loops:
            total *= count
        return total

    @property
    def step_bytes(self) -> int:
        """Bytes of K that a step takes of one row."""
        return self.steps.size * self.problem.kind.dtype.itemsize

    def columns(self, vectors: int) -> Columns:
        return split_columns(extent_at(self.problem.columns, self.bindings), LANES, vectors)

    def panel_bytes(self, columns: Columns) -> int:
        return self.total_steps * columns.vectors * LANES * self.step_bytes

    def weight_bytes(self, columns: Columns) -> int:
        return self.panel_bytes(columns) // columns.vectors * (columns.padded // LANES)

    # -- guesses ---------------------------------------------------------------------------------

    def guesses(self) -> list[_Guess]:
        """Return every shape that makes sense, both ways over lines, in both orders."""
        found: dict[tuple[object, ...], _Guess] = {}
        for rows, vectors in SHAPES:
            columns = self.columns(vectors)
            if columns.vectors < vectors or not Registers(rows, vectors).fits:
                continue
            for flat in (True, False) if can_be_flat(self.problem) else (False,):
                lines = lines_of(self.problem, rows, flat)
                if rows > 1 and extent_at(lines.tiles, self.bindings) < rows:
                    continue
                for order in "nm":
                    guess = self.guess(AmxBlocking(rows, vectors, order, flat=flat), lines, columns)
                    found.setdefault((rows, vectors, flat, order), guess)
        return list(found.values())

    def guess(self, blocking: AmxBlocking, lines: Lines, columns: Columns) -> _Guess:
        rows, vectors = blocking.rows, blocking.vectors
        blocks = extent_at(lines.blocks(rows), self.bindings)
        height = lines.rows or -(-extent_at(lines.extent, self.bindings) // max(blocks * rows, 1))
        row_bytes = self.total_steps * self.step_bytes // self.overlap
        block_bytes, panel = rows * height * row_bytes, self.panel_bytes(columns)
        half, large = self.target.l1 // 2, self.target.l2 * 3 // 4
        plane = blocks * block_bytes
        if blocking.order == "n":
            left_near, right_near = plane <= half, panel <= half and blocks > 1
        else:
            many = columns.panels > 1
            left_near, right_near = block_bytes <= half and many, self.weight_bytes(columns) <= half
        left, right = rows * height, vectors * self.step_bytes / 4
        # what the inner loop walks through comes from L3 each time where it exceeds L2
        left_far = blocking.order == "n" and columns.panels > 1 and plane > large
        loads = left / (L1_LINES if left_near else L3_LINES if left_far else L2_LEFT)
        right_far = blocking.order == "m" and blocks > 1 and self.weight_bytes(columns) > large
        loads += right / (L1_LINES if right_near else L3_LINES if right_far else L2_RIGHT)
        groups = self.steps.size // self.problem.kind.group
        compute = self.total_steps * max(rows * vectors * max(height, groups), loads)
        cycles = BYTES_CYCLES if self.problem.kind.is_integer else VECTOR_CYCLES
        finish = rows * height * vectors * cycles
        if blocking.order == "n" and blocks * rows * height * columns.padded * 2 > large:
            finish *= SCATTERED
        each = max(compute, finish) + 0.25 * min(compute, finish) + BLOCK_CYCLES
        each *= LONG_SHAPE if max(rows, vectors) > 3 else 1
        share = columns.padded / LANES / vectors  # narrow panels cost less
        weights = self.weight_bytes(columns)
        fetches = blocking.order == "n" and blocks > 2 and weights > STREAMED
        late = blocking.order == "m" and weights > STREAMED
        waiting = EXPOSED * weights / 64 / L3_LINES if late else 0.0
        guess = _Guess(blocking, lines, columns, blocks * share * each + waiting)
        chosen = replace(blocking, stream=self.stream_of(guess) if fetches else 0)
        return replace(guess, blocking=chosen)

    @property
    def overlap(self) -> int:
        """Rows that share one input element."""
        size = self.problem.run if isinstance(self.problem.run, int) else 1
        step = self.problem.x.strides[0]
        within = size // step if isinstance(step, int) and 0 < step <= size else 1
        return max(1, self.taps * within)

    # -- variations ------------------------------------------------------------------------------

    def variations(self, best: _Guess, guesses: list[_Guess]) -> list[AmxBlocking]:
        """Return what else to try with the best shape."""
        base = best.blocking
        other = "m" if base.order == "n" else "n"
        tried = [
            replace(base, order=other, stream=0 if other == "m" else self.stream_of(best)),
            replace(base, interleave=False),
        ]
        if base.order == "n":
            tried.append(replace(base, stream=0 if base.stream else self.stream_of(best)))
            tried.append(replace(base, prefetch=2, stream=0))
        depth = self.depth_of(best)
        if depth:
            tried.append(replace(base, order="n", depth=depth, stream=0))
        result = [self.spread(replace(best, blocking=blocking)) for blocking in tried]
        for guess in guesses:
            turned = guess.blocking
            same = (turned.rows, turned.vectors, turned.order) == (
                base.rows, base.vectors, base.order)  # fmt: skip
            if same and turned.flat != base.flat and guess.cycles < 1.3 * best.cycles:
                result.append(self.spread(guess))
        return result

    def stream_of(self, guess: _Guess) -> int:
        """Return how many lines of the next panel a K step has to fetch."""
        blocks = extent_at(guess.lines.blocks(guess.blocking.rows), self.bindings)
        lines = guess.columns.vectors * self.steps.size // self.problem.kind.group
        return -(-lines // max(blocks, 1))

    def depth_of(self, guess: _Guess) -> int:
        """Return into how many parts K has to be cut for L1, or 0 where that does not help."""
        blocks = extent_at(guess.lines.blocks(guess.blocking.rows), self.bindings)
        wanted = -(-self.panel_bytes(guess.columns) // (self.target.l1 // 2))
        if wanted < 2 or blocks < 3:
            return 0
        if self.problem.loops:
            return self.problem.loops[0][0]
        if self.steps.overlaps:
            return 0
        fitting = [n for n in range(wanted, self.steps.count) if self.steps.count % n == 0]
        return fitting[0] if fitting and fitting[0] <= 3 * wanted else 0

    def shares_rows(self, guess: _Guess, blocks: int) -> bool:
        """Whether threads take rows of their own, not columns.

        They then find what they read where the same rows of the step before were written, in their
        own cache, but every thread reads all weights.
        """
        threads = self.target.threads
        if threads == 1 or 1.2 * blocks < threads * -(-blocks // threads):
            return False
        height = guess.lines.rows or TILE_ROWS
        rows = blocks * guess.blocking.rows * height
        plane = rows * self.total_steps * self.step_bytes // self.overlap
        return FOREIGN * plane > self.weight_bytes(guess.columns)

    # -- items -----------------------------------------------------------------------------------

    def spread(self, guess: _Guess) -> AmxBlocking:
        """Return the guess's blocking with items that the threads can share evenly."""
        blocking, columns = guess.blocking, guess.columns
        images = 1
        for axis in self.problem.outer:
            images *= extent_at(axis.extent, self.bindings)
        static = guess.lines.blocks(blocking.rows)
        blocks = max(1, extent_at(static, self.bindings))
        block, panels = blocks, columns.panels if blocking.order == "m" else 1
        if blocking.depth:
            block = min(blocks, 32)
        if blocking.order == "n" and images == 1 and self.shares_rows(guess, blocks):
            block = -(-blocks // self.target.threads)
        each = guess.cycles / (blocks * columns.panels)
        wanted = 1 if self.target.threads == 1 else self.target.threads * 4
        for _ in range(24):
            items = images * -(-blocks // block) * -(-columns.panels // panels)
            short = block * panels * each < 2 * ITEM_CYCLES
            if items >= wanted or (short and items >= self.target.threads):
                break
            if block > 1 and (blocking.order == "m" or panels == 1):
                block = -(-block // 2)
            elif panels > 1:
                panels = -(-panels // 2)
            else:
                break
        whole = block == blocks and not (blocking.depth and not isinstance(static, int))
        return replace(blocking, blocks=0 if whole else block, panels=panels)
