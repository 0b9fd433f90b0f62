"""Products by weights of few bits, which are decoded as they are multiplied.

    out[row][column] = epilogue(bias[column] + sum_g scale[g][column] *
                                sum_{k in g} (number[k][column] - zero[g][column]) * x[row][k])

Two kernels, of which the number of rows chooses one (at run time where rows are symbolic):

*few*: up to a handful of rows (a decoder's step) is bound by the streaming of weights. Numbers
become floats in registers right in the loop: mask, convert, multiply-add. With four bits, number i
of a word is left at its place, which makes it 16^i times as large; x was divided by 16^i
beforehand, which is exact, so that no shift is needed. Zero points are taken off once for each part
of a group (acc -= zero * sum of x), scales applied once for each group. A panel is one stream of
memory, all of K of `width` columns. One thread reads 11 to 14 GB/s of int4 and int8 weights on Zen
3 (which is what it can read), 15 and 23 GB/s on Emerald Rapids with AVX-512: int4 is bound by
arithmetic there, so that with VNNI numbers are multiplied as bytes (compressed_digits.py).

*many*: the tiles of gemm.py, over a chunk of K of one panel that is decoded into scratch (L1, L2)
first: the cost of decoding is spread over all rows.

Layouts: compressed.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planish.backends.cpu.codegen.compressed import Encoding
from planish.backends.cpu.codegen.epilogue import print_finish
from planish.backends.cpu.codegen.gemm import GemmPrinter
from planish.backends.cpu.codegen.tile import MINIMUM_CHAINS, print_block
from planish.ir.shape import Dim

OCTET = 8
AHEAD = 4096  # bytes of the stream of weights that are prefetched ahead of their use
LINE = 64


@dataclass(frozen=True)
class CompressedPointers:
    """Indices into the kernel's pointers; `zeros` is None where one zero point serves all."""

    numbers: int
    scales: int
    zeros: int | None


@dataclass
class CompressedSource:
    """A printed kernel: source, number of items and scratch bytes."""

    source: str
    items: Dim
    scratch_bytes: int


