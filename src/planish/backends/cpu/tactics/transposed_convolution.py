"""Transposed convolutions as one implicit GEMM for each phase of the output.

Output positions o with the same remainder r = o mod stride see the same taps: with o = q * stride
+ r, tap t contributes from input position q + (r + pad - t * dilation) / stride, if that is whole.
So each phase is an ordinary convolution of stride 1 with every stride-th tap, written with stride;
no product with a zero is ever computed. All phases are one kernel, their items one after the other.
Positions outside the input have to be zeros in memory. Of quantized operands the integers are
multiplied; each phase has sums of its own to start from, because its weights are others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from planish.backends.cpu.codegen.blocking import candidate_blockings, fold_columns
from planish.backends.cpu.codegen.element import VectorUnit, vector_unit
from planish.backends.cpu.codegen.epilogue import (
    Access,
    Epilogue,
    make_epilogue,
    refuse_epilogue,
    split_body,
)
from planish.backends.cpu.codegen.gemm import print_gemm
from planish.backends.cpu.codegen.gemm_problem import Blocking, Problem
from planish.backends.cpu.codegen.packing import pack_columns, pack_matrix
from planish.backends.cpu.codegen.row_axes import Axis, merge_axes
from planish.backends.cpu.codegen.scalar import c_dim
from planish.backends.cpu.tactics.convolution import (
    FLOATS,
    first_sums,
    input_behind_casts,
    refuse_integers,
    zero_point_of,
)
from planish.errors import TacticError
from planish.ir.graph import Node
from planish.ir.shape import Dim, Shape, static_shape
from planish.ops.convolution import Window, kernel_of, transposed_window
from planish.tactics.integer_form import (
    BYTES,
    factors_of,
    integer_form,
    largest_sum,
)
from planish.tactics.tactic import YES, Config, Kernel, Operand, Region, Support, Tactic, no
from planish.tactics.target import Target

Array = np.ndarray[Any, Any]
MOST_PHASES = 16  # kernels of their own; a larger stride is left to the generic kernel


@dataclass(frozen=True)
class AxisPhase:
    """One remainder along one axis.

    Attributes
    ----------
    remainder : int
        r of the output positions q * stride + r.
    count : int
        How many of them there are.
    taps : tuple of int
        Kernel indices that contribute, by ascending input position.
    first, step : int
        Input position, relative to q, of the first tap, and from one tap to the next.
    """

    remainder: int
    count: int
    taps: tuple[int, ...]
    first: int
    step: int


def axis_phases(stride: int, dilation: int, pad: int, kernel: int, outputs: int) -> list[AxisPhase]:
    """Return the phases of one axis that have output positions."""
    phases = []
    for remainder in range(min(stride, outputs)):
        taps = [t for t in range(kernel) if (remainder + pad - t * dilation) % stride == 0]
        taps.reverse()  # a later tap reads an earlier position
        first = (remainder + pad - taps[0] * dilation) // stride if taps else 0
        count = -(-(outputs - remainder) // stride)
        step = dilation // math.gcd(stride, dilation)
        phases.append(AxisPhase(remainder, count, tuple(taps), first, step))
    return phases


@dataclass(frozen=True)
class _Convolution:
    anchor: Node
    operand: Operand
    index: int
    weights: Array  # [C, N / group, *kernel]
    bias: Array | None
    group: int
    phases: tuple[tuple[AxisPhase, ...], ...]  # one combination of axis phases each
    strides: tuple[int, ...]
    region: Region  # what it was read from: the region, or its integer form
    zero: int = 0  # of integer data

    @property
    def is_integer(self) -> bool:
        """Whether integers are multiplied."""
        return self.operand.dtype in BYTES

    @property
    def channels(self) -> int:
        """Input channels of a group."""
        return int(self.weights.shape[0]) // self.group

    @property
    def outputs(self) -> int:
        """Output channels of a group."""
        return int(self.weights.shape[1])


class PhasedTransposedConvolution(Tactic):
    """ConvTranspose with constant weights; see the module's docstring."""

    name: ClassVar[str] = "phased_conv_transpose"
    rank: ClassVar[int] = 20

    def supports(self, region: Region, target: Target) -> Support:
        """Accept known extents and channels-last inputs that hold the zeros around them."""
        if vector_unit(target) is None:
            return no("the CPU has no AVX2")
        convolution = _read(region)
        return no(convolution) if isinstance(convolution, str) else YES

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return blockings for the phase with most taps."""
        convolution, unit = _read(region), vector_unit(target)
        if isinstance(convolution, str) or unit is None:
            return []
        epilogue = _epilogue(convolution)
        busiest = max(
            convolution.phases, key=lambda phase: math.prod(len(axis.taps) for axis in phase)
        )
        problem = _problem(convolution, epilogue, unit, busiest, 0)
        bindings = {name: opt for name, (_, opt, _) in region.ranges.items()}
        return [b.as_config() for b in candidate_blockings(problem, target, bindings)]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel of all phases."""
        convolution, unit = _read(region), vector_unit(target)
        if isinstance(convolution, str) or unit is None:
            raise TacticError(f"it cannot do it: {convolution}", where=region.name)
        epilogue, blocking = _epilogue(convolution), Blocking.of(config)
        sources, items, packed, scratch = [], [], list(epilogue.arrays), 0
        columns, starts = None, []
        for number, phase in enumerate(convolution.phases):
            problem = _problem(convolution, epilogue, unit, phase, number)
            printed = print_gemm(problem, blocking)
            if columns is None or printed.columns.padded > columns.padded:
                columns = printed.columns  # phases with folded lanes pad less
            sources.append(printed.source.replace("@NAME@", f"@NAME@_phase{number}"))
            items.append(printed.items)
            matrix = _matrix(convolution, phase)
            run = problem.run if isinstance(problem.run, int) else 1
            packed.append(pack_matrix(matrix, run, printed.columns, problem.kind))
            start = first_sums(matrix, convolution.zero, problem.kind)
            if start is not None:
                starts.append(pack_columns(start, printed.columns))
            scratch = max(scratch, printed.scratch_bytes)
        if epilogue.bias is not None and columns is not None:
            packed.append(pack_columns(epilogue.bias.reshape(convolution.group, -1), columns))
        packed += starts
        sources.append(_print_dispatch(items, region.symbols))
        total = sum(items, start=0)
        return Kernel("\n".join(sources), total, tuple(packed), scratch, unit.isa)


