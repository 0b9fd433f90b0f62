"""3x3 convolutions, stride 1, in Winograd's domain: 2.25 to 4 times fewer multiplications.

F(4x4, 3x3) multiplies in float32 only: its transforms scale values by up to 100, which bf16
operands would turn into errors ten times those of a direct bf16 convolution (measured: rms 0.018
against 0.002 at unit variance). F(2x2, 3x3) with bf16 operands is within 1.7 times. In float32 the
errors relative to the largest output are 3e-7 and 5e-6.
"""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np

from planish.backends.cpu.codegen.element import ElementKind, VectorUnit, vector_unit
from planish.backends.cpu.codegen.epilogue import make_epilogue, refuse_epilogue, split_body
from planish.backends.cpu.codegen.packing import (
    Columns,
    pack_columns,
    pack_matrix,
    split_columns,
)
from planish.backends.cpu.codegen.scalar import c_dim
from planish.backends.cpu.codegen.winograd import Winograd, print_winograd
from planish.backends.cpu.codegen.winograd_matrices import transform_filters, transforms
from planish.ir.dtypes import BF16, F32
from planish.ir.graph import Node
from planish.ir.shape import static_shape
from planish.ops.convolution import resolve_padding
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target

SCRATCH_SHARE = 0.6  # of L2, for V and M; the weights stream through the rest
SMALLEST_SIDE = 6  # output pixels; below, most of a tile is waste


