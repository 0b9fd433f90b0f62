"""Implicit GEMM on AMX tiles, as one C kernel.

    out[row][column] = epilogue(bias[column] + sum_k input[row + offset(k)] * weight[k][column])

The mathematics and the layouts are those of gemm.py, only the inner loop differs: a *block* of
rows x vectors tile accumulators (2 x 2: four products for four tile loads) runs over all of K, with
the input's tiles loaded straight from channels-last memory (a tile row is one pixel) and weights
packed as tiles (amx_plan.py). What bounds it: a product takes one cycle a row (16), a tile load 8
cycles from L1 and about 20 from L2, so 2 x 2 from L2 is near the limit of both; then the epilogue,
as long as the products of 64 channels. It runs between the next block's products, which gains
little (an Emerald Rapids core, bytes, 256 to 1024 channels at 14 x 14: tiles alone 32 us, epilogue
alone 20, both 48): what counts is how little it does (amx_rows.py). A block is stored to one buffer
in L1; its rows are finished before the next block's are stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from planish.backends.cpu.codegen.amx_plan import (
    LANES,
    AmxBlocking,
    Lines,
    Registers,
    Steps,
    lines_of,
    steps_of,
)
from planish.backends.cpu.codegen.amx_rows import BlockRows, const_of
from planish.backends.cpu.codegen.element import ElementKind
from planish.backends.cpu.codegen.gemm_problem import Problem
from planish.backends.cpu.codegen.packing import Columns, split_columns
from planish.backends.cpu.codegen.scalar import c_dim
from planish.backends.cpu.codegen.tile import print_block
from planish.errors import TacticError
from planish.ir.shape import Dim, ceildiv, product

# C type of the input to the product of two tiles; weights are bf16, or signed bytes
PRODUCTS = {
    "uint16_t": "_tile_dpbf16ps",
    "uint8_t": "_tile_dpbusd",
    "int8_t": "_tile_dpbssd",
}


# bytes of weights that stay in L2 while an image passes: then one image is done after the other
RESIDENT = 640 << 10


@dataclass(frozen=True)
class AmxSource:
    """A printed kernel: source, items, scratch bytes; how weights have to be packed."""

    source: str
    items: Dim
    scratch_bytes: int
    columns: Columns
    steps: Steps


def print_amx(problem: Problem, blocking: AmxBlocking) -> AmxSource:
    """Return the C source of `problem` under `blocking`.

    Raises
    ------
    TacticError
        When the problem has no steps (`steps_of`), or the block needs more than 8 registers.
    """
    steps = steps_of(problem.run, problem.kind) if isinstance(problem.run, int) else None
    if steps is None or not isinstance(problem.columns, int) or problem.right is not None:
        raise TacticError("AMX tiles cannot walk this K", where=f"run {problem.run}")
    columns = split_columns(problem.columns, LANES, blocking.vectors)
    registers = Registers(blocking.rows, columns.vectors)
    if not registers.fits:
        raise TacticError(f"{blocking.rows} x {blocking.vectors} tiles do not fit 8 registers")
    lines = lines_of(problem, blocking.rows, blocking.flat)
    return _Printer(problem, blocking, steps, columns, registers, lines).print()


@dataclass
class _Printer:
    problem: Problem
    blocking: AmxBlocking
    steps: Steps
    columns: Columns
    registers: Registers
    lines: Lines
    kind: ElementKind = field(init=False)
    rows: BlockRows = field(init=False)

    def __post_init__(self) -> None:
        self.kind = self.problem.kind
        self.rows = BlockRows(self.problem, self.lines, self.columns, self.blocking.rows)

    # -- sizes -----------------------------------------------------------------------------------

    @property
    def tile_elements(self) -> int:
        """Elements of a tile of weights."""
        return self.steps.size * LANES

    @property
    def hoisted(self) -> tuple[int, Dim] | None:
        """Parts of K around the blocks, and their stride in the input."""
        parts = self.blocking.depth
        if not parts:
            return None
        if self.problem.loops:
            return self.problem.loops[0]
        if self.steps.overlaps or self.steps.count % parts:
            raise TacticError(f"{self.steps.count} steps of K cannot be cut into {parts} parts")
        return parts, self.steps.run // parts

    @property
    def loops(self) -> tuple[tuple[int, Dim], ...]:
        """K loops of a block, without the run."""
        return self.problem.loops[1 if self.hoisted else 0 :]

    @property
    def run_steps(self) -> int:
        """Steps of the innermost loop."""
        if self.hoisted and not self.problem.loops:
            return self.steps.count // self.hoisted[0]
        return self.steps.count

    @property
    def block_steps(self) -> int:
        """Steps of a block (of one part of K)."""
        total = self.run_steps
        for count, _ in self.loops:
            total *= count
        return total

    @property
    def total_steps(self) -> int:
        return self.block_steps * (self.hoisted[0] if self.hoisted else 1)

    @property
    def weight_bytes(self) -> int:
        """Bytes of one matrix of weights."""
        depth = self.total_steps * self.steps.size * self.kind.dtype.itemsize
        return depth * self.columns.padded

    @property
    def item_blocks(self) -> Dim:
        count = self.lines.blocks(self.blocking.rows)
        if not isinstance(count, int):
            return self.blocking.blocks or count
        return min(self.blocking.blocks or count, count)

    @property
    def item_panels(self) -> int:
        return min(self.blocking.panels or self.columns.panels, self.columns.panels)

    @property
    def buffer_bytes(self) -> int:
        size = self.rows.slots * self.rows.width * 4
        if not self.hoisted:
            return size
        blocks = self.item_blocks
        if not isinstance(blocks, int):
            raise TacticError("K in parts needs a limit of blocks")
        return size * blocks

    def dim(self, dim: Dim) -> str:
        return c_dim(dim, self.problem.symbols)

    @property
    def streams(self) -> bool:
        """Whether blocks prefetch the next panel."""
        return self.blocking.stream > 0 and not self.hoisted and self.blocking.order == "n"

    # -- the whole -------------------------------------------------------------------------------

    def print(self) -> AmxSource:
        parts = [
            self.rows.print_epilogue(),
            self.rows.print_state(),
            self.rows.print_rows(),
            *(self.print_block_function(vectors) for vectors in self.rows.widths),
            self.print_kernel(),
        ]
        items = product(extent for _, extent in self.item_axes())
        return AmxSource("\n".join(parts), items, self.buffer_bytes, self.columns, self.steps)

    # -- a block ---------------------------------------------------------------------------------

    def print_block_function(self, vectors: int) -> str:
        """Return the function that computes one block, and finishes the one before it meanwhile."""
        cells = [(i, j) for i in range(self.blocking.rows) for j in range(vectors)]
        clear = [f"_tile_zero({self.cell(i, j)});" for i, j in cells]
        body = clear
        if self.hoisted:
            resume = [f"_tile_loadd({self.cell(i, j)}, {self.place(i, j)});" for i, j in cells]
            body = ["if (resume) {", *resume, "} else {", *clear, "}"]
        if self.blocking.interleave:
            # a copy that no store of a result can change stays in registers
            body += ["const @NAME@_block waiting = *q;", "int64_t next = waiting.next;"]
        body += self.print_walk(vectors)
        if self.blocking.interleave:
            body += [self.rows.finish("&waiting", "next", self.rows.units)]
            body += [f"q->next = {self.rows.units};"]
        body += [f"_tile_stored({self.cell(i, j)}, {self.place(i, j)});" for i, j in cells]
        pointers = [f"const {self.kind.input_ctype} *a{i}" for i in range(self.blocking.rows)]
        parameters = [
            *pointers,
            f"const {self.kind.ctype} *b",
            f"{self.kind.sum_ctype} *acc",
            "@NAME@_block *q",
            "const int64_t *d",
            "int64_t rows",
            *(["const char *s"] if self.streams else []),
            *(["int resume"] if self.hoisted else []),
        ]
        head = f"static __attribute__((noinline)) void @NAME@_tiles{vectors}"
        return f"{head}({', '.join(parameters)}) {{\n{print_block(body)}}}\n"

    def cell(self, row: int, vector: int) -> int:
        """Return the register of an accumulator."""
        return row * self.columns.vectors + vector

    def place(self, row: int, vector: int) -> str:
        """Return where an accumulator is stored, and the stride of its rows in bytes."""
        height, width = self.rows.height, self.rows.width
        return f"acc + {row * height * width + vector * LANES}, {width * 4}"

    def print_walk(self, vectors: int) -> list[str]:
        """Return the K loops of a block."""
        size, body, terms = self.steps.size, [], []
        for level, (count, stride) in enumerate(self.loops):
            body.append(f"for (int64_t t{level} = 0; t{level} < {count}; t{level}++) {{")
            terms.append(f"t{level} * {self.dim(stride)}")
        body.append(f"for (int64_t k = 0; k < {self.run_steps}; k++) {{")
        place = f"k * {size}"
        if self.steps.overlaps:
            place = f"planish_min_i64(k * {size}, {self.steps.run - size})"
        body.append(f"const int64_t at = {' + '.join([*terms, place])};")
        body += self.print_step(vectors)
        body += self.print_prefetch(vectors)
        body.append(f"b += {vectors * self.tile_elements};")
        if self.blocking.interleave:
            share = -(-self.rows.units // self.block_steps)
            limit = f"planish_min_i64(next + {share}, {self.rows.units})"
            body += [f"const int64_t last = {limit};", self.rows.finish("&waiting", "next", "last")]
        return [*body, "}", *(["}"] * len(self.loops))]

    def print_step(self, vectors: int) -> list[str]:
        """Return the tile loads and products of one step."""
        use, rows = self.registers, self.blocking.rows
        dot = PRODUCTS[self.kind.input_ctype]
        itemsize = self.kind.dtype.itemsize
        stride = f"{self.dim(self.problem.x.strides[0])} * {itemsize}"
        left = [use.accumulators + i % use.left for i in range(rows)]
        right = [use.accumulators + use.left + j % use.right for j in range(vectors)]
        load_left = [f"_tile_loadd({left[i]}, a{i} + at, {stride});" for i in range(rows)]
        load_right = [
            f"_tile_loadd({right[j]}, b + {j * self.tile_elements}, 64);" for j in range(vectors)
        ]
        body = []
        if use.holds_left:
            for j in range(vectors):
                body.append(load_right[j])
                for i in range(rows):
                    body += [load_left[i]] if j == 0 else []
                    body.append(f"{dot}({self.cell(i, j)}, {left[i]}, {right[j]});")
            return body
        for i in range(rows):
            body.append(load_left[i])
            for j in range(vectors):
                body += [load_right[j]] if i == 0 else []
                body.append(f"{dot}({self.cell(i, j)}, {left[i]}, {right[j]});")
        return body

    def print_prefetch(self, vectors: int) -> list[str]:
        step = vectors * self.tile_elements * self.kind.dtype.itemsize
        body = []
        for distance, hint in ((self.blocking.prefetch, "T0"), (self.blocking.ahead, "T1")):
            body += [
                f"_mm_prefetch((const char *)b + {distance * step + line}, _MM_HINT_{hint});"
                for line in range(0, step if distance else 0, 64)
            ]
        if self.streams:
            lines = self.blocking.stream
            body += [f"_mm_prefetch(s + {line * 64}, _MM_HINT_T1);" for line in range(lines)]
            body.append(f"s += {lines * 64};")
        return body

    # -- the kernel ------------------------------------------------------------------------------

    def print_kernel(self) -> str:
        use = self.registers
        depth = self.steps.size * self.kind.dtype.itemsize
        body = [
            *self.print_extents(),
            *self.print_pointers(),
            *self.rows.print_start(),
            f"planish_amx_begin({use.accumulators}, {use.left}, {use.right}, (int)rows, {depth});",
            "for (int64_t item = begin; item < end; item++) {",
            *self.print_item(),
            "}",
            self.rows.finish("q", "q->next", self.rows.units),
            "planish_amx_end();",
        ]
        head = (
            "static void @NAME@(char *const *p, const int64_t *d, int64_t begin, int64_t end, "
            "char *scratch)"
        )
        return f"{head} {{\n{print_block(body)}}}\n"

    def print_extents(self) -> list[str]:
        """Return the declarations of the plane's sizes."""
        lines, tiles = self.lines, self.blocking.rows
        body = [
            f"const int64_t extent = {self.dim(lines.extent)};",
            f"const int64_t blocks = {self.dim(lines.blocks(tiles))};",
        ]
        if lines.rows is not None:
            return [*body, f"const int64_t rows = {lines.rows};"]
        return [
            *body,
            "if (blocks == 0) return;",
            f"const int64_t rows = (extent + blocks * {tiles} - 1) / (blocks * {tiles});",
        ]

    def print_pointers(self) -> list[str]:
        problem, source = self.problem, f"const {self.kind.input_ctype} *"
        weights = f"const {self.kind.ctype} *"
        body = [
            f"{source}const input = ({source})p[{problem.input_pointer}] + "
            f"{self.dim(problem.input_offset)};",
            f"{weights}const weights = ({weights})p[{problem.weight_pointer}];",
        ]
        if self.rows.has_bias:
            start = f"const {self.kind.sum_ctype} *"
            body.append(f"{start}const biases = ({start})p[{problem.bias_pointer}];")
        return body

    def item_axes(self) -> list[tuple[str, Dim]]:
        """Return (C name, extent) of the item's indices, outermost first."""
        outer = list(enumerate(self.problem.outer))
        groups = [(f"i{i}", axis.extent) for i, axis in outer if axis.own_weights]
        batch = [(f"i{i}", axis.extent) for i, axis in outer if not axis.own_weights]
        blocks = ("rows_item", ceildiv(self.lines.blocks(self.blocking.rows), self.item_blocks))
        panels = ("columns_item", ceildiv(self.columns.panels, self.item_panels))
        if self.blocking.order == "n" and self.weight_bytes > RESIDENT:
            return [*groups, panels, *batch, blocks]
        return [*groups, *batch, blocks, panels]

    def print_item(self) -> list[str]:
        blocks = self.dim(self.item_blocks)
        body = [
            *self.print_indices(),
            *self.print_item_pointers(),
            f"const int64_t first_block = rows_item * {blocks};",
            f"const int64_t last_block = planish_min_i64(first_block + {blocks}, blocks);",
            f"const int64_t first_panel = columns_item * {self.item_panels};",
            f"const int64_t last_panel = planish_min_i64(first_panel + {self.item_panels}, "
            f"{self.columns.panels});",
        ]
        sums = f"{self.kind.sum_ctype} *"
        by_panel = "for (int64_t panel = first_panel; panel < last_panel; panel++) {"
        by_block = "for (int64_t block = first_block; block < last_block; block++) {"
        if self.hoisted:
            parts, stride = self.hoisted
            chunk = self.block_steps * self.tile_elements
            return [
                *body,
                by_panel,
                *self.print_panel(),
                f"for (int64_t part = 0; part < {parts}; part++) {{",
                f"const int64_t shift = part * {self.dim(stride)};",
                f"const {self.kind.ctype} *const b = panel_b + part * vectors * {chunk};",
                by_block,
                f"{sums}const acc = ({sums})scratch + (block - first_block) * "
                f"{self.rows.slots * self.rows.width};",
                *self.print_tiles(),
                *self.print_call(),
                f"if (part < {parts - 1}) continue;",
                *self.rows.print_waiting(self.blocking.interleave),
                "}",
                "}",
                "}",
            ]
        inner = [
            f"{sums}const acc = ({sums})scratch;",
            *self.print_call(),
            *self.rows.print_waiting(self.blocking.interleave),
        ]
        panel = [*self.print_panel(), f"const {self.kind.ctype} *const b = panel_b;"]
        if self.blocking.order == "n":
            nest = [by_panel, *panel, by_block, *self.print_tiles(), *inner]
        else:
            nest = [by_block, *self.print_tiles(), by_panel, *panel, *inner]
        return [*body, *nest, "}", "}"]

    def print_indices(self) -> list[str]:
        lines, axes = ["int64_t rest = item;"], self.item_axes()
        for name, extent in reversed(axes[1:]):
            if extent == 1:
                lines.append(f"const int64_t {name} = 0;")
                continue
            lines.append(f"const int64_t {name} = rest % {self.dim(extent)};")
            lines.append(f"rest /= {self.dim(extent)};")
        return [*lines, f"const int64_t {axes[0][0]} = rest;"]

    def print_item_pointers(self) -> list[str]:
        problem = self.problem
        lines = [f"const {self.kind.input_ctype} *const item_a = input{self.outer_offset(0)};"]
        matrix = [
            f"i{i} * {self.dim(product(a.extent for a in problem.outer[i + 1 :] if a.own_weights))}"
            for i, axis in enumerate(problem.outer)
            if axis.own_weights
        ]
        lines.append(f"const int64_t matrix = {' + '.join(matrix) or '0'};")
        for index, access in enumerate(problem.epilogue.accesses, start=1):
            pointer = f"{const_of(access)}{access.ctype} *"
            lines.append(
                f"{pointer}const item_{access.name} = ({pointer})p[{access.pointer}]"
                f"{self.outer_offset(index)};"
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
        columns, depth = self.columns, self.total_steps * self.steps.size
        vectors, before = str(columns.vectors), f"panel * {columns.vectors}"
        if columns.narrow:
            vectors = f"(panel < {columns.wide} ? {columns.vectors} : {columns.vectors - 1})"
            before = f"({before} - planish_max_i64(panel - {columns.wide}, 0))"
        body = [
            f"const int64_t vectors = {vectors};",
            f"const int64_t column = {before} * {LANES};",
            f"const int64_t count = planish_min_i64(vectors * {LANES}, {columns.count} - column);",
            f"const {self.kind.ctype} *const panel_b = weights + "
            f"(matrix * {columns.padded} + column) * {depth};",
        ]
        if self.rows.has_bias:
            start = f"const {self.kind.sum_ctype} *const bias"
            body.append(f"{start} = biases + matrix * {columns.padded} + column;")
        return body

    def print_tiles(self) -> list[str]:
        """Return where the tiles of a block start and how many of their rows are done already."""
        lines, tiles, body = self.lines, self.blocking.rows, []
        x = self.dim(self.problem.x.strides[0])
        if self.rows.linear and lines.lines == 1:
            return self.print_linear_tiles()
        for i in range(tiles):
            body.append(f"const int64_t t{i} = block * {tiles} + {i};")
            index, line, pointer = f"t{i}", "", ""
            if lines.lines > 1 and self.problem.y is not None:
                parts = self.dim(lines.parts)
                body.append(
                    f"const int64_t y{i} = planish_min_i64(t{i} / {parts}, {lines.lines - 1});"
                )
                index, line = f"t{i} % {parts}", f"y{i} * extent + "
                pointer = f" + y{i} * {self.dim(self.problem.y.strides[0])}"
            body += [
                f"const int64_t wanted{i} = {index} * rows;",
                f"const int64_t start{i} = planish_min_i64(wanted{i}, extent - rows);",
                f"const int64_t first{i} = {line}start{i};",
                f"const {self.kind.input_ctype} *const a{i} = item_a{pointer} + start{i} * {x};",
            ]
            done = f"wanted{i} - start{i}"
            if lines.lines > 1:
                done = f"t{i} < {self.dim(lines.tiles)} ? {done} : rows"
            body.append(f"const int64_t skip{i} = {done};")
        return body

    def print_linear_tiles(self) -> list[str]:
        """Return `print_tiles` for blocks that are moved back whole where they end late."""
        slots, x = self.rows.slots, self.dim(self.problem.x.strides[0])
        source = f"const {self.kind.input_ctype} *const a"
        return [
            f"const int64_t wanted = block * {slots};",
            f"const int64_t first0 = planish_min_i64(wanted, extent - {slots});",
            "const int64_t skip0 = wanted - first0;",
            *(
                f"{source}{i} = item_a + (first0 + {i * self.rows.height}) * {x};"
                for i in range(self.blocking.rows)
            ),
        ]

    def print_call(self) -> list[str]:
        shift = " + shift" if self.hoisted else ""
        arguments = [f"a{i}{shift}" for i in range(self.blocking.rows)]
        arguments += ["b", "acc", "q", "d", "rows", *(["part > 0"] if self.hoisted else [])]
        if self.streams:
            # each block fetches its share of the next panel
            panel = f"vectors * {self.total_steps * self.tile_elements}"
            share = self.block_steps * self.blocking.stream * 64
            arguments.append(f"(const char *)(panel_b + {panel}) + (block - first_block) * {share}")
        calls = [f"@NAME@_tiles{vectors}({', '.join(arguments)});" for vectors in self.rows.widths]
        if len(calls) == 1:
            return calls
        return [f"if (vectors == {self.rows.widths[0]}) {calls[0]}", f"else {calls[1]}"]
