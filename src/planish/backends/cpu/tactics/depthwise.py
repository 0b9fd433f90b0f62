"""Depthwise convolutions: every channel with its own filter, vectors run over channels.

    out[y][x][c] = sum over taps of in[y*s + ky*d][x*s + kx*d][c] * weight[ky][kx][c]

A tile is a few neighbouring output pixels of one row times one vector of channels, all in
registers. For each kernel row the filter's taps are loaded once and every input pixel is loaded
once for all outputs that it reaches. Padding is zeros in memory. Bound by L1 loads at stride 1 and
3x3 (12 loads for 21 FMAs with 7 pixels) and by L2 where a layer's rows exceed L1. Bytes take four
rows of the filter at once (codegen/depthwise_bytes.py); what follows the sums then takes longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from planish.backends.cpu.codegen.depthwise_bytes import GROUP, ByteTaps
from planish.backends.cpu.codegen.element import ElementKind, VectorUnit, vector_unit
from planish.backends.cpu.codegen.epilogue import (
    Epilogue,
    make_epilogue,
    parameters_of,
    print_finish,
    split_body,
)
from planish.backends.cpu.codegen.row_axes import Tiling, tile_rows
from planish.backends.cpu.codegen.scalar import c_dim
from planish.backends.cpu.codegen.tile import print_block
from planish.backends.cpu.tactics.convolution import (
    ConvolutionShape,
    first_sums,
    read_convolution,
    refuse_integers,
    refuse_memory,
)
from planish.errors import TacticError
from planish.ir.shape import Dim, product
from planish.tactics.integer_form import largest_sum
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target

WIDE_PIXELS = (7, 8, 4, 14)
NARROW_PIXELS = (4, 6, 7)
LONGEST_ROW = 11  # taps of a kernel row that still fit registers


class DepthwiseConvolution(Tactic):
    """Convolution with one input and one output channel a group; see the module's docstring."""

    name: ClassVar[str] = "depthwise_conv"
    rank: ClassVar[int] = 10

    def supports(self, region: Region, target: Target) -> Support:
        """Accept channels-last inputs that hold their padding, one filter a channel."""
        if vector_unit(target) is None:
            return no("the CPU has no AVX2")
        shape = read_convolution(region, integers=True)
        if isinstance(shape, str):
            return no(shape)
        if shape.channels != 1 or shape.outputs != 1 or shape.group == 1:
            return no("it is not depthwise")
        if shape.window.kernel[-1] > LONGEST_ROW:
            return no(f"a kernel row of {shape.window.kernel[-1]} taps exceeds the registers")
        reason = refuse_memory(shape)
        if reason is None and shape.is_integer:
            reason = refuse_integers(shape.weights)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return pixels of a tile by the order of the loops over pixels and channels."""
        unit, shape = vector_unit(target), read_convolution(region, integers=True)
        if unit is None or isinstance(shape, str):
            return []
        sizes = WIDE_PIXELS if unit.lanes == 16 else NARROW_PIXELS
        width = shape.anchor.output.known_shape[-1]
        found: dict[object, Config] = {}
        for pixels in sizes:
            key = tuple(tile_rows(1, width, pixels).shapes)
            found.setdefault(key, {"pixels": pixels, "inner": "channels"})
        first = next(iter(found.values()))
        return [*found.values(), {**first, "inner": "pixels"}]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel."""
        unit, shape = vector_unit(target), read_convolution(region, integers=True)
        if unit is None or isinstance(shape, str):
            raise TacticError(f"depthwise_conv cannot do it: {shape}", where=region.name)
        start, most = shape.bias, math.inf
        if shape.is_integer:
            most = largest_sum(shape.weights[0].size)
            filters = shape.weights.reshape(shape.group, -1).T
            start = first_sums(filters, shape.zero, unit.kind_in_place(shape.operand.dtype))
        parts = split_body(shape.region.body, shape.anchor)
        epilogue = make_epilogue(shape.region, parts, 1, start, most)
        printer = _Printer(shape.region, shape, epilogue, unit, config["pixels"], config["inner"])
        return printer.kernel()


