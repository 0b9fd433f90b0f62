"""*few* of compressed_gemm.py with numbers of four bits multiplied as bytes (AVX512-VNNI).

Each part of a row of floats becomes integers of 24 bits with one scale, which loses no more than
float32 does, in three signed bytes. A dot product of four numbers by four bytes is one instruction:
a word of eight numbers takes three instructions to unpack and six to multiply, against sixteen and
eight with floats. Sums of a part are exact in int32, zero points taken off beforehand; the three
digits are joined as floats once for each part (255 * 128 * 128 * 256 is below 2^31).
"""

from __future__ import annotations

from dataclasses import dataclass

from planish.backends.cpu.codegen.compressed_gemm import CompressedPrinter

DIGITS = range(3)


@dataclass
class DigitsPrinter(CompressedPrinter):
    """Prints rows as digits; everything else is the base class's."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one digit of a row."""
        return -(-self.encoding.padded // 64) * 64

    @property
    def few_bytes(self) -> int:
        """Scratch of *few*: digits of rows, scales and sums of their parts, and accumulators."""
        words = 4 * self.row_sums + self.width
        return -(-self.few_rows * (3 * self.row_bytes + 4 * words) // 64) * 64

    def print_preparation(self) -> list[str]:
        """Return the statements that split the rows, and declare where their totals are."""
        code, size, parts, rows = self.encoding, self.row_bytes, self.row_sums, self.few_rows
        return [
            "int8_t *const digits = (int8_t *)scratch;",
            f"float *const steps = (float *)(scratch + {rows * 3 * size});",
            f"int32_t *const sums = (int32_t *)(steps + {rows * parts});",
            f"float *const totals = (float *)(sums + {rows * 3 * parts});",
            "for (int64_t row = 0; row < rows; row++)",
            f"planish_digits_{self.input_name}("
            f"item_a + row * {self.dim(self.problem.x.strides[0])}, {code.depth}, {size}, "
            f"{code.group}, {code.part}, digits + row * {3 * size}, steps + row * {parts}, "
            f"sums + row * {3 * parts});",
        ]

    @property
    def row_arguments(self) -> str:
        """C arguments for the rows from ``row`` on."""
        size, parts = self.row_bytes, self.row_sums
        return f"digits + row * {3 * size}, steps + row * {parts}, sums + row * {3 * parts}"

    @property
    def row_parameters(self) -> str:
        """C parameters for them."""
        return "const int8_t *x, const float *steps, const int32_t *sums"

    def block_of(self, rows: int) -> int:
        """Return how many vectors of columns fit into the registers for `rows` rows."""
        return max(1, min(self.strips, 8 // rows))

    def print_strips(self, rows: int, strips: range) -> list[str]:
        """Return the loop over groups for some vectors of columns of a panel."""
        code, v, lanes = self.encoding, self.problem.unit.prefix, self.problem.unit.lanes
        cells = [(row, strip) for row in range(rows) for strip in strips]
        lines = [
            f"for (int64_t g = 0; g < {code.groups}; g++) {{",
            f"const int64_t last = planish_min_i64({code.padded}, (g + 1) * {code.group});",
            *(f"{v} a_{r}_{c} = {v}_zero();" for r, c in cells),
        ]
        if code.zero is None:
            lines += [
                f"const {v}i z{c} = {v}i_load_u8(z + g * {self.width} + {c * lanes});"
                for c in strips
            ]
        lines += [
            f"for (int64_t k = g * {code.group}, part = g * {code.parts}; k < last; part++) {{",
            *self.print_first_sums(rows, strips),
            f"const int64_t end = planish_min_i64(last, k + {code.part});",
            "for (; k < end; k += 8) {",
            *self.print_prefetch(strips),
            *self.print_octet(rows, strips),
            "}",
        ]
        for r in range(rows):
            lines.append(f"const {v} m{r} = {v}_set1(steps[{r * self.row_sums} + part]);")
            for c in strips:
                digits = ", ".join(f"d{i}_{r}_{c}" for i in reversed(DIGITS))
                lines.append(f"a_{r}_{c} = {v}_fma({v}_joined({digits}), m{r}, a_{r}_{c});")
        lines.append("}")
        for c in strips:
            scale = f"{v}_load_{code.scale_name}(s + g * {self.width} + {c * lanes})"
            lines.append(f"const {v} s{c} = {scale};")
        for r, c in cells:
            place = f"t + {r * self.width + c * lanes}"
            lines.append(f"{v}_store({place}, {v}_fma(a_{r}_{c}, s{c}, {v}_load({place})));")
        return [*lines, "}"]

    def print_first_sums(self, rows: int, strips: range) -> list[str]:
        """Return the declarations of a part's sums, which start with what zero points take off."""
        v, zero = self.problem.unit.prefix, self.encoding.zero
        lines = []
        for r in range(rows):
            for i in DIGITS:
                total = f"sums[{3 * r * self.row_sums + i} + 3 * part]"
                factor = -1 if zero is None else -zero
                lines.append(f"const {v}i n{i}_{r} = {v}i_set1({total} * {factor});")
                for c in strips:
                    first = f"n{i}_{r}" + (f" * z{c}" if zero is None else "")
                    lines.append(f"{v}i d{i}_{r}_{c} = {first};")
        return lines

    def print_octet(self, rows: int, strips: range) -> list[str]:
        """Return the products of an octet of K steps."""
        v, lanes = self.problem.unit.prefix, self.problem.unit.lanes
        lines = []
        for c in strips:
            address = f"q + k / 8 * {self.width} + {c * lanes}"
            lines += [
                f"const {v}_words w{c} = {v}_load_words({address});",
                f"const {v}i l{c} = {v}_low_halves(w{c}), h{c} = {v}_high_halves(w{c});",
            ]
        for r in range(rows):
            for i in DIGITS:
                place = f"x + {(3 * r + i) * self.row_bytes} + k"
                lines.append("{")
                lines.append(f"const {v}i x0 = {v}_quad({place}), x1 = {v}_quad({place} + 4);")
                for half, name in (("x0", "l"), ("x1", "h")):
                    lines += [
                        f"d{i}_{r}_{c} = {v}_dot_quads({name}{c}, {half}, d{i}_{r}_{c});"
                        for c in strips
                    ]
                lines.append("}")
        return lines