@dataclass
class CompressedPrinter(GemmPrinter):
    """Both kernels and the choice between them.

    Attributes
    ----------
    encoding, pointers
        The weights.
    strips : int
        Vectors of columns of a panel of memory.
    few : int
        Most rows that *few* does.
    threads : int
        What items are cut for where rows are few.
    """

    encoding: Encoding
    pointers: CompressedPointers
    strips: int
    few: int
    threads: int

    def print_all(self) -> CompressedSource:
        """Return the whole kernel."""
        problem, rows = self.problem, self.problem.x.extent
        parts = [print_finish(problem.epilogue, problem.unit.lanes, problem.symbols)]
        parts.append(self.print_finish_tile())
        is_plane = len(problem.axes) == 1
        static_few = is_plane and isinstance(rows, int) and rows <= self.few
        has_few = static_few or (is_plane and not isinstance(rows, int))
        items: Dim = min(self.panels, 8 * self.threads)
        scratch = 0
        if not static_few:
            parts += [self.print_tile(tile) for tile in self.tiles()]
            parts.append(self.print_kernel("_many" if has_few else ""))
            items, scratch = self.items, self.packed_bytes + self.scratch_floats * 4
        if has_few:
            sizes = sorted({min(size, 4) for size in range(1, self.few + 1)})
            if isinstance(rows, int):
                sizes = sorted({4, rows % 4} - {0}) if rows >= 4 else [rows]
            parts += [self.print_few_rows(size) for size in sizes]
            parts.append(self.print_few(sizes, items, "" if static_few else "_few"))
            scratch = max(scratch, self.few_bytes)
        if has_few and not static_few:
            parts.append(self.print_choice())
        return CompressedSource("\n".join(parts), items, scratch)

    def print_choice(self) -> str:
        """Return the kernel that chooses by the number of rows."""
        arguments = "p, d, begin, end, scratch"
        lines = [
            f"if ({self.dim(self.problem.x.extent)} <= {self.few}) @NAME@_few({arguments});",
            f"else @NAME@_many({arguments});",
        ]
        head = (
            "static void @NAME@(char *const *p, const int64_t *d, int64_t begin, int64_t end, "
            "char *scratch)"
        )
        return f"{head} {{\n{print_block(lines)}}}\n"

    # -- the weights -----------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """Columns of a panel of memory."""
        return self.strips * self.problem.unit.lanes

    @property
    def panels(self) -> int:
        """Panels of memory."""
        return -(-self.encoding.columns // self.width)

    def print_pointers(self) -> list[str]:
        """Return the declarations of the operands' pointers."""
        problem, code = self.problem, self.encoding
        source = f"const {problem.kind.input_ctype} *"
        entries = [(code.ctype, "numbers", self.pointers.numbers)]
        entries.append((code.scale_ctype, "scales", self.pointers.scales))
        if self.pointers.zeros is not None:
            entries.append((code.zero_ctype, "zeros", self.pointers.zeros))
        if problem.bias_pointer is not None:
            entries.append(("float", "biases", problem.bias_pointer))
        lines = [
            f"const {ctype} *const {name} = (const {ctype} *)p[{pointer}];"
            for ctype, name, pointer in entries
        ]
        return [
            f"{source}const input = ({source})p[{problem.input_pointer}] + "
            f"{self.dim(problem.input_offset)};",
            *lines,
        ]

    # -- many rows -------------------------------------------------------------------------------

    @property
    def packed_bytes(self) -> int:
        """Scratch in front of the accumulators: decoded weights."""
        depth = self.encoding.depth // self.hoisted_count
        size = depth * self.columns.vectors * self.problem.unit.lanes * 4
        return -(-size // 64) * 64

    def print_panel_weights(self) -> list[str]:
        """Return the declaration of where weights are decoded to."""
        return ["float *const panel_b = (float *)scratch;"]

    def print_chunk_weights(self) -> list[str]:
        """Return the statements that decode the weights of one step."""
        code, lanes, width = self.encoding, self.problem.unit.lanes, self.width
        count = code.depth // self.hoisted_count
        first = f"step * {count}" if self.hoisted else "0"
        numbers = code.row_elements(code.padded) * width
        zeros, zero = "NULL", f"{code.zero}.0f"
        if code.zero is None:
            zeros, zero = f"zeros + panel_m * {code.groups * width} + lane", "0.0f"
        call = (
            f"{self.problem.unit.prefix}_decode{code.bits}_{code.scale_name}("
            f"numbers + panel_m * {numbers} + lane, "
            f"scales + panel_m * {code.groups * width} + lane, {zeros}, {zero}, {first}, {count}, "
            f"{code.group}, {width}, panel_b + i * {lanes}, vectors * {lanes});"
        )
        return [
            "for (int64_t i = 0; i < vectors; i++) {",
            f"const int64_t strip = column / {lanes} + i, panel_m = strip / {self.strips};",
            f"const int64_t lane = strip % {self.strips} * {lanes};",
            call,
            "}",
            "const float *const b = panel_b;",
        ]

    # -- few rows --------------------------------------------------------------------------------

    @property
    def few_rows(self) -> int:
        """Most rows of *few*."""
        rows = self.problem.x.extent
        return rows if isinstance(rows, int) else self.few

    @property
    def row_floats(self) -> int:
        """Floats of one prepared row."""
        return -(-self.encoding.padded // 16) * 16

    @property
    def row_sums(self) -> int:
        """Sums of one prepared row."""
        code = self.encoding
        whole, rest = divmod(code.depth, code.group)
        return whole * code.parts + -(-rest // code.part)

    @property
    def few_bytes(self) -> int:
        """Scratch of *few*: rows, their sums, and accumulators."""
        floats = self.few_rows * (self.row_floats + self.row_sums + self.width)
        return -(-floats * 4 // 64) * 64

    def print_few(self, sizes: Sequence[int], items: Dim, suffix: str) -> str:
        """Return the kernel that loops over panels, for rows in chunks of `sizes`."""
        code, problem, width = self.encoding, self.problem, self.width
        lines = [
            *self.print_pointers(),
            *self.print_item_pointers(),
            f"const int64_t rows = {self.dim(problem.x.extent)};",
            *self.print_preparation(),
            f"const int64_t items = planish_max_i64({self.dim(items)}, 1);",
            f"for (int64_t panel = begin * {self.panels} / items; "
            f"panel < end * {self.panels} / items; panel++) {{",
            f"const int64_t column = panel * {width};",
            f"const int64_t count = planish_min_i64({width}, {code.columns} - column);",
            *self.print_first_totals(),
            *self.print_few_calls(sizes),
            *self.print_few_finish(),
            "}",
        ]
        head = (
            f"static void @NAME@{suffix}(char *const *p, const int64_t *d, int64_t begin, "
            "int64_t end, char *scratch)"
        )
        return f"{head} {{\n{print_block(lines)}}}\n"

    @property
    def input_name(self) -> str:
        """Name of the input's type in C functions."""
        return "bf16" if self.problem.kind.input_ctype != "float" else "floats"

    def print_preparation(self) -> list[str]:
        """Return the statements that prepare the rows, and declare where their totals are."""
        code, floats, sums, rows = self.encoding, self.row_floats, self.row_sums, self.few_rows
        return [
            "float *const prepared = (float *)scratch;",
            f"float *const sums = prepared + {rows * floats};",
            f"float *const totals = sums + {rows * sums};",
            "for (int64_t row = 0; row < rows; row++)",
            f"planish_prepare_{self.input_name}("
            f"item_a + row * {self.dim(self.problem.x.strides[0])}, {code.depth}, {code.padded}, "
            f"{code.group}, {code.part}, {int(code.bits == 4)}, prepared + row * {floats}, "
            f"sums + row * {sums});",
        ]

    @property
    def row_arguments(self) -> str:
        """C arguments for the rows from ``row`` on."""
        return f"prepared + row * {self.row_floats}, sums + row * {self.row_sums}"

    @property
    def row_parameters(self) -> str:
        """C parameters for them."""
        return "const float *x, const float *sums"

    def print_first_totals(self) -> list[str]:
        """Return the statements that let totals start from the bias."""
        width = self.width
        if self.problem.bias_pointer is None:
            return [f"memset(totals, 0, (size_t)rows * {width * 4});"]
        return [
            "for (int64_t row = 0; row < rows; row++)",
            f"memcpy(totals + row * {width}, biases + column, {width * 4});",
        ]

    def print_few_calls(self, sizes: Sequence[int]) -> list[str]:
        """Return the calls for rows in chunks of `sizes`."""
        code, width = self.encoding, self.width
        numbers = code.row_elements(code.padded) * width
        zeros = f", zeros + panel * {code.groups * width}" if code.zero is None else ""

        def call(size: int) -> str:
            return (
                f"@NAME@_rows{size}({self.row_arguments}, numbers + panel * {numbers}, scales + "
                f"panel * {code.groups * width}{zeros}, totals + row * {width});"
            )

        lines = ["for (int64_t row = 0; row < rows;) {"]
        for size in sorted(sizes, reverse=True):
            lines += [
                f"{'if' if size == max(sizes) else 'else if'} (rows - row >= {size}) {{",
                call(size),
                f"row += {size};",
                "}",
            ]
        return [*lines, "}"]

    def print_few_finish(self) -> list[str]:
        """Return the call of the epilogue."""
        pointers = "".join(f", {self.position(i)}" for i in self.access_indices())
        return [
            "const int64_t x = 0;",
            f"@NAME@_finish_tile(totals, 1, rows, {self.width}, count, d{pointers});",
        ]

    def print_few_rows(self, rows: int) -> str:
        """Return the function that adds a panel's products with `rows` rows to their totals."""
        code, block = self.encoding, self.block_of(rows)
        parameters = f"{self.row_parameters}, const {code.ctype} *q, const {code.scale_ctype} *s"
        if code.zero is None:
            parameters += f", const {code.zero_ctype} *z"
        lines = []
        for first in range(0, self.strips, block):
            strips = range(first, min(first + block, self.strips))
            lines += self.print_strips(rows, strips)
        head = f"static __attribute__((noinline)) void @NAME@_rows{rows}({parameters}, float *t)"
        return f"{head} {{\n{print_block(lines)}}}\n"

    def block_of(self, rows: int) -> int:
        """Return how many vectors of columns fit into the registers for `rows` rows."""
        many = self.problem.unit.lanes == 16
        return self.strips if many or rows <= 2 else max(self.strips // 2, 1)

    def print_strips(self, rows: int, strips: range) -> list[str]:
        """Return the loop over groups for some vectors of columns of a panel."""
        code, v, lanes = self.encoding, self.problem.unit.prefix, self.problem.unit.lanes
        cells = [(row, strip) for row in range(rows) for strip in strips]
        splits = max(1, min(2, MINIMUM_CHAINS // len(cells)))
        lines = [
            f"for (int64_t g = 0; g < {code.groups}; g++) {{",
            f"const int64_t last = planish_min_i64({code.padded}, (g + 1) * {code.group});",
        ]
        for split in range(splits):
            lines += [f"{v} a{split}_{r}_{c} = {v}_zero();" for r, c in cells]
        if code.zero is None:
            name = "u8" if code.bits == 4 else "i8"
            lines += [
                f"const {v} z{c} = {v}_load_{name}(z + g * {self.width} + {c * lanes});"
                for c in strips
            ]
        lines.append(f"for (int64_t k = g * {code.group}, part = g * {code.parts}; k < last; "
                     f"part++) {{")  # fmt: skip
        lines += self.print_zero_points(rows, strips)
        lines += [
            f"const int64_t end = planish_min_i64(last, k + {code.part});",
            "for (; k < end; k += 8) {",
            *self.print_prefetch(strips),
            *(self.print_words(rows, strips, splits) if code.bits == 4 else
              self.print_bytes(rows, strips, splits)),
            "}",
            "}",
        ]  # fmt: skip
        for c in strips:
            scale = f"{v}_load_{code.scale_name}(s + g * {self.width} + {c * lanes})"
            lines.append(f"const {v} s{c} = {scale};")
        for r, c in cells:
            total = " + ".join(f"a{split}_{r}_{c}" for split in range(splits))
            place = f"t + {r * self.width + c * lanes}"
            lines.append(f"{v}_store({place}, {v}_fma({total}, s{c}, {v}_load({place})));")
        return [*lines, "}"]

    def print_zero_points(self, rows: int, strips: range) -> list[str]:
        """Return the statements that take zero points off for one part of a group."""
        code, v = self.encoding, self.problem.unit.prefix
        if code.zero == 0:
            return []
        lines = []
        for r in range(rows):
            total = f"sums[{r * self.row_sums} + part]"
            if code.zero is not None:
                lines.append(f"const {v} m{r} = {v}_set1({total} * {-code.zero}.0f);")
                lines += [f"a0_{r}_{c} += m{r};" for c in strips]
            else:
                lines.append(f"const {v} m{r} = {v}_set1(-{total});")
                lines += [f"a0_{r}_{c} = {v}_fma(m{r}, z{c}, a0_{r}_{c});" for c in strips]
        return lines

    def print_prefetch(self, strips: range) -> list[str]:
        """Return the prefetches of what an octet of K steps of some vectors will need later.

        The prefetchers of CPUs stop at the end of a page, which is a few hundred steps away; read
        from memory, weights stream a quarter to a third faster with these.
        """
        code, lanes, width = self.encoding, self.problem.unit.lanes, self.width
        row, rows, size = ("k / 8", 1, 4) if code.bits == 4 else ("k", OCTET, 1)
        span, first = len(strips) * lanes * size, strips.start * lanes * size
        starts = [step * width * size + first for step in range(rows)]
        touched = {byte // LINE for start in starts for byte in range(start, start + span, lanes)}
        place = f"(const char *)(q + {row} * {width})"
        return [
            f"_mm_prefetch({place} + {AHEAD + line * LINE}, _MM_HINT_T0);"
            for line in sorted(touched)
        ]

    def print_words(self, rows: int, strips: range, splits: int) -> list[str]:
        """Return the products of an octet of K steps of four bits."""
        v, lanes, width = self.problem.unit.prefix, self.problem.unit.lanes, self.width
        lines = []
        for c in strips:
            address = f"q + k / 8 * {width} + {c * lanes}"
            lines.append(f"const {v}_words w{c} = {v}_load_words({address});")
        for i in range(OCTET):
            field = f"_field(w{{}}, {i})" if i < OCTET - 1 else "_last_field(w{})"
            fields = [f"{v}{field.format(c)}" for c in strips]
            step = i // 2 + i % 2 * 4
            lines += self.print_step(rows, strips, step, i % splits, fields)
        return lines

    def print_bytes(self, rows: int, strips: range, splits: int) -> list[str]:
        """Return the products of an octet of K steps of eight bits."""
        v, lanes, width = self.problem.unit.prefix, self.problem.unit.lanes, self.width
        lines = []
        for i in range(OCTET):
            fields = [f"{v}_load_i8(q + k * {width} + {i * width + c * lanes})" for c in strips]
            lines += self.print_step(rows, strips, i, i % splits, fields)
        return lines

    def print_step(
        self, rows: int, strips: range, index: int, split: int, fields: Sequence[str]
    ) -> list[str]:
        """Return one K step: the numbers as floats, times each row's element."""
        v = self.problem.unit.prefix
        lines = ["{"]
        lines += [f"const {v} f{c} = {field};" for c, field in zip(strips, fields, strict=True)]
        for r in range(rows):
            lines.append(f"const {v} x{r} = {v}_set1(x[k + {r * self.row_floats + index}]);")
            lines += [f"a{split}_{r}_{c} = {v}_fma(x{r}, f{c}, a{split}_{r}_{c});" for c in strips]
        return [*lines, "}"]