@dataclass
class _Printer:
    region: Region
    shape: ConvolutionShape
    epilogue: Epilogue
    unit: VectorUnit
    pixels: int
    inner: str
    tiling: Tiling = field(init=False)

    def __post_init__(self) -> None:
        self.tiling = tile_rows(1, self.extents[-1], self.pixels)

    @property
    def extents(self) -> tuple[Dim, ...]:
        """Output extents of batch and spatial axes."""
        full = self.shape.anchor.output.known_shape
        return (full[0], *full[2:])

    @property
    def channels(self) -> int:
        return self.shape.group

    def dim(self, dim: Dim) -> str:
        return c_dim(dim, self.region.symbols)

    def kernel(self) -> Kernel:
        source = "\n".join(
            [
                print_finish(self.epilogue, self.unit.lanes, self.region.symbols),
                *(self.print_tile(width) for _, width in self.tiling.shapes),
                self.print_kernel(),
            ]
        )
        items = product(self.extents[:-1])
        return Kernel(source, items, self.packed(), 0, self.unit.isa)

    @property
    def kind(self) -> ElementKind:
        return self.unit.kind_in_place(self.shape.operand.dtype)

    @property
    def padded(self) -> int:
        """Channels rounded up to whole vectors."""
        return -(-self.channels // self.unit.lanes) * self.unit.lanes

    @property
    def byte_taps(self) -> ByteTaps:
        return ByteTaps(self.unit, self.kind, self.shape.window, self.padded)

    def packed(self) -> tuple[np.ndarray, ...]:
        """Return the epilogue's arrays, the weights [taps][channels] and the bias [channels]."""
        bias = np.zeros(self.padded, np.int32 if self.shape.is_integer else np.float32)
        if self.epilogue.bias is not None:
            bias[: self.channels] = self.epilogue.bias
        if self.shape.is_integer:
            return (*self.epilogue.arrays, self.byte_taps.pack(self.shape.weights[:, 0]), bias)
        taps = self.shape.weights.reshape(self.channels, -1).astype(np.float32).T
        weights = np.zeros((len(taps), self.padded), np.float32)
        weights[:, : self.channels] = taps
        return (*self.epilogue.arrays, weights, bias)

    # -- tiles -----------------------------------------------------------------------------------

    @property
    def input_ctype(self) -> str:
        return self.kind.input_ctype

    @property
    def weight_ctype(self) -> str:
        return self.kind.ctype if self.shape.is_integer else "float"

    def print_tile(self, width: int) -> str:
        v, window = self.unit.prefix, self.shape.window
        kernel_w = window.kernel[-1]
        sums = self.kind.sum_vector(v)
        lines = [f"{sums} a{x} = {sums}_load(bias);" for x in range(width)]
        strides = self.shape.operand.strides[2:]
        # bytes take the rows of a filter together: only axes before them are loops
        looped = len(window.kernel) - (2 if self.shape.is_integer else 1)
        loops, pointer, weights = self.print_tap_loops(max(looped, 0))
        lines += loops
        if self.shape.is_integer:
            row = self.dim(strides[-2] * window.dilations[-2]) if len(strides) > 1 else "0"
            steps = [row, self.dim(strides[-1])]
            lines += self.byte_taps.print_products(width, pointer, weights, steps)
        else:
            lines += [
                f"const {v} f{k} = {v}_load({weights} + {k * self.padded});"
                for k in range(kernel_w)
            ]
            lines += self.print_row(width, pointer)
        lines += ["}"] * sum(line.startswith("for") for line in loops)
        lines += self.print_finishes(width)
        parameters = (
            f"const {self.input_ctype} *in, const {self.weight_ctype} *w, "
            f"const {self.kind.sum_ctype} *bias, int part, "
            f"const int64_t *d{parameters_of(self.epilogue)}"
        )
        head = f"static __attribute__((noinline)) void @NAME@_{width}({parameters})"
        return f"{head} {{\n{print_block(lines)}}}\n"

    def print_tap_loops(self, count: int) -> tuple[list[str], str, str]:
        """Return loops over the first `count` kernel axes, and the names of input and filters."""
        window, strides = self.shape.window, self.shape.operand.strides[2:]
        pointer, weights, lines = "in", "w", []
        for axis in range(count):
            if window.kernel[axis] == 1:
                continue
            step = self.dim(strides[axis] * window.dilations[axis])
            inner = window.kernel[axis + 1 : count]
            later = int(np.prod(inner)) * self.filter_elements(count)
            lines += [
                f"for (int64_t t{axis} = 0; t{axis} < {window.kernel[axis]}; t{axis}++) {{",
                f"const {self.input_ctype} *in{axis} = {pointer} + t{axis} * {step};",
                f"const {self.weight_ctype} *w{axis} = {weights} + t{axis} * {later};",
            ]
            pointer, weights = f"in{axis}", f"w{axis}"
        return lines, pointer, weights

    def filter_elements(self, looped: int) -> int:
        """Return the packed weights behind the first `looped` kernel axes."""
        if self.shape.is_integer:
            return self.byte_taps.groups * self.shape.window.kernel[-1] * self.padded * GROUP
        return int(np.prod(self.shape.window.kernel[looped:])) * self.padded

    def print_row(self, width: int, pointer: str) -> list[str]:
        """Return the loads of one input row, each followed by all products that use it."""
        v, window, lanes = self.unit.prefix, self.shape.window, self.unit.lanes
        step, dilation, kernel = window.strides[-1], window.dilations[-1], window.kernel[-1]
        kind = "_bf16" if self.input_ctype == "uint16_t" else ""
        pixel = self.shape.operand.strides[-1]
        uses: dict[int, list[tuple[int, int]]] = {}
        for x in range(width):
            for k in range(kernel):
                uses.setdefault(x * step + k * dilation, []).append((x, k))
        lines = []
        for column, products in sorted(uses.items()):
            address = f"{pointer} + {self.dim(pixel * column)}"
            load = f"part == {lanes} ? {v}_load{kind}({address}) : "
            load += f"{v}_load{kind}_part({address}, part)"
            lines.append(f"{{ const {v} x = {load};")
            lines += [f"a{x} = {v}_fma(x, f{k}, a{x});" for x, k in products]
            lines.append("}")
        return lines

    def print_finishes(self, width: int) -> list[str]:
        epilogue, v, lanes = self.epilogue, self.unit.prefix, self.unit.lanes
        strides = [self.dim(access.strides[-1]) for access in epilogue.accesses]

        def pointers(x: str) -> str:
            return "".join(
                f", {access.name} + {x} * {stride}"
                for access, stride in zip(epilogue.accesses, strides, strict=True)
            )

        if epilogue.form == "inline":
            return [f"@NAME@_finish(a{x}, part, d{pointers(str(x))});" for x in range(width)]
        ctype, sums = self.kind.sum_ctype, self.kind.sum_vector(v)
        lines = [f"{ctype} buffer[{width * lanes}] __attribute__((aligned(64)));"]
        lines += [f"{sums}_store(buffer + {x * lanes}, a{x});" for x in range(width)]
        first = f"{sums}_load(buffer + x * {lanes})"
        if epilogue.form == "scalar":
            first = f"buffer + x * {lanes}"
        return [
            *lines,
            f"for (int64_t x = 0; x < {width}; x++)",
            f"@NAME@_finish({first}, part, d{pointers('x')});",
        ]

    # -- the kernel ------------------------------------------------------------------------------

    def print_kernel(self) -> str:
        accesses = self.epilogue.accesses
        pointer = len(self.region.inputs) + len(self.region.outputs) + len(self.epilogue.arrays)
        operand, ctype = self.shape.operand, self.input_ctype
        weight, sums = self.weight_ctype, self.kind.sum_ctype
        origin: Dim = 0
        for pad, stride in zip(self.shape.begin, operand.strides[2:], strict=True):
            origin = origin - stride * pad
        lines = [
            f"const {ctype} *const input = (const {ctype} *)p[{self.shape.index}] + "
            f"{self.dim(origin)};",
            f"const {weight} *const weights = (const {weight} *)p[{pointer}];",
            f"const {sums} *const biases = (const {sums} *)p[{pointer + 1}];",
            "for (int64_t item = begin; item < end; item++) {",
            "int64_t rest = item;",
        ]
        outer = list(self.extents[:-1])
        for axis in reversed(range(1, len(outer))):
            lines.append(f"const int64_t i{axis} = rest % {self.dim(outer[axis])};")
            lines.append(f"rest /= {self.dim(outer[axis])};")
        lines.append("const int64_t i0 = rest;")
        steps = (1, *self.shape.window.strides[:-1])
        memory = (operand.strides[0], *operand.strides[2:-1])
        row = [s * step for s, step in zip(memory, steps, strict=True)]
        lines.append(f"const {ctype} *const row_in = input{self.outer_offset(row)};")
        for access in accesses:
            const = "" if access.name.startswith("o") else "const "
            offset = self.outer_offset([access.strides[0], *access.strides[2:-1]])
            lines.append(
                f"{const}{access.ctype} *const row_{access.name} = "
                f"({const}{access.ctype} *)p[{access.pointer}]{offset};"
            )
        return (
            "static void @NAME@(char *const *p, const int64_t *d, int64_t begin, int64_t end, "
            f"char *scratch) {{\n{print_block([*lines, *self.print_loops(), '}'])}}}\n"
        )

    def outer_offset(self, strides: list[Dim]) -> str:
        return "".join(
            f" + i{axis} * {self.dim(stride)}" for axis, stride in enumerate(strides) if stride != 0
        )

    def print_loops(self) -> list[str]:
        """Return the loops over pixels and channel vectors of one row."""
        lanes = self.unit.lanes
        channels = [
            f"for (int64_t c = 0; c < {self.channels}; c += {lanes}) {{",
            f"const int part = {self.channels} - c < {lanes} ? (int)({self.channels} - c) : "
            f"{lanes};",
        ]
        tiles = [f"for (int64_t tile = 0; tile < {self.dim(self.tiling.count)}; tile++) {{"]
        loops = [*channels, *tiles] if self.inner == "pixels" else [*tiles, *channels]
        return [*loops, *self.print_calls(), "}", "}"]

    def print_calls(self) -> list[str]:
        tiling = self.tiling
        if tiling.is_dynamic:
            lines = [
                f"int64_t x = tile * {tiling.base}, left = {self.dim(tiling.x)} - x;",
                f"if (left >= {tiling.base}) {{ {self.call(tiling.base)} continue; }}",
            ]
            return lines + [
                f"while (left >= {piece}) {{ {self.call(piece)} x += {piece}; left -= {piece}; }}"
                for piece in tiling.pieces
            ]
        lines = [f"const int64_t x = tile * {tiling.base} + planish_min_i64(tile, {tiling.extra});"]
        if 0 < tiling.extra < tiling.parts:
            wide, base = self.call(tiling.base + 1), self.call(tiling.base)
            return [*lines, f"if (tile < {tiling.extra}) {wide} else {base}"]
        return [*lines, self.call(tiling.base + (1 if tiling.extra else 0))]

    def call(self, width: int) -> str:
        operand, step = self.shape.operand, self.shape.window.strides[-1]
        group = GROUP if self.shape.is_integer else 1
        arguments = [
            f"row_in + x * {self.dim(operand.strides[-1] * step)} + c", f"weights + c * {group}",
            "biases + c", "part", "d",
        ]  # fmt: skip
        for access in self.epilogue.accesses:
            column = access.strides[1]
            arguments.append(
                f"row_{access.name} + x * {self.dim(access.strides[-1])} + c * {self.dim(column)}"
            )
        return f"@NAME@_{width}({', '.join(arguments)});"