class WinogradConvolution(Tactic):
    """Convolution in Winograd's domain; see the module's docstring."""

    name: ClassVar[str] = "winograd"
    rank: ClassVar[int] = 8

    def supports(self, region: Region, target: Target) -> Support:
        """Accept ungrouped 3x3 convolutions of channels-last values with known extents."""
        unit = vector_unit(target)
        if unit is None:
            return no("the CPU has no AVX2")
        anchor = region.anchor
        if region.kind != "Conv" or anchor is None:
            return no("the region is not a convolution")
        parts = split_body(region.body, anchor)
        if parts.prologue or anchor.input(0) not in region.body.inputs:
            return no("there are operations before the convolution")
        reason = _refuse_convolution(anchor, unit) or refuse_epilogue(region, parts)
        if reason is not None:
            return no(reason)
        reason = _refuse_memory(region, anchor) or _refuse_streaming(anchor, target)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return tile sizes m, GEMM tiles, and into how many items a block's panels are cut."""
        anchor = _anchor(region)
        unit = _unit(target)
        kind = unit.kind_of(anchor.present_inputs[0].dtype)
        height, width = _sides(anchor)
        sizes = [2] if kind.group > 1 else [4, 2] if min(height, width) > 8 else [2, 4]
        shapes = [(14, 2), (7, 4)] if unit.lanes == 16 else [(6, 2)]
        found: list[Config] = []
        for m in sizes:
            for rows, vectors in shapes:
                plan = _shape(region, target, m, rows, vectors, 1)
                splits = [1] if plan.blocks % target.threads == 0 else [target.threads, 1]
                found += [{"m": m, "rows": rows, "vectors": vectors, "split": split}
                          for split in splits if split <= plan.columns.panels]  # fmt: skip
        return found

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel."""
        anchor, unit = _anchor(region), _unit(target)
        shape = _shape(
            region, target, config["m"], config["rows"], config["vectors"], config["split"]
        )
        filters = anchor.inputs[1].array.astype(np.float32)  # type: ignore[union-attr]
        bias = None if anchor.input(2) is None else anchor.inputs[2].array  # type: ignore[union-attr]
        epilogue = make_epilogue(region, split_body(region.body, anchor), 1, bias)
        start = np.zeros(shape.columns.count) if epilogue.bias is None else epilogue.bias
        first = len(region.inputs) + len(region.outputs)
        packed = (
            *epilogue.arrays,
            _pack(transform_filters(filters, shape.m), shape.columns, shape.kind),
            pack_columns(np.asarray(start, np.float32), shape.columns),
        )
        pointers = (first + len(epilogue.arrays), first + len(epilogue.arrays) + 1)
        source = print_winograd(
            shape, transforms(shape.m), epilogue, unit, region.symbols, pointers
        )
        batch = anchor.output.known_shape[0]
        items = batch * (shape.blocks * shape.groups)
        return Kernel(source, items, packed, shape.scratch_bytes, unit.isa)


def _refuse_convolution(anchor: Node, unit: VectorUnit) -> str | None:
    attributes = anchor.attributes
    weights = anchor.input(1)
    bias = anchor.input(2)
    if weights is None or weights.constant is None or weights.known_shape[2:] != (3, 3):
        return "the filter is not a constant 3x3"
    if bias is not None and bias.constant is None:
        return "the bias is not a constant"
    if attributes["group"] != 1 or set(attributes["strides"] or (1,)) != {1}:
        return "the convolution is grouped or strided"
    if set(attributes["dilations"] or (1,)) != {1}:
        return "the convolution is dilated"
    if weights.known_shape[1] % unit.lanes != 0:
        return f"input channels are not a multiple of {unit.lanes}"
    value = anchor.present_inputs[0]
    if value.dtype not in (F32, BF16) or static_shape(value.known_shape[1:]) is None:
        return "the input's type or extents do not fit"
    return (
        f"an output side is below {SMALLEST_SIDE}" if min(_sides(anchor)) < SMALLEST_SIDE else None
    )


def _refuse_streaming(anchor: Node, target: Target) -> str | None:
    """Refuse few pixels of large weights.

    The transformed weights (4 times as many) then stream from memory for too little work. At
    7x7x512 the direct kernel takes 0.97 ms, this 1.4 ms.
    """
    sides, weights = _sides(anchor), anchor.present_inputs[1]
    outputs, channels = weights.known_shape[:2]
    if not isinstance(outputs, int) or not isinstance(channels, int):
        return None
    if sides[0] * sides[1] < 100 and outputs * channels * 64 > 2 * target.l2:
        return "few pixels of large weights: streaming the transformed weights takes longer"
    return None


def _refuse_memory(region: Region, anchor: Node) -> str | None:
    index = region.body.inputs.index(anchor.present_inputs[0])
    operand = region.inputs[index]
    padding = resolve_padding(anchor)
    if index != 0:
        return "the convolved value is not the first operand"
    if operand.strides[1] != 1 or any(not isinstance(s, int) for s in operand.strides[2:]):
        return "channels are not innermost in memory"
    for axis, (begin, end) in enumerate(zip(padding.begin, padding.end, strict=True), start=2):
        if not isinstance(begin, int) or not isinstance(end, int):
            return "the padding is symbolic"
        before, after = operand.halo[axis]
        if before < begin or after < end:
            return "the input has no halo for the padding"
    return None


def _shape(
    region: Region, target: Target, m: int, rows: int, vectors: int, groups: int
) -> Winograd:
    anchor, unit = _anchor(region), _unit(target)
    value = anchor.present_inputs[0]
    operand = region.inputs[0]
    padding = resolve_padding(anchor)
    height, width = _sides(anchor)
    channels, rows_in, columns_in = static_shape(value.known_shape[1:])  # type: ignore[misc]
    outputs = int(anchor.output.known_shape[1])  # type: ignore[arg-type]
    columns = split_columns(outputs, unit.lanes, vectors)
    top, left = int(padding.begin[0]), int(padding.begin[1])  # type: ignore[arg-type]
    bottom, right = int(padding.end[0]), int(padding.end[1])  # type: ignore[arg-type]
    row, column = (c_dim(stride, region.symbols) for stride in operand.strides[2:])
    plan = Winograd(
        m=m, channels=channels, height=height, width=width,
        available=(rows_in + top + bottom, columns_in + left + right),
        origin=f"(-{top} * {row} - {left} * {column})",
        input_dtype=value.dtype, input_strides=operand.strides, columns=columns,
        kind=unit.kind_of(value.dtype), rows=rows, block=rows,
        groups=min(groups, columns.panels),
    )  # fmt: skip
    return _with_block(plan, target)


def _with_block(plan: Winograd, target: Target) -> Winograd:
    """Return `plan` with the largest even blocks whose scratch fits the share of L2."""
    fits = max(1, int(target.l2 * SCRATCH_SHARE) // plan.scratch_bytes)  # in GEMM tiles
    whole = -(-plan.tiles // plan.rows)
    blocks = -(-whole // fits)
    if blocks > 1 and blocks % target.threads:
        blocks = min(whole, blocks + target.threads - blocks % target.threads)
    block = -(-whole // blocks) * plan.rows
    values = {name: getattr(plan, name) for name in Winograd.__dataclass_fields__}
    return Winograd(**{**values, "block": block})


def _pack(filters: np.ndarray, columns: Columns, kind: ElementKind) -> np.ndarray:
    """Return filters [n, n, C, K] as panels, each with its n*n matrices one after the other."""
    matrices = filters.reshape(-1, *filters.shape[2:])
    depth = matrices.shape[1]
    rows = pack_matrix(matrices, depth, columns, kind)
    bounds = [columns.first_column(panel) * depth for panel in range(columns.panels + 1)]
    return np.concatenate(
        [rows[:, low:high].reshape(-1) for low, high in itertools.pairwise(bounds)]
    )


def _anchor(region: Region) -> Node:
    anchor = region.anchor
    if anchor is None:
        raise ValueError("the region has no anchor")
    return anchor


def _unit(target: Target) -> VectorUnit:
    unit = vector_unit(target)
    if unit is None:
        raise ValueError("the target has no vector unit")
    return unit


def _sides(anchor: Node) -> tuple[int, int]:
    height, width = anchor.output.known_shape[2:]
    return (height if isinstance(height, int) else 0, width if isinstance(width, int) else 0)