def _print_dispatch(items: Sequence[Dim], symbols: Sequence[str]) -> str:
    """Return the kernel that hands its items to the phases."""
    lines = ["    int64_t first = 0, low, high;"]
    for number, count in enumerate(items):
        size = c_dim(count, symbols)
        lines += [
            "    low = planish_max_i64(begin - first, 0);",
            f"    high = planish_min_i64(end - first, {size});",
            f"    if (low < high) @NAME@_phase{number}(p, d, low, high, scratch);",
            f"    first += {size};",
        ]
    body = "\n".join(lines)
    return (
        "static void @NAME@(char *const *p, const int64_t *d, int64_t begin, int64_t end, "
        f"char *scratch) {{\n{body}\n}}\n"
    )


def _read(region: Region) -> _Convolution | str:
    factors = None if region.anchor is None else factors_of(region.anchor)
    lowered = integer_form(region)
    region = lowered or region
    anchor = region.anchor
    if region.kind != "ConvTranspose" or anchor is None:
        return "the region is not a transposed convolution"
    source = input_behind_casts(anchor.present_inputs[0])
    if source is None or source not in region.body.inputs:
        return "there are operations before the convolution"
    weight, bias = anchor.present_inputs[1], None if lowered else anchor.input(2)
    if weight.constant is None or (bias is not None and bias.constant is None):
        return "the weights are not constants"
    index = region.body.inputs.index(source)
    operand = region.inputs[index]
    types = BYTES if lowered else FLOATS
    if operand.dtype not in types or weight.dtype not in types:
        return f"{operand.dtype} x {weight.dtype} is not a product that it does"
    if operand.strides[1] != 1 or any(not isinstance(s, int) for s in operand.strides[2:]):
        return "the input's channels are not contiguous"
    reason = refuse_epilogue(region, split_body(region.body, anchor))
    if reason is not None:
        return reason
    phases = _phases(anchor, operand)
    if isinstance(phases, str):
        return phases
    weights, zero = weight.array, 0
    if lowered is not None and factors is not None:
        weights, given = factors.plain_weights, factors.data.input(2)
        zero = zero_point_of(given) if given is None or given.is_constant else 0
        reason = refuse_integers(weights)
        if reason is None and zero and _reads_outside(operand, phases):
            reason = "zeros around the input are not its zero point"
        if reason is not None:
            return reason
    window = transposed_window(anchor.attributes, operand.shape[2:], kernel_of(anchor))
    values = None if bias is None else bias.array.astype(np.float32)
    group = int(anchor.attributes.get("group", 1))
    return _Convolution(
        anchor, operand, index, weights, values, group, phases, window.strides, region, zero
    )


def _reads_outside(operand: Operand, phases: Sequence[Sequence[AxisPhase]]) -> bool:
    """Whether some output position has taps outside of the input."""
    for phase in phases:
        for extent, part in zip(operand.shape[2:], phase, strict=True):
            last = part.count - 1 + part.first + part.step * (len(part.taps) - 1)
            if part.first < 0 or last > int(str(extent)) - 1:
                return True
    return False


