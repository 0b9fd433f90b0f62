"""Convolutions and matrix products of eight-bit integers, generic form.

y[p, o] = finish(sum over taps t and channels c of (x[p, t, c] - x_zero) * (w[t, c, o] - w_zero[o]))

Sums are exact in int32. Weights are packed as int32 [group][tap][c][o] with their zero points taken
off, so that the inner loop runs over output channels: one multiply-add of a broadcast input element
a vector. QLinear forms multiply by x_scale * w_scale / y_scale, round half to even, add the zero
point and saturate. Bound by 32-bit multiplications; dot-product instructions would be several times
faster and are left to a tactic of their own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from planish.backends.cpu.codegen.access import Term, print_load, print_store
from planish.backends.cpu.codegen.body import body_reason, split_body
from planish.backends.cpu.codegen.c_types import INTEGER_RANGES
from planish.backends.cpu.codegen.indexing import (
    Index,
    IndexMap,
    identity_map,
    loop_index,
    operand_access,
    term_index,
)
from planish.backends.cpu.codegen.injection import Builder, anchor_reason
from planish.backends.cpu.codegen.loops import decompose_names
from planish.backends.cpu.codegen.row_tactic import RowBuilder
from planish.backends.cpu.codegen.scalar import compute_type
from planish.backends.cpu.codegen.vector_loop import Span, vector_loop
from planish.backends.cpu.codegen.writer import KernelWriter, block
from planish.ir.graph import Node, Value
from planish.ir.shape import product
from planish.ops.convolution import Window, window_for
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target

# operator: positions of x, its scale and zero point, w, its scale and zero point, y's, bias
PLACES: dict[str, dict[str, int]] = {
    "ConvInteger": {"x": 0, "w": 1, "x_zero": 2, "w_zero": 3},
    "MatMulInteger": {"x": 0, "w": 1, "x_zero": 2, "w_zero": 3},
    "QLinearConv": {
        "x": 0, "x_scale": 1, "x_zero": 2, "w": 3, "w_scale": 4, "w_zero": 5, "y_scale": 6,
        "y_zero": 7, "bias": 8,
    },
    "QLinearMatMul": {
        "x": 0, "x_scale": 1, "x_zero": 2, "w": 3, "w_scale": 4, "w_zero": 5, "y_scale": 6,
        "y_zero": 7,
    },
}  # fmt: skip


class IntegerTactic(Tactic):
    """Loops over output channels with exact sums."""

    name: ClassVar[str] = "integer"
    rank: ClassVar[int] = 80

    def supports(self, region: Region, target: Target) -> Support:
        """Accept constant weights and parameters; the input's zero point may be an operand."""
        if region.kind not in PLACES:
            return no(f"it does not do {region.kind}")
        body = split_body(region)
        if body.anchor is None or body.prologue:
            return no("pointwise nodes are fused before it")
        reason = body_reason(region, body) or anchor_reason(region, body) or _reason(body.anchor)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return the only configuration."""
        return [{}]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel."""
        writer, body = KernelWriter(region, target), split_body(region)
        if body.anchor is None:
            raise ValueError("supports() was not asked")
        return _Printer(RowBuilder(body.anchor, body, writer)).kernel()


def _input(node: Node, name: str) -> Value | None:
    position = PLACES[node.op].get(name)
    return None if position is None else node.input(position)


def _reason(node: Node) -> str | None:
    for name in ("w", "w_zero", "x_scale", "w_scale", "y_scale", "y_zero", "bias"):
        value = _input(node, name)
        if value is not None and not value.is_constant:
            return f"the {name} is not a constant"
    for name in ("x_zero", "x_scale"):
        value = _input(node, name)
        if value is not None and product(value.known_shape) != 1:
            return f"there is one {name} a row"
    weight = _input(node, "w")
    if "MatMul" in node.op and (weight is None or weight.rank != 2):
        return "the second matrix is batched"
    if "MatMul" in node.op and node.present_inputs[0].rank < 2:
        return "the first operand is a vector"
    return None


