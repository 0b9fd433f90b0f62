"""Convolutions of any rank as implicit GEMM: output pixels by output channels over taps x channels.

Nothing is copied: the input lies channels-last with its padding as zeros around it, so a tap is a
constant offset, and taps that are neighbours in memory merge into one run (a first convolution of
three channels runs over kernel_w * 3 elements at once). Groups are one more row axis, each with its
own weights. Bound by FMA throughput except for the streaming of weights at few pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from planish.backends.cpu.codegen.blocking import candidate_blockings, fold_columns
from planish.backends.cpu.codegen.element import ElementKind, vector_unit
from planish.backends.cpu.codegen.epilogue import (
    Epilogue,
    make_epilogue,
    refuse_epilogue,
    split_body,
)
from planish.backends.cpu.codegen.gemm import print_gemm
from planish.backends.cpu.codegen.gemm_problem import Blocking, Problem, RowClip
from planish.backends.cpu.codegen.packing import pack_columns, pack_matrix
from planish.backends.cpu.codegen.row_axes import Axis, merge_axes
from planish.errors import TacticError
from planish.ir.dtypes import BF16, F32
from planish.ir.graph import Node, Value
from planish.ir.shape import Dim
from planish.ops.convolution import Window, window_of, without_dead_taps
from planish.tactics.integer_form import (
    BYTES,
    integer_form,
    largest_sum,
    without_zero_point,
)
from planish.tactics.tactic import YES, Config, Kernel, Operand, Region, Support, Tactic, no
from planish.tactics.target import Target

FLOATS = (F32, BF16)
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ConvolutionShape:
    """What the tactics of this folder need to know about one convolution.

    Attributes
    ----------
    anchor : Node
    operand : Operand
        The input, as it lies in memory (a leading Cast is skipped).
    index : int
        Which of the region's inputs it is.
    window : Window
    weights : numpy.ndarray
        [N, C / group, *kernel]; integers have their zero points taken off (int16).
    bias : numpy.ndarray or None
        [N].
    group : int
    region : Region
        What it was read from: the region, or its integer form.
    zero : int
        Zero point of integer inputs.
    """

    anchor: Node
    operand: Operand
    index: int
    window: Window
    weights: Array
    bias: Array | None
    group: int
    region: Region
    zero: int = 0

    @property
    def is_integer(self) -> bool:
        """Whether integers are multiplied."""
        return self.operand.dtype in BYTES

    @property
    def channels(self) -> int:
        """Input channels of one group."""
        return int(self.weights.shape[1])

    @property
    def outputs(self) -> int:
        """Output channels of one group."""
        return int(self.weights.shape[0]) // self.group

    @property
    def begin(self) -> tuple[int, ...]:
        """Padding before each spatial axis."""
        return tuple(pair[0] for pair in self.window.padding.static or ())


def read_convolution(region: Region, integers: bool = False) -> ConvolutionShape | str:
    """Return a Conv region's convolution, or why kernels with constant weights cannot do it.

    With `integers` a quantized convolution is read in its integer form; without, it is refused.
    """
    lowered = integer_form(region) if integers else None
    region = lowered or region
    anchor = region.anchor
    if region.kind not in ("Conv", "ConvInteger") or anchor is None:
        return "the region is not a convolution"
    parts = split_body(region.body, anchor)
    source = input_behind_casts(anchor.present_inputs[0])
    if source is None or source not in region.body.inputs:
        return "there are operations before the convolution"
    weight = anchor.input(1)
    bias = None if lowered else anchor.input(2)
    if weight is None or weight.constant is None or (bias is not None and bias.constant is None):
        return "the weights are not constants"
    index = region.body.inputs.index(source)
    operand = region.inputs[index]
    types = BYTES if lowered else FLOATS
    if operand.dtype not in types or weight.dtype not in types:
        return f"{operand.dtype} x {weight.dtype} is not a product that it does"
    reason = refuse_epilogue(region, parts)
    if reason is not None:
        return reason
    window = window_of(anchor)
    if window.padding.static is None:
        return "the padding is symbolic"
    group = int(anchor.attributes.get("group", 1))
    values = None if bias is None else bias.array.astype(np.float32)
    window, kept = without_dead_taps(window, operand.shape[2:], anchor.output.known_shape[2:])
    array = weight.array
    zero = 0
    if lowered:
        array = without_zero_point(array, anchor.input(3), 0)
        zero = zero_point_of(anchor.input(2))
    weights = array[(slice(None), slice(None), *kept)]
    return ConvolutionShape(anchor, operand, index, window, weights, values, group, region, zero)


def zero_point_of(value: Value | None) -> int:
    """Return a constant zero point of one element; 0 where there is none."""
    return 0 if value is None else int(value.array.reshape(-1)[0])


def refuse_integers(weights: Array) -> str | None:
    """Return why weights without their zero points are no signed bytes, or None."""
    if weights.dtype == np.int8 or weights.size == 0:
        return None
    if weights.min() < -128 or weights.max() > 127:
        return "the weights minus their zero points exceed eight bits"
    return None


def first_sums(matrices: Array, zero: int, kind: ElementKind) -> Array | None:
    """Return what integer sums start from, for matrices [groups, K, N], or None for zeros.

    sum (x - zero) w = sum x w - zero sum w; flipped inputs are 128 more than x.
    """
    shift = zero + (128 if kind.flips else 0)
    if not kind.is_integer or shift == 0:
        return None
    totals: Array = matrices.sum(axis=-2, dtype=np.int64)
    return (totals * -shift).astype(np.int32)


def input_behind_casts(value: Value) -> Value | None:
    """Return what a chain of Casts between f32 and bf16 starts from."""
    while value.producer is not None:
        node = value.producer
        if node.op != "Cast" or node.present_inputs[0].dtype not in FLOATS:
            return None
        if value.dtype not in FLOATS:
            return None
        value = node.present_inputs[0]
    return value


def refuse_memory(shape: ConvolutionShape) -> str | None:
    """Return why taps cannot be read in place, or None when they can."""
    operand = shape.operand
    if operand.strides[1] != 1 and shape.channels * shape.group > 1:
        return "the input's channels are not contiguous"
    if not isinstance(operand.strides[-1], int):
        return "the input's innermost spatial stride is symbolic"
    pairs = shape.window.padding.static or ()
    for (before, after), (have_before, have_after) in zip(pairs, operand.halo[2:], strict=True):
        if before > have_before or after > have_after:
            return "the input has no zeros around it for the padding"
    if shape.window.ceil_mode:
        return "ceil_mode"
    return None


class GemmConvolution(Tactic):
    """Convolution with constant weights as implicit GEMM; see the module's docstring."""

    name: ClassVar[str] = "gemm_conv"
    rank: ClassVar[int] = 20

    def supports(self, region: Region, target: Target) -> Support:
        """Accept constant weights and channels-last inputs that hold their padding."""
        if vector_unit(target) is None:
            return no("the CPU has no AVX2")
        shape = read_convolution(region, integers=True)
        if isinstance(shape, str):
            return no(shape)
        if shape.group > 1 and shape.channels == 1 and shape.outputs == 1:
            return no("it is depthwise: tiles of one column would be empty")
        reason = refuse_memory(shape)
        if reason is None and shape.is_integer:
            reason = refuse_integers(shape.weights)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return blockings, the best guess of the cost model first."""
        problem, _ = convolution_problem(region, target)
        bindings = {name: opt for name, (_, opt, _) in region.ranges.items()}
        return [b.as_config() for b in candidate_blockings(problem, target, bindings)]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel of one blocking."""
        problem, matrices = convolution_problem(region, target)
        printed = print_gemm(problem, Blocking.of(config))
        packed = [*problem.epilogue.arrays]
        run = problem.run if isinstance(problem.run, int) else 1
        packed.append(pack_matrix(matrices, run, printed.columns, problem.kind))
        if problem.bias_pointer is not None and problem.epilogue.bias is not None:
            bias = problem.epilogue.bias.reshape(len(matrices), -1)
            packed.append(pack_columns(bias, printed.columns))
        return Kernel(
            printed.source, printed.items, tuple(packed), printed.scratch_bytes, problem.unit.isa
        )


