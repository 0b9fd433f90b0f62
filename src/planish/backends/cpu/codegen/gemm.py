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
from dataclasses import dataclass

from planish.backends.cpu.codegen.epilogue import print_finish
from planish.backends.cpu.codegen.gemm_problem import Blocking, Problem, RightOperand
from planish.backends.cpu.codegen.gemm_tiles import TilePrinter
from planish.backends.cpu.codegen.packing import Columns
from planish.backends.cpu.codegen.scalar import memory_type
from planish.backends.cpu.codegen.tile import Tile, print_block
from planish.ir.dtypes import BF16
from planish.ir.shape import Dim, ceildiv, product


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
    return GemmPrinter(problem.with_short_runs(blocking.depth), blocking, largest or {}).print()


class GemmPrinter(TilePrinter):
    """The kernel around the tiles: items, panels, hoisted K loops, calls."""

    # -- the whole -------------------------------------------------------------------------------

    def print(self) -> GemmSource:
        """Return the whole kernel."""
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
        """Number of items of work."""
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

    # -- the kernel ------------------------------------------------------------------------------

    def print_kernel(self, suffix: str = "") -> str:
        """Return the kernel's function, its name with `suffix`."""
        lines = [
            *self.print_pointers(),
            "for (int64_t item = begin; item < end; item++) {",
            *self.print_item(),
            "}",
        ]
        head = (
            f"static void @NAME@{suffix}(char *const *p, const int64_t *d, int64_t begin, "
            "int64_t end, char *scratch)"
        )
        return f"{head} {{\n{print_block(lines)}}}\n"

    def print_pointers(self) -> list[str]:
        """Return the declarations of the operands' pointers."""
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
            start = f"const {problem.kind.sum_ctype} *"
            lines.append(f"{start}const biases = ({start})p[{problem.bias_pointer}];")
        return lines

    def print_item(self) -> list[str]:
        """Return the statements of one item."""
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
        """Return the declarations of the item's indices."""
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
        """Return the declarations of where the item's operands begin."""
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
        """Return the offset of the axes around the tiles for one access, with a leading plus."""
        terms = [
            f" + i{i} * {self.dim(axis.strides[access])}"
            for i, axis in enumerate(self.problem.outer)
            if axis.strides[access] != 0
        ]
        return "".join(terms)

    def print_panel(self) -> list[str]:
        """Return the statements of one panel."""
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
        lines += self.print_panel_weights()
        if problem.bias_pointer is not None:
            start = f"const {problem.kind.sum_ctype} *const bias"
            lines.append(f"{start} = biases + matrix * {columns.padded} + column;")
        if isinstance(depth, int):
            lines.append(
                f"const int64_t chunk = {depth // self.hoisted_count} * vectors * {lanes};"
            )
        return lines + self.print_hoisted()

    def print_panel_weights(self) -> list[str]:
        """Return the declaration of a panel's weights, ``panel_b``."""
        if self.problem.right is not None:
            return self.print_pack(self.problem.right)
        return [
            f"const {self.problem.kind.ctype} *const panel_b = weights + "
            f"(matrix * {self.columns.padded} + column) * {self.dim(self.problem.depth)};"
        ]

    def print_chunk_weights(self) -> list[str]:
        """Return the declaration of the weights of one step of the hoisted loops, ``b``."""
        return [
            f"const {self.problem.kind.ctype} *const b = panel_b"
            f"{' + step * chunk' if self.hoisted else ''};"
        ]

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
            *self.print_chunk_weights(),
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
            sums = f"{self.problem.kind.sum_ctype} *"
            lines.append(f"{sums}acc = ({sums})({base}){place};")
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
        """Return the statements of one tile of a static plane."""
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
        """Return the statements of one tile of rows whose number is symbolic."""
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
        """Return the numbers of the epilogue's accesses."""
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
        """Return the arguments of a tile's function."""
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
