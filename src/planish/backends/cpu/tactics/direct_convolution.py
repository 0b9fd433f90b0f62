"""Any convolution, forward or transposed, as plain loops: the kernel behind the fast ones.

    out[o][n] = bias[n] + sum over taps t, channels c of in[position(o, t)][c] * weight[t][c][n]

For a convolution position(o, t) = o * stride + t * dilation - pad; for a transposed one it is
(o + pad - t * dilation) / stride where that divides. Positions outside the input are skipped, so
no halo is needed; strides, layouts, groups and symbolic extents may be anything. Output channels
are the vectorised loop, their sums stay in a buffer in L1: each product costs a load and a store,
so this reaches about a fifth of the FMA peak. Constant weights are repacked as [t][c][n]. Quantized
operands are multiplied as floats that hold whole numbers, and the sums scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from planish.backends.cpu.codegen.epilogue import (
    Epilogue,
    make_epilogue,
    print_scalar_finish,
    refuse_epilogue,
    split_body,
)
from planish.backends.cpu.codegen.scalar import (
    MEMORY_TYPES,
    c_dim,
    load,
    memory_type,
)
from planish.backends.cpu.codegen.tile import print_block
from planish.backends.cpu.tactics.convolution import (
    FLOATS,
    input_behind_casts,
    zero_point_of,
)
from planish.errors import TacticError
from planish.ir.dtypes import F32, DType
from planish.ir.graph import Node, Value
from planish.ir.shape import Dim, product, symbols_of
from planish.ops.convolution import Window, kernel_of, transposed_window, window_of
from planish.tactics.integer_form import Factors, factors_of
from planish.tactics.tactic import YES, Config, Kernel, Operand, Region, Support, Tactic, no
from planish.tactics.target import Target

BLOCK = 64  # output channels whose sums are kept at a time
Array = np.ndarray[Any, Any]


class DirectConvolution(Tactic):
    """Conv and ConvTranspose as loops; see the module's docstring."""

    name: ClassVar[str] = "direct_conv"
    rank: ClassVar[int] = 80

    def supports(self, region: Region, target: Target) -> Support:
        """Accept everything but operations before the convolution and other element types."""
        convolution = _read(region)
        return no(convolution) if isinstance(convolution, str) else YES

    def configs(self, region: Region, target: Target) -> list[Config]:
        """There is nothing to choose."""
        return [{}]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel."""
        convolution = _read(region)
        if isinstance(convolution, str):
            raise TacticError(f"direct_conv cannot do it: {convolution}", where=region.name)
        return _Printer(region, convolution).kernel()


@dataclass(frozen=True)
class _Convolution:
    anchor: Node
    operand: Operand
    index: int
    window: Window
    weight: Value
    bias: Value | None
    group: int
    factors: Factors | None

    @property
    def zero(self) -> int:
        """Zero point of quantized data."""
        return 0 if self.factors is None else zero_point_of(self.factors.data.input(2))

    @property
    def scales(self) -> Array | None:
        """Scales of the sums of quantized operands, one for each output channel."""
        if self.factors is None:
            return None
        scale = self.factors.scale * float(self.factors.data.present_inputs[1].array.reshape(()))
        return np.broadcast_to(scale, (self.outputs * self.group,)).astype(np.float32)

    @property
    def transposed(self) -> bool:
        return self.anchor.op == "ConvTranspose"

    @property
    def channels(self) -> int:
        """Input channels of a group."""
        axis = 0 if self.transposed else 1
        extent = _number(self.weight.known_shape[axis])
        return extent // self.group if self.transposed else extent

    @property
    def outputs(self) -> int:
        """Output channels of a group."""
        axis = 1 if self.transposed else 0
        extent = _number(self.weight.known_shape[axis])
        return extent if self.transposed else extent // self.group

    @property
    def taps(self) -> int:
        """Kernel elements."""
        return int(np.prod(self.window.kernel))

    def weight_matrix(self) -> Array:
        """Return constant weights as f32 [group][tap][channel][output]."""
        given = self.weight.array if self.factors is None else self.factors.plain_weights
        array = given.astype(np.float32)
        if self.transposed:
            shaped = array.reshape(self.group, self.channels, self.outputs, self.taps)
            return np.ascontiguousarray(shaped.transpose(0, 3, 1, 2))
        shaped = array.reshape(self.group, self.outputs, self.channels, self.taps)
        return np.ascontiguousarray(shaped.transpose(0, 3, 2, 1))


def _number(dim: Dim) -> int:
    if not isinstance(dim, int):
        raise TacticError(f"the extent {dim} of a filter is symbolic")
    return dim


def _read(region: Region) -> _Convolution | str:
    anchor = region.anchor
    if region.kind not in ("Conv", "ConvTranspose") or anchor is None:
        return "the region is not a convolution"
    factors = factors_of(anchor)
    if factors is not None:
        return _read_quantized(region, anchor, factors)
    source = input_behind_casts(anchor.present_inputs[0])
    if source is None or source not in region.body.inputs:
        return "there are operations before the convolution"
    index = region.body.inputs.index(source)
    operand, weight, bias = region.inputs[index], anchor.present_inputs[1], anchor.input(2)
    for value in (operand.value, weight, *([] if bias is None else [bias])):
        if value.dtype not in FLOATS or value.dtype not in MEMORY_TYPES:
            return f"{value.dtype} is not f32 or bf16"
        if value.constant is None and value not in region.body.inputs:
            return "there are operations before the weights"
    if any(not isinstance(dim, int) for dim in weight.known_shape):
        return "the filter's extents are symbolic"
    return _read_rest(region, anchor, index, weight, None)


def _read_quantized(region: Region, anchor: Node, factors: Factors) -> _Convolution | str:
    source, weight = factors.data.present_inputs[0], factors.weight
    if source not in region.body.inputs or weight is None:
        return "there are operations before the convolution"
    if any(value is not None and value.constant is None for value in factors.data.inputs[1:]):
        return "the input's scale or zero point is known only at run time"
    index = region.body.inputs.index(source)
    return _read_rest(region, anchor, index, weight.present_inputs[0], factors)


def _read_rest(
    region: Region, anchor: Node, index: int, weight: Value, factors: Factors | None
) -> _Convolution | str:
    operand, bias = region.inputs[index], anchor.input(2)
    unknown = {n for d in anchor.output.known_shape for n in symbols_of(d)} - set(region.symbols)
    if unknown:
        return f"the extent {min(unknown)} is known only after data was read"
    reason = refuse_epilogue(region, split_body(region.body, anchor))
    if reason is not None:
        return reason
    if anchor.op == "Conv":
        window = window_of(anchor)
    else:
        extents = operand.shape[2:]
        window = transposed_window(anchor.attributes, extents, kernel_of(anchor))
    group = int(anchor.attributes.get("group", 1))
    return _Convolution(anchor, operand, index, window, weight, bias, group, factors)


class _Printer:
    """Prints one kernel: an item is one position of all outer axes, a row of the last one."""

    def __init__(self, region: Region, convolution: _Convolution) -> None:
        self.region, self.conv = region, convolution
        bias = convolution.bias
        constant = None
        if bias is not None and bias.constant is not None:
            constant = bias.array.astype(np.float32)
        scales = convolution.scales
        if scales is not None and constant is None:
            constant = np.zeros(scales.shape, np.float32)
        parts = split_body(region.body, convolution.anchor)
        self.epilogue: Epilogue = make_epilogue(region, parts, 1, constant)
        first = len(region.inputs) + len(region.outputs)
        self.packed: list[Array] = list(self.epilogue.arrays)
        self.weight_pointer = self._pointer_of(convolution.weight, first)
        self.bias_pointer = -1
        if self.epilogue.bias is not None:
            self.bias_pointer = first + len(self.packed)
            self.packed.append(np.ascontiguousarray(self.epilogue.bias, np.float32))
        self.scale_pointer = -1
        if scales is not None:
            self.scale_pointer = first + len(self.packed)
            self.packed.append(scales)

    def _pointer_of(self, weight: Value, first: int) -> int:
        if weight.constant is None:
            return self.region.body.inputs.index(weight)
        self.packed.append(self.conv.weight_matrix())
        return first + len(self.packed) - 1

    def dim(self, dim: Dim) -> str:
        return c_dim(dim, self.region.symbols)

    def kernel(self) -> Kernel:
        finish = print_scalar_finish(self.epilogue, self.region.symbols)
        shape = self.conv.anchor.output.known_shape
        items = product((shape[0], *shape[2:-1]))
        source = f"{finish}\n{self._print_point()}\n{self._print_kernel()}"
        return Kernel(source, items, tuple(self.packed), 0, ())

    # -- one output position ---------------------------------------------------------------------

    def _print_point(self) -> str:
        """Return the function that computes all channels of a group at one position."""
        conv = self.conv
        spatial = len(conv.window.kernel)
        ctype = memory_type(conv.operand.dtype)
        positions = "".join(f", int64_t o{axis}" for axis in range(spatial))
        head = (
            f"static void @NAME@_sum(const {ctype} *in, const {self._weight_type} *w, float *sum, "
            f"int64_t count, const int64_t *d{positions})"
        )
        lines: list[str] = []
        for axis in range(spatial):
            lines += self._print_tap(axis)
        tap = "0"
        for axis, count in enumerate(conv.window.kernel):
            tap = f"({tap}) * {count} + t{axis}" if axis else f"t{axis}"
        offset = " + ".join(
            f"at{axis} * {self.dim(stride)}" for axis, stride in enumerate(conv.operand.strides[2:])
        )
        channel = self.dim(conv.operand.strides[1])
        value = load(conv.operand.dtype, "in", f"{offset} + c * {channel}")
        if conv.zero:
            value = f"(float)((int32_t){value} - {conv.zero})"
        weight_row, weight_step = self._weight_address(tap)
        weight = load(self._weight_dtype, "row", f"n * {weight_step}")
        lines += [
            f"for (int64_t c = 0; c < {conv.channels}; c++) {{",
            f"const float x = {value};",
            f"const {self._weight_type} *row = w + {weight_row};",
            '_Pragma("omp simd")',
            f"for (int64_t n = 0; n < count; n++) sum[n] += x * {weight};",
            "}",
        ]
        lines += ["}"] * spatial
        return f"{head} {{\n{print_block(lines)}}}\n"

    def _print_tap(self, axis: int) -> list[str]:
        """Return the loop over one axis of the kernel, positions outside the input skipped."""
        window, extent = self.conv.window, self.dim(self.conv.operand.shape[axis + 2])
        pad, dilation = self.dim(window.padding.begin[axis]), window.dilations[axis]
        stride = window.strides[axis]
        lines = [f"for (int64_t t{axis} = 0; t{axis} < {window.kernel[axis]}; t{axis}++) {{"]
        if not self.conv.transposed:
            lines.append(
                f"const int64_t at{axis} = o{axis} * {stride} + t{axis} * {dilation} - {pad};"
            )
            return [*lines, f"if (at{axis} < 0 || at{axis} >= {extent}) continue;"]
        lines.append(f"const int64_t up{axis} = o{axis} + {pad} - t{axis} * {dilation};")
        lines.append(f"if (up{axis} < 0 || up{axis} % {stride} != 0) continue;")
        lines.append(f"const int64_t at{axis} = up{axis} / {stride};")
        return [*lines, f"if (at{axis} >= {extent}) continue;"]

    @property
    def _weight_dtype(self) -> DType:
        return self.conv.weight.dtype if self.conv.weight.constant is None else F32

    @property
    def _weight_type(self) -> str:
        return memory_type(self._weight_dtype)

    def _weight_address(self, tap: str) -> tuple[str, str]:
        """Return the offset of the weights of one (tap, channel), and the step between outputs."""
        conv = self.conv
        if conv.weight.constant is not None:
            return f"(({tap}) * {conv.channels} + c) * {conv.outputs}", "1"
        strides = self.region.inputs[self.weight_pointer].strides
        spatial = " + ".join(
            f"t{axis} * {self.dim(stride)}" for axis, stride in enumerate(strides[2:])
        )
        inner, outer = (0, 1) if conv.transposed else (1, 0)
        return f"{spatial} + c * {self.dim(strides[inner])}", self.dim(strides[outer])

    def _weight_base(self) -> str:
        """Return the offset of group ``g`` and output ``first`` in the weights."""
        conv = self.conv
        if conv.weight.constant is not None:
            return f"g * {conv.taps * conv.channels * conv.outputs} + first"
        strides = self.region.inputs[self.weight_pointer].strides
        if conv.transposed:
            row, step = self.dim(strides[0]), self.dim(strides[1])
            return f"g * {conv.channels} * {row} + first * {step}"
        return f"(g * {conv.outputs} + first) * {self.dim(strides[0])}"

    # -- the kernel ------------------------------------------------------------------------------

    def _print_kernel(self) -> str:
        conv, shape = self.conv, self.conv.anchor.output.known_shape
        spatial = len(conv.window.kernel)
        ctype, last = memory_type(conv.operand.dtype), spatial - 1
        lines = [
            f"float sum[{BLOCK}] __attribute__((aligned(64)));",
            "for (int64_t item = begin; item < end; item++) {",
            "int64_t rest = item;",
        ]
        for axis in reversed(range(last)):
            lines.append(f"const int64_t o{axis} = rest % {self.dim(shape[axis + 2])};")
            lines.append(f"rest /= {self.dim(shape[axis + 2])};")
        lines += [
            "const int64_t image = rest;",
            f"for (int64_t o{last} = 0; o{last} < {self.dim(shape[-1])}; o{last}++)",
            f"for (int64_t g = 0; g < {conv.group}; g++)",
            f"for (int64_t first = 0; first < {conv.outputs}; first += {BLOCK}) {{",
            f"const int64_t count = planish_min_i64({BLOCK}, {conv.outputs} - first);",
            f"const int64_t column = g * {conv.outputs} + first;",
            f"const {ctype} *const in = (const {ctype} *)p[{conv.index}] + image * "
            f"{self.dim(conv.operand.strides[0])} + g * {conv.channels} * "
            f"{self.dim(conv.operand.strides[1])};",
            f"const {self._weight_type} *const w = (const {self._weight_type} *)"
            f"p[{self.weight_pointer}] + {self._weight_base()};",
            f"for (int64_t n = 0; n < count; n++) sum[n] = "
            f"{self._start() if self.scale_pointer < 0 else '0.0f'};",
        ]
        positions = "".join(f", o{axis}" for axis in range(spatial))
        lines.append(f"@NAME@_sum(in, w, sum, count, d{positions});")
        if self.scale_pointer >= 0:
            scale = f"((const float *)p[{self.scale_pointer}])[column + n]"
            scaled = f"sum[n] = sum[n] * {scale} + {self._start()};"
            lines.append(f"for (int64_t n = 0; n < count; n++) {scaled}")
        pointers = "".join(f", {self._position(index)}" for index in range(self._access_count))
        lines += [f"@NAME@_finish(sum, count, d{pointers});", "}", "}"]
        return (
            "static void @NAME@(char *const *p, const int64_t *d, int64_t begin, int64_t end, "
            f"char *scratch) {{\n{print_block(lines)}}}\n"
        )

    @property
    def _access_count(self) -> int:
        return len(self.epilogue.accesses)

    def _position(self, index: int) -> str:
        access = self.epilogue.accesses[index]
        const = "" if access.name.startswith("o") else "const "
        terms = [f"image * {self.dim(access.strides[0])}"]
        terms.append(f"column * {self.dim(access.strides[1])}")
        terms += [f"o{axis} * {self.dim(stride)}" for axis, stride in enumerate(access.strides[2:])]
        return f"({const}{access.ctype} *)p[{access.pointer}] + " + " + ".join(terms)

    def _start(self) -> str:
        """Return the C expression that output ``column + n`` starts from."""
        bias = self.conv.bias
        if self.bias_pointer >= 0:
            return f"((const float *)p[{self.bias_pointer}])[column + n]"
        if bias is None or bias.constant is not None:
            return "0.0f"
        operand = self.region.inputs[self.region.body.inputs.index(bias)]
        pointer = f"((const {memory_type(bias.dtype)} *)p[{self.region.body.inputs.index(bias)}])"
        return load(bias.dtype, pointer, f"(column + n) * {self.dim(operand.strides[0])}")
