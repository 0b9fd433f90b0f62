"""Implicit GEMM: tiles over rows and column panels, as one C kernel.

    out[row][column] = epilogue(bias[column] + sum_k input[row + offset(k)] * weight[k][column])

Layouts: the input lies so that K runs are contiguous (channels last, or a matrix's rows) and its
padding is memory that holds zeros; weights are packed in column panels (packing.py). Nothing is
copied: a convolution's taps are strides. Convolutions, matrix products, groups and batches differ
only in the strides of their row axes and in the K loops.

An item of work is a block of tiles by a block of panels. Order "n" walks panels in the outer loop,
so weights are read once (few rows, large weights); order "m" walks row blocks in the outer loop, so
the input is read once and the weights stay in L2. `hoist` moves outer K loops around the tile loop:
a part of a panel then stays in L1 while all tiles of the item accumulate through a buffer; this is
for long K, where a panel exceeds L2.

A right operand that is no constant is packed panel by panel into scratch, once an item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from planish.backends.cpu.codegen.epilogue import parameters_of, print_finish
from planish.backends.cpu.codegen.gemm_problem import Blocking, Problem, RightOperand, RowClip
from planish.backends.cpu.codegen.packing import Columns
from planish.backends.cpu.codegen.row_axes import Tiling
from planish.backends.cpu.codegen.scalar import c_dim, memory_type
from planish.backends.cpu.codegen.tile import (
    SHORT_RUN,
    KWalk,
    Tile,
    print_accumulate,
    print_block,
)
from planish.ir.dtypes import BF16
from planish.ir.shape import Dim, ceildiv, evaluate, product


@dataclass
class GemmSource:
    """A printed kernel: source, number of items, scratch bytes, and the panels it expects."""

    source: str
    items: Dim
    scratch_bytes: int
    columns: Columns


def print_gemm(
    problem: Problem, blocking: Blocking, largest: Mapping[str, int] | None = None
) -> GemmSource:
    """Return the C source of `problem` under `blocking`.

    `largest` holds the symbols' largest values; scratch for a right operand is sized by them.
    """
    return _Printer(problem.with_short_runs(blocking.depth), blocking, largest or {}).print()


@dataclass
class _Printer:
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
        return self.problem.loops[: self.blocking.hoist]

    @property
    def masked(self) -> bool:
        return self.columns.remainder != self.problem.lanes

    @property
    def inline(self) -> bool:
        # symbolic columns leave any vector of a panel partly filled: only the buffer can do that
        whole = isinstance(self.problem.columns, int) and self.problem.kind.fold == 1
        return self.problem.epilogue.form == "inline" and whole

    @property
    def panel_count(self) -> Dim:
        if isinstance(self.problem.columns, int):
            return self.columns.panels
        return ceildiv(self.problem.columns, self.columns.vectors * self.problem.lanes)

    @property
    def buffered(self) -> bool:
        """Whether accumulators pass through memory."""
        return bool(self.hoisted) or not self.inline

    @property
    def tile_floats(self) -> int:
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
        return c_dim(dim, self.problem.symbols)

    # -- the whole -------------------------------------------------------------------------------

    def print(self) -> GemmSource:
        problem = self.problem
        parts = [print_finish(problem.epilogue, problem.unit.lanes, problem.symbols)]
        if not self.inline:
            parts.append(self.print_finish_tile())
        for tile in self.tiles():
            parts.append(self.print_tile(tile))
        parts.append(self.print_kernel())
        source = "\n".join(parts)
        scratch = self.packed_bytes + self.scratch_floats * 4
        return GemmSource(source, self.items, scratch, self.columns)

    @property
    def items(self) -> Dim:
        return product(extent for _, extent in self.item_axes())

    def item_axes(self) -> list[tuple[str, Dim]]:
        """Return (C name, extent) of the item's indices, outermost first."""
        own = [i for i, axis in enumerate(self.problem.outer) if axis.own_weights]
        others = [i for i, axis in enumerate(self.problem.outer) if not axis.own_weights]
        extents = [axis.extent for axis in self.problem.outer]
        blocks = ("block", ceildiv(self.tiling.count, self.block_tiles))
        panels = ("panels", ceildiv(self.panel_count, self.block_panels))
        groups = [(f"i{i}", extents[i]) for i in own]
        batch = [(f"i{i}", extents[i]) for i in others]
        if self.blocking.order == "n":
            return [*groups, panels, *batch, blocks]
        return [*groups, *batch, blocks, panels]

    # -- tiles -----------------------------------------------------------------------------------

    def tiles(self) -> list[Tile]:
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
        problem, unit = self.problem, self.problem.unit
        v, lanes = unit.prefix, unit.lanes
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
        v, lanes = self.problem.unit.prefix, self.problem.unit.lanes
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
        ctype = self.problem.kind.ctype
        text = f"const {self.problem.kind.input_ctype} *a, const {ctype} *b, const int64_t *d"
        text += ", const char *next" if self.ahead_lines else ""
        text += ", int64_t low, int64_t high" if self.clips_inside else ""
        text += ", const float *bias" if self.problem.bias_pointer is not None else ""
        text += ", float *acc" if self.buffered else ""
        text += ", int resume, int last" if self.hoisted else ""
        if self.inline:
            text += ", int part" if self.masked else ""
            text += parameters_of(self.problem.epilogue)
        return text

    def print_inline_finish(self, tile: Tile) -> list[str]:
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
            v = problem.unit.prefix
            arguments = ", ".join([f"{v}_load(acc + n)", "part", "d", *vector_pointers])
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
            "const float *acc, int64_t height, int64_t width, int64_t stride, int64_t count, "
            f"const int64_t *d{parameters_of(epilogue)}"
        )
        head = f"static __attribute__((noinline)) void @NAME@_finish_tile({parameters})"
        return f"{head} {{\n{print_block(lines)}}}\n"

    # -- the kernel ------------------------------------------------------------------------------

    def print_kernel(self) -> str:
        lines = [
            *self.print_pointers(),
            "for (int64_t item = begin; item < end; item++) {",
            *self.print_item(),
            "}",
        ]
        head = (
            "static void @NAME@(char *const *p, const int64_t *d, int64_t begin, int64_t end, "
            "char *scratch)"
        )
        return f"{head} {{\n{print_block(lines)}}}\n"

    def print_pointers(self) -> list[str]:
        problem, ctype = self.problem, self.problem.kind.ctype
        source = f"const {problem.kind.input_ctype} *"
        lines = [
            f"{source}const input = ({source})p[{problem.input_pointer}] + "
            f"{self.dim(problem.input_offset)};",
        ]
        if problem.right is not None:
            right = memory_type(problem.right.dtype)
            lines.append(
                f"const {right} *const right = (const {right} *)p[{problem.right.pointer}];"
            )
        else:
            pointer = problem.weight_pointer
            lines.append(f"const {ctype} *const weights = (const {ctype} *)p[{pointer}];")
        if problem.bias_pointer is not None:
            lines.append(f"const float *const biases = (const float *)p[{problem.bias_pointer}];")
        return lines

    def print_item(self) -> list[str]:
        lines = self.print_indices()
        lines += self.print_item_pointers()
        tiles, panels = self.block_tiles, self.block_panels
        lines += [
            f"const int64_t first_tile = block * {self.dim(tiles)};",
            f"const int64_t last_tile = planish_min_i64(first_tile + {self.dim(tiles)}, "
            f"{self.dim(self.tiling.count)});",
            f"const int64_t first_panel = panels * {self.dim(panels)};",
            f"const int64_t last_panel = planish_min_i64(first_panel + {self.dim(panels)}, "
            f"{self.dim(self.panel_count)});",
            "for (int64_t panel = first_panel; panel < last_panel; panel++) {",
            *self.print_panel(),
            "}",
        ]
        return lines

    def print_indices(self) -> list[str]:
        lines = ["int64_t rest = item;"]
        axes = self.item_axes()
        for name, extent in reversed(axes[1:]):
            if extent == 1:
                lines.append(f"const int64_t {name} = 0;")
                continue
            lines.append(f"const int64_t {name} = rest % {self.dim(extent)};")
            lines.append(f"rest /= {self.dim(extent)};")
        lines.append(f"const int64_t {axes[0][0]} = rest;")
        return lines

    def print_item_pointers(self) -> list[str]:
        problem, ctype = self.problem, self.problem.kind.input_ctype
        lines = [f"const {ctype} *const item_a = input{self.outer_offset(0)};"]
        matrix = [
            f"i{i} * {self.dim(product(a.extent for a in problem.outer[i + 1 :] if a.own_weights))}"
            for i, axis in enumerate(problem.outer)
            if axis.own_weights and problem.right is None
        ]
        lines.append(f"const int64_t matrix = {' + '.join(matrix) or '0'};")
        for index, access in enumerate(problem.epilogue.accesses, start=1):
            const = "" if access.name.startswith("o") else "const "
            start = f" + {self.dim(access.offset)}" if access.offset != 0 else ""
            lines.append(
                f"{const}{access.ctype} *const item_{access.name} = "
                f"({const}{access.ctype} *)p[{access.pointer}]{start}{self.outer_offset(index)};"
            )
        return lines

    def outer_offset(self, access: int) -> str:
        terms = [
            f" + i{i} * {self.dim(axis.strides[access])}"
            for i, axis in enumerate(self.problem.outer)
            if axis.strides[access] != 0
        ]
        return "".join(terms)

    def print_panel(self) -> list[str]:
        problem, columns = self.problem, self.columns
        lanes, depth = problem.lanes, problem.depth
        wide = str(columns.vectors)
        if columns.narrow:
            wide = f"(panel < {columns.wide} ? {columns.vectors} : {columns.vectors - 1})"
        before = f"panel * {columns.vectors}"
        if columns.narrow:
            before = f"({before} - planish_max_i64(panel - {columns.wide}, 0))"
        lines = [
            f"const int64_t vectors = {wide};",
            f"const int64_t column = {before} * {lanes};",
            f"const int64_t count = planish_min_i64(vectors * {lanes}, "
            f"{self.dim(problem.columns)} - column);",
            f"const int part = (int)(count - (vectors - 1) * {lanes});",
        ]
        if problem.right is not None:
            lines += self.print_pack(problem.right)
        else:
            lines.append(
                f"const {problem.kind.ctype} *const panel_b = weights + "
                f"(matrix * {columns.padded} + column) * {self.dim(depth)};"
            )
        if problem.bias_pointer is not None:
            lines.append(f"const float *const bias = biases + matrix * {columns.padded} + column;")
        if isinstance(depth, int):
            lines.append(
                f"const int64_t chunk = {depth // self.hoisted_count} * vectors * {lanes};"
            )
        return lines + self.print_hoisted()

    def print_pack(self, right: RightOperand) -> list[str]:
        """Return the statements that pack one panel of the right operand into scratch."""
        kind, unit = self.problem.kind, self.problem.unit
        offset = "".join(
            f" + i{i} * {self.dim(stride)}" for i, stride in enumerate(right.outer) if stride != 0
        )
        source = f"right{offset} + column * {self.dim(right.column)}"
        name = "pairs" if kind.group == 2 else "widened" if right.dtype is BF16 else "floats"
        form, stride = ("rows", right.row) if right.column == 1 else ("columns", right.column)
        return [
            f"{kind.ctype} *const panel_b = ({kind.ctype} *)scratch;",
            f"{unit.prefix}_pack_{form}_{name}({source}, {self.dim(stride)}, "
            f"{self.dim(self.problem.run)}, count, vectors * {unit.lanes}, panel_b);",
        ]

    @property
    def hoisted_count(self) -> int:
        total = 1
        for count, _ in self.hoisted:
            total *= count
        return total

    def print_hoisted(self) -> list[str]:
        """Return the hoisted K loops around the tile loop."""
        lines, offset, index = [], "", "0"
        for level, (count, stride) in enumerate(self.hoisted):
            lines.append(f"for (int64_t h{level} = 0; h{level} < {count}; h{level}++) {{")
            offset += f" + h{level} * {self.dim(stride)}"
            index = f"({index}) * {count} + h{level}" if level else f"h{level}"
        if self.hoisted:
            lines += [
                f"const int64_t step = {index};",
                f"const int resume = step > 0, last = step == {self.hoisted_count - 1};",
            ]
        lines += [
            f"const {self.problem.kind.ctype} *const b = panel_b"
            f"{' + step * chunk' if self.hoisted else ''};",
            "for (int64_t tile = first_tile; tile < last_tile; tile++) {",
            *self.print_tile_call(offset),
            "}",
        ]
        return lines + ["}"] * len(self.hoisted)

    def print_tile_call(self, offset: str) -> list[str]:
        """Return the statements of one tile: where it lies, and the call of its function."""
        lines = []
        if self.buffered:
            place = f" + (tile - first_tile) * {self.tile_floats}" if self.hoisted else ""
            base = f"scratch + {self.packed_bytes}" if self.packed_bytes else "scratch"
            lines.append(f"float *acc = (float *)({base}){place};")
        if self.ahead_lines:
            lines.append(self.print_next())
        if self.tiling.is_dynamic:
            return [*lines, *self.print_dynamic_tile(offset)]
        return [*lines, *self.print_static_tile(offset)]

    def print_next(self) -> str:
        """Return the declaration of what a tile prefetches: its share of the next panel."""
        tiles = -(-self.columns.vectors // self.ahead_lines)
        share = f"(tile - first_tile) * (chunk / {tiles})"
        return (
            f"const char *next = (const char *)(b + (tile - first_tile < {tiles} ? "
            f"chunk + {share} : 0));"
        )

    def print_static_tile(self, offset: str) -> list[str]:
        tiling = self.tiling
        lines = []
        if tiling.parts == 1:
            lines.append(f"const int64_t y = tile * {tiling.height}, x = 0;")
        else:
            lines += [
                f"const int64_t y = tile / {tiling.parts} * {tiling.height};",
                f"const int64_t part_x = tile % {tiling.parts};",
                f"const int64_t x = part_x * {tiling.base} + "
                f"planish_min_i64(part_x, {tiling.extra});",
            ]
        calls = []
        for height, width in tiling.shapes:
            conditions = []
            if tiling.y % tiling.height and tiling.y > tiling.height:
                full = tiling.y // tiling.height * tiling.height
                conditions.append(f"y {'<' if height == tiling.height else '>='} {full}")
            if 0 < tiling.extra < tiling.parts:
                conditions.append(f"part_x {'<' if width > tiling.base else '>='} {tiling.extra}")
            calls.append((conditions, self.print_call(height, width, offset)))
        return [*lines, *self.print_clip(), *_choose(calls)]

    def print_dynamic_tile(self, offset: str) -> list[str]:
        base = self.tiling.base
        lines = [
            f"int64_t x = tile * {base}, y = 0;",
            f"int64_t left = {self.dim(self.tiling.x)} - x;",
            f"if (left >= {base}) {{",
            *self.print_call(1, base, offset),
            "continue;",
            "}",
        ]
        step = f" acc += {{}} * vectors * {self.problem.lanes};" if self.buffered else ""
        for piece in self.tiling.pieces:
            lines += [
                f"while (left >= {piece}) {{",
                *self.print_call(1, piece, offset),
                f"x += {piece}; left -= {piece};{step.format(piece)}",
                "}",
            ]
        return lines

    def print_call(self, height: int, width: int, offset: str) -> list[str]:
        """Return the call for one shape, and of the epilogue where it is a function of its own."""
        calls = []
        for vectors in sorted({tile.vectors for tile in self.tiles()}, reverse=True):
            conditions = [f"vectors == {vectors}"] if self.columns.narrow else []
            name = Tile(height, width, vectors, ()).name
            calls.append((conditions, [f"@NAME@_{name}({self.call_arguments(offset)});"]))
        lines = _choose(calls)
        if not self.inline:
            lanes = self.problem.lanes
            pointers = "".join(f", {self.position(i)}" for i in self.access_indices())
            guard = "if (last) " if self.hoisted else ""
            lines.append(
                f"{guard}@NAME@_finish_tile(acc, {height}, {width}, vectors * {lanes}, count, "
                f"d{pointers});"
            )
        return lines

    def access_indices(self) -> Sequence[int]:
        return range(1, len(self.problem.epilogue.accesses) + 1)

    def position(self, access: int) -> str:
        """Return the pointer of an access at the tile's first row and the panel's first column."""
        problem = self.problem
        name = "item_a"
        column: Dim = 0
        if access:
            entry = problem.epilogue.accesses[access - 1]
            name = f"item_{entry.name}"
            column = entry.strides[problem.epilogue.column_axis]
        terms = [name]
        if problem.y is not None:
            terms.append(f"y * {self.dim(problem.y.strides[access])}")
        terms.append(f"x * {self.dim(problem.x.strides[access])}")
        terms.append(f"column * {self.dim(column)}")
        return " + ".join(term for term in terms if not term.endswith("* 0"))

    def call_arguments(self, offset: str) -> str:
        arguments = [self.position(0) + offset, "b", "d"]
        arguments += ["next"] if self.ahead_lines else []
        arguments += ["low", "high"] if self.clips_inside else []
        arguments += ["bias"] if self.problem.bias_pointer is not None else []
        arguments += ["acc"] if self.buffered else []
        arguments += ["resume", "last"] if self.hoisted else []
        if self.inline:
            arguments += ["part"] if self.masked else []
            arguments += [self.position(i) for i in self.access_indices()]
        return ", ".join(arguments)


def _choose(calls: Sequence[tuple[list[str], list[str]]]) -> list[str]:
    """Return an if-else chain; the last alternative needs no condition."""
    if len(calls) == 1:
        return calls[0][1]
    lines: list[str] = []
    for index, (conditions, statements) in enumerate(calls):
        head = f"if ({' && '.join(conditions)}) {{"
        if index == len(calls) - 1:
            head = "{"
        lines.append(head if index == 0 else f"}} else {head}")
        lines += statements
    return [*lines, "}"]
