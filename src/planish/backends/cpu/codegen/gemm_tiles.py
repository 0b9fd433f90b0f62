"""The tile functions of a GEMM kernel: start, K loop, and the way to the epilogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from planish.backends.cpu.codegen.epilogue import parameters_of
from planish.backends.cpu.codegen.gemm_problem import Blocking, Problem, RowClip
from planish.backends.cpu.codegen.packing import Columns
from planish.backends.cpu.codegen.row_axes import Tiling
from planish.backends.cpu.codegen.scalar import c_dim
from planish.backends.cpu.codegen.tile import (
    SHORT_RUN,
    KWalk,
    Tile,
    print_accumulate,
    print_block,
)
from planish.ir.shape import Dim, ceildiv, evaluate


@dataclass
class TilePrinter:
    """Sizes of a kernel, and the functions of its tiles; see gemm.py for the structure."""

    problem: Problem
    blocking: Blocking
    largest: Mapping[str, int]
    tiling: Tiling = field(init=False)
    columns: Columns = field(init=False)

    def __post_init__(self) -> None:
        self.tiling = self.problem.tiling(self.blocking.rows)
        self.columns = self.problem.column_split(self.blocking.vectors)

    @property
    def clip(self) -> RowClip | None:
        """The problem's row clip where the tiles allow it."""
        clip, y = self.problem.clip, self.problem.y
        if clip is None or y is None or self.tiling.is_dynamic or self.tiling.height > 1:
            return None
        useful = clip.is_useful(self.tiling.y, self.problem.loops[0][0])
        return clip if useful else None

    # -- sizes -----------------------------------------------------------------------------------

    @property
    def hoisted(self) -> tuple[tuple[int, Dim], ...]:
        """The K loops around the tile loop."""
        return self.problem.loops[: self.blocking.hoist]

    @property
    def masked(self) -> bool:
        """Whether the last vector of a panel may be partly filled."""
        return self.columns.remainder != self.problem.lanes

    @property
    def inline(self) -> bool:
        """Whether the epilogue runs on the accumulators in their registers."""
        # symbolic columns leave any vector of a panel partly filled: only the buffer can do that
        whole = isinstance(self.problem.columns, int) and self.problem.kind.fold == 1
        return self.problem.epilogue.form == "inline" and whole

    @property
    def panel_count(self) -> Dim:
        """Panels of the columns."""
        if isinstance(self.problem.columns, int):
            return self.columns.panels
        return ceildiv(self.problem.columns, self.columns.vectors * self.problem.lanes)

    @property
    def buffered(self) -> bool:
        """Whether accumulators pass through memory."""
        return bool(self.hoisted) or not self.inline

    @property
    def sums(self) -> str:
        """C type of a register of accumulators, and the stem of its functions."""
        return self.problem.kind.sum_vector(self.problem.unit.prefix)

    @property
    def tile_floats(self) -> int:
        """Accumulators of the largest tile."""
        return self.tiling.rows * self.columns.vectors * self.problem.lanes

    @property
    def block_tiles(self) -> Dim:
        """Tiles of one item."""
        count = self.tiling.count
        if not isinstance(count, int):
            return self.blocking.tiles or 64
        return min(self.blocking.tiles or count, count)

    @property
    def block_panels(self) -> Dim:
        """Panels of one item."""
        count = self.panel_count
        if not isinstance(count, int):
            return self.blocking.panels or count
        return min(self.blocking.panels or count, count)

    @property
    def packed_bytes(self) -> int:
        """Scratch in front of the accumulators: a panel of the right operand."""
        if self.problem.right is None:
            return 0
        kind = self.problem.kind
        depth = evaluate(self.problem.depth, self.largest)
        size = depth * self.columns.vectors * self.problem.lanes * kind.dtype.itemsize
        return -(-size // 64) * 64

    @property
    def scratch_floats(self) -> int:
        """Accumulators that an item keeps in scratch."""
        if not self.buffered:
            return 0
        tiles = self.block_tiles if self.hoisted else 1
        # folded rows are shorter than the vectors that the epilogue reads: some slack behind them
        slack = self.problem.unit.lanes if self.problem.kind.fold > 1 else 0
        return self.tile_floats * (tiles if isinstance(tiles, int) else 1) + slack

    @property
    def ahead_lines(self) -> int:
        """Cache lines of the next panel that each K step of a tile prefetches."""
        run, tiles = self.problem.run, self.block_tiles
        if not self.blocking.ahead or not isinstance(run, int) or not isinstance(tiles, int):
            return 0
        if self.problem.right is not None or run // self.problem.kind.group <= SHORT_RUN:
            return 0
        return -(-self.columns.vectors // tiles)

    def dim(self, dim: Dim) -> str:
        """Return an extent as C."""
        return c_dim(dim, self.problem.symbols)

    @property
    def hoisted_count(self) -> int:
        """Iterations of the hoisted K loops."""
        total = 1
        for count, _ in self.hoisted:
            total *= count
        return total

    # -- tiles -----------------------------------------------------------------------------------

    def tiles(self) -> list[Tile]:
        """Return every tile shape that occurs."""
        widths = [self.columns.vectors] if self.columns.wide else []
        widths += [self.columns.vectors - 1] if self.columns.narrow else []
        return [
            Tile(height, width, vectors, tuple(self.row_offsets(0, height, width)))
            for vectors in widths
            for height, width in self.tiling.shapes
        ]

    def row_offsets(self, access: int, height: int, width: int) -> list[str]:
        """Return C expressions of the offsets of a tile's rows for one access."""
        y, x = self.problem.y, self.problem.x
        offsets = []
        for dy in range(height):
            for dx in range(width):
                total: Dim = x.strides[access] * dx
                if y is not None:
                    total = total + y.strides[access] * dy
                offsets.append(self.dim(total))
        return offsets

    def print_tile(self, tile: Tile) -> str:
        """Return the function of one tile shape."""
        problem, unit = self.problem, self.problem.unit
        v, lanes = self.sums, unit.lanes
        depth = self.blocking.hoist
        loops = tuple((count, self.dim(stride)) for count, stride in problem.loops[depth:])
        run = problem.run if isinstance(problem.run, int) else self.dim(problem.run)
        walk = KWalk(loops, run, self.clip_step(tile) if self.clips_inside else 0)
        cells = [(row, vector) for row in range(tile.rows) for vector in range(tile.vectors)]
        lines = [f"{v} {', '.join(f'c{r}_{i}' for r, i in cells)};"]
        start = self.print_start(tile)
        if self.hoisted:
            resume = [
                f"c{r}_{i} = {v}_load(acc + {(r * tile.vectors + i) * lanes});" for r, i in cells
            ]
            start = ["if (resume) {", *resume, "} else {", *start, "}"]
        lines += start
        lines += print_accumulate(
            tile, walk, problem.kind, unit, self.blocking.prefetch, self.ahead_lines
        )
        store = [f"{v}_store(acc + {(r * tile.vectors + i) * lanes}, c{r}_{i});" for r, i in cells]
        finish = self.print_inline_finish(tile) if self.inline else store
        if problem.kind.fold > 1:
            finish = self.print_folded_store(tile)
        if self.hoisted and self.inline:
            finish = ["if (!last) {", *store, "return;", "}", *finish]
        lines += finish
        head = f"static __attribute__((noinline)) void @NAME@_{tile.name}({self.tile_parameters()})"
        return f"{head} {{\n{print_block(lines)}}}\n"

    @property
    def clips_inside(self) -> bool:
        """Whether tiles get the bounds of their first K loop (a hoisted loop skips whole tiles)."""
        return self.clip is not None and not self.hoisted

    def clip_step(self, tile: Tile) -> int:
        """Return the packed elements that one iteration of the first K loop reads."""
        depth = self.problem.depth
        if not isinstance(depth, int):
            return 0
        return depth // self.problem.loops[0][0] * tile.vectors * self.problem.lanes

    def print_clip(self) -> list[str]:
        """Return the bounds of the first K loop at line y, and what follows for hoisted loops."""
        clip = self.clip
        if clip is None:
            return []
        count = self.problem.loops[0][0]
        line = f"{clip.pad} - y * {clip.stride}"
        lines = [
            f"const int64_t low = planish_max_i64(0, ({line} + {clip.dilation - 1}) / "
            f"{clip.dilation});",
            f"const int64_t high = planish_min_i64({count}, ({clip.extent - 1} + {line}) / "
            f"{clip.dilation} + 1);",
        ]
        if not self.hoisted:
            return lines
        inner = self.hoisted_count // count
        return [
            *lines,
            "if (h0 < low || h0 >= high) continue;",
            f"const int resume = h0 > low || step % {inner} > 0;",
            f"const int last = h0 == high - 1 && step % {inner} == {inner - 1};",
        ]

    def print_start(self, tile: Tile) -> list[str]:
        """Return the statements that give accumulators their first value."""
        v, lanes = self.sums, self.problem.unit.lanes
        if self.problem.bias_pointer is None or self.problem.kind.fold > 1:
            first = [f"{v}_zero()"] * tile.vectors
        else:
            first = [f"{v}_load(bias + {i * lanes})" for i in range(tile.vectors)]
        lines = []
        for i, expression in enumerate(first):
            chain = " = ".join(f"c{row}_{i}" for row in range(tile.rows))
            lines.append(f"{chain} = {expression};")
        return lines

    def print_folded_store(self, tile: Tile) -> list[str]:
        """Return the statements that add up each column's lanes and store a row's columns."""
        v, lanes, fold = self.problem.unit.prefix, self.problem.lanes, self.problem.kind.fold
        lines = []
        start = "" if self.problem.bias_pointer is None else " + start"
        if start:
            lines.append(f"const {v} start = {v}_load_part(bias, {lanes});")
        for row in range(tile.rows):
            total = f"{v}_fold{fold}(c{row}_0){start}"
            lines.append(f"{v}_store_part(acc + {row * lanes}, {total}, {lanes});")
        return lines

    def tile_parameters(self) -> str:
        """Return the parameters of the tiles' functions."""
        ctype = self.problem.kind.ctype
        text = f"const {self.problem.kind.input_ctype} *a, const {ctype} *b, const int64_t *d"
        text += ", const char *next" if self.ahead_lines else ""
        text += ", int64_t low, int64_t high" if self.clips_inside else ""
        sums = self.problem.kind.sum_ctype
        text += f", const {sums} *bias" if self.problem.bias_pointer is not None else ""
        text += f", {sums} *acc" if self.buffered else ""
        text += ", int resume, int last" if self.hoisted else ""
        if self.inline:
            text += ", int part" if self.masked else ""
            text += parameters_of(self.problem.epilogue)
        return text

    def print_inline_finish(self, tile: Tile) -> list[str]:
        """Return the calls that finish each accumulator."""
        epilogue, lanes = self.problem.epilogue, self.problem.unit.lanes
        offsets = [
            self.row_offsets(index + 1, tile.height, tile.width)
            for index in range(len(epilogue.accesses))
        ]
        lines = []
        for row in range(tile.rows):
            for vector in range(tile.vectors):
                last = vector == tile.vectors - 1
                part = "part" if last and self.masked else str(lanes)
                pointers = [
                    self.advance(
                        access.name,
                        offsets[index][row],
                        vector * lanes if access.strides[epilogue.column_axis] == 1 else 0,
                    )
                    for index, access in enumerate(epilogue.accesses)
                ]
                arguments = ", ".join([f"c{row}_{vector}", part, "d", *pointers])
                lines.append(f"@NAME@_finish({arguments});")
        return lines

    @staticmethod
    def advance(name: str, *offsets: str | int) -> str:
        """Return a pointer moved by offsets; zeros are left out."""
        return " + ".join([name, *(str(o) for o in offsets if str(o) != "0")])

    def print_finish_tile(self) -> str:
        """Return the function that runs the epilogue over a tile's buffer, whatever its shape."""
        problem, epilogue = self.problem, self.problem.epilogue
        y, x, lanes = problem.y, problem.x, problem.unit.lanes
        pointers, vector_pointers = [], []
        for index, access in enumerate(epilogue.accesses, start=1):
            sy: Dim = 0 if y is None else y.strides[index]
            stride = access.strides[epilogue.column_axis]
            moved = f"{access.name} + dy * {self.dim(sy)} + dx * {self.dim(x.strides[index])}"
            pointers.append(moved)
            vector_pointers.append(moved + (" + n" if stride == 1 else ""))
        if epilogue.form == "scalar":
            inner = [f"@NAME@_finish({', '.join(['acc', 'count', 'd', *pointers])});"]
        else:
            arguments = ", ".join([f"{self.sums}_load(acc + n)", "part", "d", *vector_pointers])
            inner = [
                f"for (int64_t n = 0; n < count; n += {lanes}) {{",
                f"const int part = count - n < {lanes} ? (int)(count - n) : {lanes};",
                f"@NAME@_finish({arguments});",
                "}",
            ]
        lines = [
            "for (int64_t dy = 0; dy < height; dy++) {",
            "for (int64_t dx = 0; dx < width; dx++, acc += stride) {",
            *inner,
            "}",
            "}",
        ]
        parameters = (
            f"const {problem.kind.sum_ctype} *acc, int64_t height, int64_t width, int64_t stride, "
            f"int64_t count, const int64_t *d{parameters_of(epilogue)}"
        )
        head = f"static __attribute__((noinline)) void @NAME@_finish_tile({parameters})"
        return f"{head} {{\n{print_block(lines)}}}\n"
