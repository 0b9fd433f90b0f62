"""Depthwise convolutions: every channel with its own filter, vectors run over channels.

    out[y][x][c] = sum over taps of in[y*s + ky*d][x*s + kx*d][c] * weight[ky][kx][c]

A tile is a few neighbouring output pixels of one row times one vector of channels, all in
registers. For each kernel row the filter's taps are loaded once and every input pixel is loaded
once for all outputs that it reaches. Padding is zeros in memory. Bound by L1 loads at stride 1 and
3x3 (12 loads for 21 FMAs with 7 pixels) and by L2 where a layer's rows exceed L1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from planish.backends.cpu.codegen.element import VectorUnit, vector_unit
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
    read_convolution,
    refuse_memory,
)
from planish.errors import TacticError
from planish.ir.dtypes import BF16
from planish.ir.shape import Dim, product
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
        shape = read_convolution(region)
        if isinstance(shape, str):
            return no(shape)
        if shape.channels != 1 or shape.outputs != 1 or shape.group == 1:
            return no("it is not depthwise")
        if shape.window.kernel[-1] > LONGEST_ROW:
            return no(f"a kernel row of {shape.window.kernel[-1]} taps exceeds the registers")
        reason = refuse_memory(shape)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return pixels of a tile by the order of the loops over pixels and channels."""
        unit, shape = vector_unit(target), read_convolution(region)
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
        unit, shape = vector_unit(target), read_convolution(region)
        if unit is None or isinstance(shape, str):
            raise TacticError(f"depthwise_conv cannot do it: {shape}", where=region.name)
        epilogue = make_epilogue(region, split_body(region.body, shape.anchor), 1, shape.bias)
        printer = _Printer(region, shape, epilogue, unit, config["pixels"], config["inner"])
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

    def packed(self) -> tuple[np.ndarray, ...]:
        """Return the epilogue's arrays, the weights [taps][channels] and the bias [channels]."""
        padded = -(-self.channels // self.unit.lanes) * self.unit.lanes
        taps = self.shape.weights.reshape(self.channels, -1).astype(np.float32).T
        weights = np.zeros((len(taps), padded), np.float32)
        weights[:, : self.channels] = taps
        bias = np.zeros(padded, np.float32)
        if self.epilogue.bias is not None:
            bias[: self.channels] = self.epilogue.bias
        return (*self.epilogue.arrays, weights, bias)

    # -- tiles -----------------------------------------------------------------------------------

    @property
    def input_ctype(self) -> str:
        return "uint16_t" if self.shape.operand.dtype is BF16 else "float"

    def print_tile(self, width: int) -> str:
        v, window = self.unit.prefix, self.shape.window
        padded = -(-self.channels // self.unit.lanes) * self.unit.lanes
        kernel_w = window.kernel[-1]
        lines = [f"{v} a{x} = {v}_load(bias);" for x in range(width)]
        pointer, opened = "in", 0
        strides = self.shape.operand.strides[2:]
        for axis, (count, dilation) in enumerate(
            zip(window.kernel[:-1], window.dilations[:-1], strict=True)
        ):
            if count == 1:
                continue
            step = self.dim(strides[axis] * dilation)
            later = int(np.prod(window.kernel[axis + 1 :])) * padded
            # the filter pointer follows the loops: taps of inner loops come first
            lines += [
                f"for (int64_t t{axis} = 0; t{axis} < {count}; t{axis}++) {{",
                f"const {self.input_ctype} *in{axis} = {pointer} + t{axis} * {step};",
                f"const float *w{axis} = {'w' if not opened else self.last_w} + t{axis} * {later};",
            ]
            pointer, self.last_w = f"in{axis}", f"w{axis}"
            opened += 1
        weights = self.last_w if opened else "w"
        lines += [f"const {v} f{k} = {v}_load({weights} + {k * padded});" for k in range(kernel_w)]
        lines += self.print_row(width, pointer)
        lines += ["}"] * opened
        lines += self.print_finishes(width)
        parameters = (
            f"const {self.input_ctype} *in, const float *w, const float *bias, int part, "
            f"const int64_t *d{parameters_of(self.epilogue)}"
        )
        head = f"static __attribute__((noinline)) void @NAME@_{width}({parameters})"
        return f"{head} {{\n{print_block(lines)}}}\n"

    last_w: str = "w"

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
        lines = [f"float buffer[{width * lanes}] __attribute__((aligned(64)));"]
        lines += [f"{v}_store(buffer + {x * lanes}, a{x});" for x in range(width)]
        first = f"{v}_load(buffer + x * {lanes})"
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
        origin: Dim = 0
        for pad, stride in zip(self.shape.begin, operand.strides[2:], strict=True):
            origin = origin - stride * pad
        lines = [
            f"const {ctype} *const input = (const {ctype} *)p[{self.shape.index}] + "
            f"{self.dim(origin)};",
            f"const float *const weights = (const float *)p[{pointer}];",
            f"const float *const biases = (const float *)p[{pointer + 1}];",
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
        arguments = [
            f"row_in + x * {self.dim(operand.strides[-1] * step)} + c", "weights + c", "biases + c",
            "part", "d",
        ]  # fmt: skip
        for access in self.epilogue.accesses:
            column = access.strides[1]
            arguments.append(
                f"row_{access.name} + x * {self.dim(access.strides[-1])} + c * {self.dim(column)}"
            )
        return f"@NAME@_{width}({', '.join(arguments)});"
