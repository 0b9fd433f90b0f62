"""Implicit GEMM on AMX tiles: the same problems, packing and epilogues as gemm.py.

A tile register holds 16 rows of 64 bytes. Rows of the input are loaded where they lie (one stride
from row to row), packed weights are tiles already: a K step of a panel is one row of 64 bytes a
vector. Blocks of (2,2), (4,1) or (1,4) accumulator tiles share their operands' tiles; sums go
through a buffer in L1 to the epilogue, which runs on AVX-512 registers.

Rows are numbered along a line: merged row axes where strides allow it, the lines of an image with
the halo between them otherwise (computed and not stored; a 7x7 map would fill less than half of
every tile), or one line of y at a time. The last tile of a line overlaps the one before it; its
repeated rows are not stored again, so outputs may share memory with a residual operand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planish.backends.cpu.codegen.element import ElementKind
from planish.backends.cpu.codegen.epilogue import print_finish
from planish.backends.cpu.codegen.gemm_problem import Problem
from planish.backends.cpu.codegen.packing import Columns
from planish.backends.cpu.codegen.row_axes import Axis
from planish.backends.cpu.codegen.scalar import c_dim
from planish.backends.cpu.codegen.tile import print_block
from planish.ir.dtypes import BF16
from planish.ir.shape import Dim, ceildiv, product

TILE_ROWS = 16
TILE_BYTES = 64
SHORTEST_STEP = 16  # bytes of K; shorter steps leave most of a tile empty
LARGEST_WASTE = 1.35  # rows computed for rows stored, above which lines are done one by one

INSTRUCTIONS = {BF16: "_tile_dpbf16ps"}


@dataclass(frozen=True)
class AmxBlocking:
    """The tunable part: accumulator tiles of a block, loop order, and the size of items.

    `groups` is how many groups of `high` row tiles an item has (0: all), `panels` how many panels.
    """

    high: int = 2
    wide: int = 2
    order: str = "n"
    groups: int = 0
    panels: int = 1

    @staticmethod
    def of(config: Mapping[str, Any]) -> AmxBlocking:
        """Read a tactic's configuration."""
        names = AmxBlocking.__dataclass_fields__
        return AmxBlocking(**{key: value for key, value in config.items() if key in names})

    def as_config(self) -> dict[str, Any]:
        """Return the fields as a printable configuration."""
        return {name: getattr(self, name) for name in AmxBlocking.__dataclass_fields__}


def step_of(problem: Problem) -> int | None:
    """Return the K elements of one tile step, or None when tiles do not fit the problem."""
    kind, run = problem.kind, problem.run
    if kind.dtype not in INSTRUCTIONS or kind.fold > 1 or problem.right is not None:
        return None
    if not isinstance(run, int) or run % kind.group or not isinstance(problem.columns, int):
        return None
    itemsize = kind.dtype.itemsize
    limit = TILE_BYTES // itemsize
    steps = [s for s in range(kind.group, limit + 1, kind.group) if run % s == 0]
    best = max(steps)
    return best if best * itemsize >= SHORTEST_STEP else None


@dataclass(frozen=True)
class Lines:
    """How rows are numbered: `rows` of a line, of which each `pitch` holds `width` real ones."""

    rows: Dim
    pitch: Dim
    width: Dim
    outer: tuple[Axis, ...]
    y: Axis | None