def _array(node: Node, name: str) -> np.ndarray[Any, Any] | None:
    value = _input(node, name)
    return None if value is None else value.array


class _Printer:
    """One kernel; the nest's axes are the output's, one of them the output channel."""

    def __init__(self, builder: RowBuilder) -> None:
        self.builder, self.writer, self.node = builder, builder.writer, builder.node
        self.convolution = "Conv" in self.node.op
        self.x, self.y = self.node.present_inputs[0], self.node.outputs[0]
        self.rank = self.y.rank
        self.channel = 1 if self.convolution else self.rank - 1
        self.groups = int(self.node.attributes["group"]) if self.convolution else 1
        self.window: Window | None = None
        weight = _array(self.node, "w")
        if weight is None:
            raise ValueError("supports() was not asked")
        if self.convolution:
            extents = self.x.known_shape[2:]
            self.window = window_for(self.node.attributes, extents, weight.shape[2:])
        self.packed, self.depth, self.outputs = self._weights(weight)

    def _weights(self, weight: np.ndarray[Any, Any]) -> tuple[str, int, int]:
        """Return the packed weights, channels of a tap, and output channels of a group."""
        zero = _array(self.node, "w_zero")
        wide = weight.astype(np.int32)
        if not self.convolution:
            wide = wide - (0 if zero is None else zero.astype(np.int32))
            return self.writer.pack(wide), wide.shape[0], wide.shape[1]
        if zero is not None:
            wide = wide - zero.astype(np.int32).reshape(-1, *(1,) * (wide.ndim - 1))
        outputs, depth = wide.shape[0] // self.groups, wide.shape[1]
        grouped = wide.reshape(self.groups, outputs, depth, -1).transpose(0, 3, 2, 1)
        return self.writer.pack(np.ascontiguousarray(grouped)), depth, outputs

    # -- C ---------------------------------------------------------------------------------------

    def kernel(self) -> Kernel:
        """Return the kernel: an item is one position, all its output channels."""
        writer = self.writer
        axes = [axis for axis in range(self.rank) if axis != self.channel]
        names = [(f"i{axis}", self.y.known_shape[axis]) for axis in axes]
        total = self.groups * self.outputs
        zero = f"for (int64_t o = 0; o < {total}; ++o) acc[o] = 0;"
        body = [*decompose_names(writer, names), zero, *self._taps(), *self._store(total)]
        lines = ["int32_t *restrict const acc = (int32_t *)scratch;", self._zero()]
        lines += block("for (int64_t item = begin; item < end; ++item)", body)
        items = product(extent for _, extent in names)
        return writer.kernel(lines, items, scratch_bytes=-(-total * 4 // 64) * 64)

    def _zero(self) -> str:
        value = _input(self.node, "x_zero")
        text = "0"
        if value is not None:
            text = Builder(self.node, self.writer).scalar(value) or "0"
        return f"const int32_t x_zero = (int32_t){text};"

    def _taps(self) -> list[str]:
        """Return the loops over taps and channels."""
        kernel = self.window.kernel if self.window is not None else ()
        tap: str = "0"
        for axis, size in enumerate(kernel):
            tap = f"({tap}) * {size} + k{axis + 2}"
        taps = int(np.prod(kernel)) if kernel else 1
        place = f"((g * {taps} + {tap}) * {self.depth} + c) * {self.outputs}"
        add = f"acc[g * {self.outputs} + o] += value * {self.packed}[{place} + o];"
        access = operand_access(
            self.writer,
            self.builder.pointwise.memory_of(self.x),
            self.x.known_shape,
            self._index(),
            self.rank,
        )
        inner = [
            f"const int32_t value = (int32_t){print_load(self.writer, access)} - x_zero;",
            *vector_loop(
                self.writer,
                "o",
                Span("0", str(self.outputs), self.outputs),
                [add],
                "#pragma GCC ivdep",
            ),
        ]
        lines = block(f"for (int64_t c = 0; c < {self.depth}; ++c)", inner)
        lines = block(f"for (int64_t g = 0; g < {self.groups}; ++g)", lines)
        for axis in reversed(range(2, 2 + len(kernel))):
            first = f"const int64_t k_first{axis} = planish_first_tap({self._bounds(axis, '0')});"
            extent = self.writer.dim(self.x.known_shape[axis])
            last = f"const int64_t k_last{axis} = planish_last_tap({self._bounds(axis, extent)});"
            header = f"for (int64_t k{axis} = k_first{axis}; k{axis} < k_last{axis}; ++k{axis})"
            lines = [first, last, *block(header, lines)]
        return lines

    def _bounds(self, axis: int, limit: str) -> str:
        if self.window is None:
            raise ValueError("a matrix product has no window")
        step, dilation = self.window.strides[axis - 2], self.window.dilations[axis - 2]
        begin = self.writer.dim(self.window.padding.pairs[axis - 2][0])
        taps = self.window.kernel[axis - 2]
        return f"i{axis} * {step} - {begin}, {dilation}, {taps}, {limit}"

    def _index(self) -> IndexMap:
        """Return where x is read."""
        if self.window is None:
            lead = tuple(loop_index(axis, self.rank) for axis in range(self.rank - 1))
            return (*lead, term_index(self.rank, "c", ()))
        index: list[Index] = [
            loop_index(0, self.rank),
            term_index(self.rank, f"(g * {self.depth} + c)", ()),
        ]
        for axis in range(2, self.rank):
            begin = self.window.padding.pairs[axis - 2][0]
            along = loop_index(axis, self.rank, self.window.strides[axis - 2], -begin)
            text = f"k{axis} * {self.window.dilations[axis - 2]}"
            index.append(replace(along, terms=(Term(text, frozenset()),)))
        return tuple(index)

    def _store(self, total: int) -> list[str]:
        """Return the loop over output channels that requantizes and stores."""
        name, channel = self.writer.fresh("y"), f"i{self.channel}"
        end = self.builder.finish(self.y, name, identity_map(self.rank), self.rank)
        lines = [f"const {compute_type(self.y.dtype)} {name} = {self._result(channel, total)};"]
        lines += [
            f"const {compute_type(a.dtype)} {load} = {print_load(self.writer, a)};"
            for load, a in end.loads
        ]
        lines += end.statements
        lines += [print_store(self.writer, access, text) for access, text in end.stores]
        span = Span("0", str(total), total)
        return vector_loop(self.writer, channel, span, lines, "#pragma GCC ivdep")

    def _result(self, channel: str, total: int) -> str:
        y_scale, y_zero = _array(self.node, "y_scale"), _array(self.node, "y_zero")
        x_scale, w_scale = _array(self.node, "x_scale"), _array(self.node, "w_scale")
        if y_scale is None or x_scale is None or w_scale is None:
            return f"acc[{channel}]"
        combined = x_scale.reshape(()) * w_scale.reshape(-1)
        combined = combined if self.convolution else combined.astype(np.float32)
        combined = combined / y_scale.reshape(())
        multiplier = np.broadcast_to(combined.astype(np.float32), (total,))
        bias = _array(self.node, "bias")
        text = f"acc[{channel}]"
        if bias is not None:
            text = f"(acc[{channel}] + {self.writer.pack(bias)}[{channel}])"
        scaled = f"planish_round((float){text} * {self.writer.pack(multiplier)}[{channel}])"
        low, high = INTEGER_RANGES[self.y.dtype]
        zero = 0 if y_zero is None else int(y_zero.reshape(-1)[0])
        clipped = f"planish_clip({scaled} + {zero}.0f, {low}.0f, {high}.0f)"
        return f"({compute_type(self.y.dtype)})(int32_t){clipped}"