def _phases(anchor: Node, operand: Operand) -> tuple[tuple[AxisPhase, ...], ...] | str:
    extents = static_shape(operand.shape[2:])
    outputs = static_shape(anchor.output.known_shape[2:])
    if extents is None or outputs is None:
        return "the spatial extents are symbolic"
    window: Window = transposed_window(anchor.attributes, extents, kernel_of(anchor))
    pads = window.padding.static
    if pads is None or math.prod(window.strides) > MOST_PHASES:
        return "the padding is symbolic or the stride too large"
    axes = []
    for axis, (pad, _) in enumerate(pads):
        phases = axis_phases(
            window.strides[axis], window.dilations[axis], pad, window.kernel[axis], outputs[axis]
        )
        before, after = operand.halo[axis + 2]
        for phase in phases:
            if not phase.taps:
                return "a phase of the output has no taps"
            last = phase.count - 1 + phase.first + phase.step * (len(phase.taps) - 1)
            if -phase.first > before or last - (extents[axis] - 1) > after:
                return "the input has no zeros around it"
        axes.append(phases)
    return tuple(itertools.product(*axes))


def _epilogue(convolution: _Convolution) -> Epilogue:
    region = convolution.region
    parts = split_body(region.body, convolution.anchor)
    most = math.inf
    if convolution.is_integer:
        most = largest_sum(convolution.weights.size // convolution.outputs)
    return make_epilogue(region, parts, 1, convolution.bias, most)


def _at_phase(epilogue: Epilogue, phase: Sequence[AxisPhase], strides: Sequence[int]) -> Epilogue:
    """Return `epilogue` with every access moved to the phase's positions."""

    def moved(access: Access) -> Access:
        steps: list[Dim] = list(access.strides)
        offset: Dim = 0
        for axis, (part, stride) in enumerate(zip(phase, strides, strict=True), start=2):
            offset = offset + steps[axis] * part.remainder
            steps[axis] = steps[axis] * stride
        return replace(access, strides=tuple(steps), offset=offset)

    return replace(
        epilogue,
        reads=tuple((value, moved(access)) for value, access in epilogue.reads),
        writes=tuple((value, moved(access)) for value, access in epilogue.writes),
    )


def _problem(
    convolution: _Convolution,
    epilogue: Epilogue,
    unit: VectorUnit,
    phase: Sequence[AxisPhase],
    number: int,
) -> Problem:
    """Return the GEMM of one phase."""
    region, operand = convolution.region, convolution.operand
    kind = unit.kind_in_place(operand.dtype)
    moved = _at_phase(epilogue, phase, convolution.strides)
    first = len(region.inputs) + len(region.outputs) + len(epilogue.arrays)
    loops, run = _walk(phase, operand.strides[2:], convolution.channels)
    offset: Dim = 0
    for part, stride in zip(phase, operand.strides[2:], strict=True):
        offset = offset + stride * part.first
    bias = None if epilogue.bias is None else first + len(convolution.phases)
    if kind.is_integer and (kind.flips or convolution.zero):
        bias = first + len(convolution.phases) + number
    problem = Problem(
        unit=unit,
        kind=kind,
        symbols=region.symbols,
        axes=tuple(merge_axes(_axes(convolution, moved, phase))),
        columns=convolution.outputs,
        loops=loops,
        run=run,
        epilogue=moved,
        input_offset=offset,
        input_pointer=convolution.index,
        weight_pointer=first + number,
        bias_pointer=bias,
    )
    # groups find their bias by the padding of the columns: it has to be the same in all phases
    return problem if convolution.group > 1 else fold_columns(problem)


def _walk(
    phase: Sequence[AxisPhase], strides: Shape, channels: int
) -> tuple[tuple[tuple[int, Dim], ...], int]:
    """Return the outer K loops and the run; neighbouring taps merge into one run."""
    run = channels
    loops: list[tuple[int, Dim]] = []
    for part, stride in reversed(list(zip(phase, strides, strict=True))):
        count, step = len(part.taps), stride * part.step
        if count == 1:
            continue
        if not loops and step == run:
            run *= count
            continue
        loops.insert(0, (count, step))
    return tuple(loops), run


def _axes(convolution: _Convolution, epilogue: Epilogue, phase: Sequence[AxisPhase]) -> list[Axis]:
    """Return the row axes of a phase: groups, batch, positions."""
    operand, accesses = convolution.operand, epilogue.accesses
    axes = []
    if convolution.group > 1:
        steps = [access.strides[1] * convolution.outputs for access in accesses]
        axes.append(Axis(convolution.group, (convolution.channels, *steps), own_weights=True))
    batch = [access.strides[0] for access in accesses]
    extents = convolution.anchor.output.known_shape
    axes.append(Axis(extents[0], (operand.strides[0], *batch)))
    for axis, part in enumerate(phase, start=2):
        strides = [access.strides[axis] for access in accesses]
        axes.append(Axis(part.count, (operand.strides[axis], *strides)))
    return axes


def _matrix(convolution: _Convolution, phase: Sequence[AxisPhase]) -> Array:
    """Return the weights of a phase as [groups, taps * channels, outputs]."""
    group, channels, outputs = convolution.group, convolution.channels, convolution.outputs
    kernel = convolution.weights.shape[2:]
    weights = convolution.weights.reshape(group, channels, outputs, *kernel)
    for axis, part in enumerate(phase, start=3):
        weights = np.take(weights, part.taps, axis=axis)
    weights = weights.reshape(group, channels, outputs, -1).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(weights).reshape(group, -1, outputs)