def convolution_problem(
    region: Region, target: Target, tiles: bool = False
) -> tuple[Problem, Array]:
    """Return the GEMM of a region that is supported, and its weight matrices [groups, K, N].

    With `tiles` it is for AMX.
    """
    shape, unit = read_convolution(region, integers=True), vector_unit(target)
    if isinstance(shape, str) or unit is None:
        raise TacticError(f"gemm_conv cannot do it: {shape}", where=region.name)
    region, kind = shape.region, unit.kind_in_place(shape.operand.dtype, tiles)
    loops, run, padded = _walk(shape)
    run, matrices = _with_whole_groups(shape, run, kind, _matrices(shape, padded))
    start = first_sums(matrices, shape.zero, kind) if shape.is_integer else shape.bias
    most = largest_sum(matrices.shape[1]) if shape.is_integer else math.inf
    epilogue = make_epilogue(region, split_body(region.body, shape.anchor), 1, start, most)
    first = len(region.inputs) + len(region.outputs) + len(epilogue.arrays)
    begin = shape.begin
    axes = _axes(shape, epilogue)
    merged = tuple(merge_axes(axes))
    problem = Problem(
        unit=unit,
        kind=kind,
        symbols=region.symbols,
        axes=merged,
        columns=shape.outputs,
        loops=loops,
        run=run,
        epilogue=epilogue,
        input_offset=sum(
            (-pad * s for pad, s in zip(begin, shape.operand.strides[2:], strict=True)), start=0
        ),
        input_pointer=shape.index,
        weight_pointer=first,
        bias_pointer=None if epilogue.bias is None else first + 1,
    )
    problem = fold_columns(problem)
    # flipped padding is 128: taps outside of the image count
    if len(axes) > 2 and axes[-2:] == list(merged[-2:]) and not kind.flips:
        problem = replace(problem, clip=_clip(shape, loops))
    return problem, matrices