def lines_of(problem: Problem) -> Lines:
    """Return the numbering of a problem's rows."""
    x, y = problem.x, problem.y
    if y is None or not isinstance(x.extent, int) or not isinstance(y.extent, int):
        return Lines(x.extent, x.extent, x.extent, problem.axes[:-1], None)
    pitch, step = y.strides[0], x.strides[0]
    if isinstance(pitch, int) and isinstance(step, int) and step and pitch % step == 0:
        whole = pitch // step
        rows = (y.extent - 1) * whole + x.extent
        one_by_one = y.extent * -(-x.extent // TILE_ROWS) * TILE_ROWS
        together = -(-rows // TILE_ROWS) * TILE_ROWS
        waste = rows / (y.extent * x.extent)
        if whole >= x.extent and together <= one_by_one and waste < LARGEST_WASTE:
            return Lines(rows, whole, x.extent, problem.outer, y)
    return Lines(x.extent, x.extent, x.extent, problem.axes[:-1], None)


@dataclass
class AmxSource:
    """A printed kernel."""

    source: str
    items: Dim
    scratch_bytes: int
    columns: Columns


def print_gemm_amx(problem: Problem, blocking: AmxBlocking) -> AmxSource:
    """Return the C source of `problem`; `step_of(problem)` is not None."""
    return _Printer(problem, blocking).print()


class _Printer:
    def __init__(self, problem: Problem, blocking: AmxBlocking) -> None:
        self.problem, self.blocking = problem, blocking
        self.kind: ElementKind = problem.kind
        self.lines = lines_of(problem)
        self.columns = problem.column_split(blocking.wide)
        step = step_of(problem)
        self.step = step or self.kind.group
        self.depth = int(str(problem.depth))

    def dim(self, dim: Dim) -> str:
        return c_dim(dim, self.problem.symbols)

    @property
    def widths(self) -> list[int]:
        """Vectors of the panels that occur."""
        found = [self.columns.vectors] if self.columns.wide else []
        return found + ([self.columns.vectors - 1] if self.columns.narrow else [])

    @property
    def tile_count(self) -> Dim:
        return ceildiv(self.lines.rows, TILE_ROWS)

    @property
    def group_count(self) -> Dim:
        return ceildiv(self.tile_count, self.blocking.high)

    @property
    def item_groups(self) -> Dim:
        count = self.group_count
        if not isinstance(count, int):
            return self.blocking.groups or count
        return min(self.blocking.groups or count, count)

    @property
    def item_panels(self) -> int:
        return min(self.blocking.panels or self.columns.panels, self.columns.panels)

    def item_axes(self) -> list[tuple[str, Dim]]:
        """Return (C name, extent) of the item's indices, outermost first."""
        axes = list(enumerate(self.lines.outer))
        own = [(f"i{i}", axis.extent) for i, axis in axes if axis.own_weights]
        batch = [(f"i{i}", axis.extent) for i, axis in axes if not axis.own_weights]
        blocks = ("block", ceildiv(self.group_count, self.item_groups))
        panels: tuple[str, Dim] = ("panels", ceildiv(self.columns.panels, self.item_panels))
        if self.blocking.order == "n":
            return [*own, panels, *batch, blocks]
        return [*own, *batch, blocks, panels]

    def print(self) -> AmxSource:
        parts = [print_finish(self.problem.epilogue, 16, self.problem.symbols)]
        parts.append(_CONFIGURE)
        parts += [
            self.print_block_function(high, vectors)
            for vectors in self.widths
            for high in sorted({1, self.blocking.high})
        ]
        parts += [self.print_rows(), self.print_kernel()]
        scratch = self.blocking.high * TILE_ROWS * self.columns.vectors * 16 * 4
        items = product(extent for _, extent in self.item_axes())
        return AmxSource("\n".join(parts), items, scratch, self.columns)

    # -- tiles -----------------------------------------------------------------------------------

    def print_block_function(self, high: int, vectors: int) -> str:
        """Return the function that sums one block of tiles into the buffer.

        Tiles 0-3 accumulate, 4 and 5 hold the input (one of them is enough for a row of tiles),
        6 and 7 the weights.
        """
        ctype = self.kind.ctype
        stride = f"{self.dim(self.problem.x.strides[0])} * {self.kind.dtype.itemsize}"
        lines = [f"_tile_zero({t});" for t in range(high * vectors)]
        lines.append(f"const int64_t stride = {stride};")
        pointer = "a"
        for level, (count, step) in enumerate(self.problem.loops):
            lines.append(f"for (int64_t t{level} = 0; t{level} < {count}; t{level}++) {{")
            lines.append(f"const {ctype} *a{level} = {pointer} + t{level} * {self.dim(step)};")
            pointer = f"a{level}"
        advance = self.step * vectors * 16
        lines += [
            f"for (int64_t k = 0; k < {self.dim(self.problem.run)}; k += {self.step}, "
            f"b += {advance}) {{",
            *self.print_products(high, vectors, pointer),
            "}",
            *["}"] * len(self.problem.loops),
        ]
        for m in range(high):
            for n in range(vectors):
                to = f"sums + {m} * rows * {vectors * 16} + {n * 16}"
                lines.append(f"_tile_stored({m * vectors + n}, {to}, {vectors * 64});")
        parameters = (
            f"const {ctype} *a, const {ctype} *b, float *sums, int64_t rows, const int64_t *at, "
            "const int64_t *d"
        )
        head = f"static __attribute__((noinline)) void @NAME@_{high}x{vectors}({parameters})"
        return f"{head} {{\n{print_block(lines)}}}\n"

    def print_products(self, high: int, vectors: int, pointer: str) -> list[str]:
        """Return the loads and products of one K step."""
        instruction = INSTRUCTIONS[self.kind.dtype]
        group_bytes = self.kind.group * self.kind.dtype.itemsize
        panel_stride = vectors * 16 * group_bytes

        def load_weights(n: int) -> str:
            offset = n * 16 * self.kind.group
            return f"_tile_loadd({6 + n % 2}, b + {offset}, {panel_stride});"

        def load_rows(m: int) -> str:
            return f"_tile_loadd({4 + m % 2}, {pointer} + k + at[{m}], stride);"

        if high <= 2 and vectors <= 2:
            lines = [load_weights(n) for n in range(vectors)]
            for m in range(high):
                lines.append(load_rows(m))
                lines += [f"{instruction}({m * vectors + n}, {4 + m % 2}, {6 + n % 2});"
                          for n in range(vectors)]  # fmt: skip
            return lines
        if high == 1:
            lines = [load_rows(0)]
            for n in range(vectors):
                lines += [load_weights(n), f"{instruction}({n}, 4, {6 + n % 2});"]
            return lines
        lines = []
        for n in range(vectors):
            lines.append(load_weights(n))
            for m in range(high):
                lines += [load_rows(m),
                          f"{instruction}({m * vectors + n}, {4 + m % 2}, {6 + n % 2});"]  # fmt: skip
        return lines

    # -- the epilogue ----------------------------------------------------------------------------

    def print_rows(self) -> str:
        """Return the function that finishes rows [first, last) of the buffer's lines."""
        problem, epilogue = self.problem, self.problem.epilogue
        x = problem.x
        pointers = []
        for index, access in enumerate(epilogue.accesses, start=1):
            y_stride = self.lines.y.strides[index] if self.lines.y is not None else 0
            column = access.strides[epilogue.column_axis]
            pointers.append(
                f"{access.name} + y * {self.dim(y_stride)} + x * {self.dim(x.strides[index])}"
                + (" + n" if column == 1 and epilogue.form != "scalar" else "")
            )
        if epilogue.form == "scalar":
            inner = [
                *(
                    ["for (int64_t n = 0; n < count; n++) sums[n] += bias[n];"]
                    if problem.bias_pointer is not None
                    else []
                ),
                f"@NAME@_finish({', '.join(['sums', 'count', 'd', *pointers])});",
            ]
        else:
            start = "planish_v16_load(sums + n)"
            if problem.bias_pointer is not None:
                start += " + planish_v16_load(bias + n)"
            inner = [
                "for (int64_t n = 0; n < count; n += 16) {",
                "const int part = count - n < 16 ? (int)(count - n) : 16;",
                f"@NAME@_finish({', '.join([start, 'part', 'd', *pointers])});",
                "}",
            ]
        pitch = self.dim(self.lines.pitch)
        lines = [
            f"int64_t y = first / {pitch}, x = first % {pitch};",
            "for (int64_t row = first; row < last; row++, sums += width) {",
            f"if (x < {self.dim(self.lines.width)}) {{",
            *inner,
            "}",
            f"if (++x == {pitch}) {{ x = 0; y++; }}",
            "}",
        ]
        head = (
            "static __attribute__((noinline)) void @NAME@_rows(float *sums, int64_t width, "
            "int64_t first, int64_t last, int64_t count, const float *bias, const int64_t *d"
            + self.access_parameters()
        )
        return f"{head}) {{\n{print_block(lines)}}}\n"

    def access_parameters(self) -> str:
        text = ""
        for access in self.problem.epilogue.accesses:
            const = "" if access.name.startswith("o") else "const "
            text += f", {const}{access.ctype} *{access.name}"
        return text

    # -- the kernel ------------------------------------------------------------------------------

    def print_kernel(self) -> str:
        problem, ctype = self.problem, self.kind.ctype
        itemsize = self.kind.dtype.itemsize
        lines = [
            f"const {ctype} *const input = (const {ctype} *)p[{problem.input_pointer}] + "
            f"{self.dim(problem.input_offset)};",
            f"const {ctype} *const weights = (const {ctype} *)p[{problem.weight_pointer}];",
            f"const int64_t line = {self.dim(self.lines.rows)};",
            f"const int64_t tiles = (line + {TILE_ROWS - 1}) / {TILE_ROWS};",
            "const int64_t rows = (line + tiles - 1) / tiles;",
            "float *const sums = (float *)scratch;",
            f"@NAME@_configure((int)rows, {self.step * itemsize}, {self.step // self.kind.group});",
            "for (int64_t item = begin; item < end; item++) {",
            *self.print_item(),
            "}",
            "_tile_release();",
        ]
        return (
            "static void @NAME@(char *const *p, const int64_t *d, int64_t begin, int64_t end, "
            f"char *scratch) {{\n{print_block(lines)}}}\n"
        )

    def print_item(self) -> list[str]:
        lines = ["int64_t rest = item;"]
        axes = self.item_axes()
        for name, extent in reversed(axes[1:]):
            lines.append(f"const int64_t {name} = rest % {self.dim(extent)};")
            lines.append(f"rest /= {self.dim(extent)};")
        lines.append(f"const int64_t {axes[0][0]} = rest;")
        own = [(i, a) for i, a in enumerate(self.lines.outer) if a.own_weights]
        matrix = [f"i{i} * {self.dim(product(a.extent for j, a in own if j > i))}" for i, _ in own]
        lines.append(f"const int64_t matrix = {' + '.join(matrix) or '0'};")
        lines.append(f"const {self.kind.ctype} *const item_a = input{self.outer_offset(0)};")
        for index, access in enumerate(self.problem.epilogue.accesses, start=1):
            const = "" if access.name.startswith("o") else "const "
            start = f" + {self.dim(access.offset)}" if access.offset != 0 else ""
            lines.append(
                f"{const}{access.ctype} *const item_{access.name} = ({const}{access.ctype} *)"
                f"p[{access.pointer}]{start}{self.outer_offset(index)};"
            )
        groups, panels = self.dim(self.item_groups), self.item_panels
        return [
            *lines,
            f"const int64_t first_tile = block * {groups} * {self.blocking.high};",
            f"const int64_t last_tile = planish_min_i64(first_tile + {groups} * "
            f"{self.blocking.high}, tiles);",
            f"const int64_t last_panel = planish_min_i64(panels * {panels} + {panels}, "
            f"{self.columns.panels});",
            f"for (int64_t panel = panels * {panels}; panel < last_panel; panel++) {{",
            *self.print_panel(),
            "}",
        ]

    def outer_offset(self, access: int) -> str:
        return "".join(
            f" + i{i} * {self.dim(axis.strides[access])}"
            for i, axis in enumerate(self.lines.outer)
            if axis.strides[access] != 0
        )

    def print_panel(self) -> list[str]:
        columns = self.columns
        wide, before = str(columns.vectors), f"panel * {columns.vectors}"
        if columns.narrow:
            wide = f"(panel < {columns.wide} ? {columns.vectors} : {columns.vectors - 1})"
            before = f"({before} - planish_max_i64(panel - {columns.wide}, 0))"
        bias = "const float *const bias = 0;"
        if self.problem.bias_pointer is not None:
            bias = (
                f"const float *const bias = (const float *)p[{self.problem.bias_pointer}] + "
                f"matrix * {columns.padded} + column;"
            )
        high, step_x = self.blocking.high, self.problem.x.strides[0]
        step = "const int64_t high = 1;"
        if high > 1:
            step = f"const int64_t high = last_tile - tile >= {high} ? {high} : 1;"
        return [
            f"const int64_t vectors = {wide};",
            f"const int64_t column = {before} * 16;",
            f"const int64_t count = planish_min_i64(vectors * 16, {columns.count} - column);",
            f"const {self.kind.ctype} *const b = weights + (matrix * {columns.padded} + column) * "
            f"{self.depth};",
            bias,
            "for (int64_t tile = first_tile; tile < last_tile;) {",
            step,
            f"int64_t at[{high}];",
            # the line's last tile is moved back to end with the line
            "for (int64_t m = 0; m < high; m++)",
            f"at[m] = planish_min_i64((tile + m) * rows, line - rows) * {self.dim(step_x)};",
            *self.print_calls(),
            "for (int64_t m = 0; m < high; m++) {",
            "const int64_t first = (tile + m) * rows;",
            "const int64_t moved = first - planish_min_i64(first, line - rows);",
            "@NAME@_rows(sums + (m * rows + moved) * vectors * 16, vectors * 16, first, "
            f"planish_min_i64(first + rows, line), count, bias, d{self.positions()});",
            "}",
            "tile += high;",
            "}",
        ]

    def print_calls(self) -> list[str]:
        arguments = "item_a, b, sums, rows, at, d"
        lines = []
        for vectors in self.widths:
            for high in sorted({1, self.blocking.high}):
                lines.append(
                    f"if (vectors == {vectors} && high == {high}) "
                    f"@NAME@_{high}x{vectors}({arguments});"
                )
        return lines

    def positions(self) -> str:
        text = ""
        axis = self.problem.epilogue.column_axis
        for access in self.problem.epilogue.accesses:
            text += f", item_{access.name} + column * {self.dim(access.strides[axis])}"
        return text


_CONFIGURE = """
static void @NAME@_configure(int rows, int depth_bytes, int pairs) {
    struct __attribute__((packed, aligned(64))) {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } c;
    memset(&c, 0, sizeof c);
    c.palette = 1;
    for (int tile = 0; tile < 8; tile++) {
        c.bytes[tile] = tile == 4 || tile == 5 ? (uint16_t)depth_bytes : 64;
        c.rows[tile] = (uint8_t)(tile < 6 ? rows : pairs);
    }
    _tile_loadconfig(&c);
}
"""


def candidate_amx_blockings(
    problem: Problem, threads: int, l2: int, bindings: Mapping[str, int]
) -> Sequence[AmxBlocking]:
    """Return blockings worth timing, the best guess first."""
    weights = int(str(problem.depth)) * int(str(problem.columns)) * problem.kind.dtype.itemsize
    rows = lines_of(problem).rows
    tiles = -(-(rows if isinstance(rows, int) else 128) // TILE_ROWS)
    order = "m" if weights <= l2 // 2 and tiles > 4 else "n"
    shapes = [(2, 2), (1, 4), (4, 1)] if tiles > 1 else [(1, 4), (1, 2)]
    found: dict[AmxBlocking, None] = {}
    for high, wide in shapes:
        groups = -(-tiles // high)
        share = max(1, groups // (4 * threads)) if threads > 1 else min(groups, 8)
        if order == "m":
            found.setdefault(AmxBlocking(high, wide, "m", share, 0))
        found.setdefault(AmxBlocking(high, wide, "n", 0, 1))
        if threads > 1:
            found.setdefault(AmxBlocking(high, wide, "n", -(-groups // threads), 1))
    return list(found)