def _with_whole_groups(
    shape: ConvolutionShape, run: int, kind: ElementKind, matrices: Array
) -> tuple[int, Array]:
    """Return a run of whole groups and its weights, where that reads nothing behind the operand.

    What a group of bytes has too many are a neighbour's, which weights of zero drop: a first
    convolution of three channels and seven columns has runs of 21, and reads 24.
    """
    wide, behind = kind.padded(run), _bytes_behind(shape)
    if not kind.is_integer or wide == run or behind is None or behind < wide - run:
        return run, matrices
    groups, depth, columns = matrices.shape
    padded = np.zeros((groups, depth // run, wide, columns), matrices.dtype)
    padded[:, :, :run] = matrices.reshape(groups, -1, run, columns)
    return wide, padded.reshape(groups, -1, columns)


def _bytes_behind(shape: ConvolutionShape) -> int | None:
    """Return how many elements of the operand, halo included, lie behind the last one read."""
    operand, window = shape.operand, shape.window
    total = 0
    axes = zip(
        operand.shape[2:], operand.strides[2:], operand.halo[2:], window.reach, window.strides,
        shape.begin, shape.anchor.output.known_shape[2:], strict=True,
    )  # fmt: skip
    for extent, stride, (_, after), reach, step, begin, positions in axes:
        if not isinstance(extent, int) or not isinstance(stride, int):
            return None
        if not isinstance(positions, int):
            return None
        last = (positions - 1) * step - begin + reach - 1
        total += (extent - 1 + after - last) * stride
    return total


def _clip(shape: ConvolutionShape, loops: tuple[tuple[int, Dim], ...]) -> RowClip | None:
    """Return the clip of the kernel's rows, if they are the first K loop."""
    window, extent = shape.window, shape.operand.shape[-2]
    rows, dilation = window.kernel[-2], window.dilations[-2]
    outer = int(np.prod(window.kernel[:-2]))
    if rows == 1 or outer != 1 or not isinstance(extent, int):
        return None
    if not loops or loops[0] != (rows, shape.operand.strides[-2] * dilation):
        return None
    return RowClip(window.strides[-2], dilation, shape.begin[-2], extent)


def _axes(shape: ConvolutionShape, epilogue: Epilogue) -> list[Axis]:
    """Return the row axes: groups, batch, spatial axes; groups are cut out of the channel axis."""
    extents = shape.anchor.output.known_shape
    accesses = epilogue.accesses
    axes = []
    if shape.group > 1:
        steps = [access.strides[1] * shape.outputs for access in accesses]
        axes.append(Axis(shape.group, (shape.channels, *steps), own_weights=True))
    batch = [access.strides[0] for access in accesses]
    axes.append(Axis(extents[0], (shape.operand.strides[0], *batch)))
    for axis, step in enumerate(shape.window.strides, start=2):
        strides = [access.strides[axis] for access in accesses]
        axes.append(Axis(extents[axis], (shape.operand.strides[axis] * step, *strides)))
    return axes


def _walk(shape: ConvolutionShape) -> tuple[tuple[tuple[int, Dim], ...], int, int]:
    """Return the outer K loops, the run, and the channels that the run counts (with slack)."""
    strides = shape.operand.strides[2:]
    channels, pixel = shape.channels, strides[-1]
    slack = shape.operand.halo[1][1]
    if shape.group == 1 and isinstance(pixel, int) and channels < pixel <= channels + slack:
        # the zeros behind a pixel's channels make neighbouring pixels one run
        channels = pixel if shape.window.kernel[-1] > 1 else channels
    run = channels
    loops: list[tuple[int, Dim]] = []
    taps = zip(shape.window.kernel, shape.window.dilations, strides, strict=True)
    for count, dilation, stride in reversed(list(taps)):
        step = stride * dilation
        if count == 1:
            continue
        if not loops and step == run:
            run *= count
            continue
        loops.insert(0, (count, step))
    return tuple(loops), run, channels


def _matrices(shape: ConvolutionShape, channels: int) -> Array:
    """Return the weights as [groups, taps * channels, outputs], channels padded with zeros."""
    weights = shape.weights.reshape(shape.group, shape.outputs, shape.channels, -1)
    weights = weights.transpose(0, 3, 2, 1)  # groups, taps, channels, outputs
    if channels > shape.channels:
        widths = [(0, 0), (0, 0), (0, channels - shape.channels), (0, 0)]
        weights = np.pad(weights, widths)
    return np.ascontiguousarray(weights).reshape(shape.group, -1, shape.outputs)
