"""Matrix products as GEMM tiles over whatever axes the rows span.

A constant right operand is packed at build time; any other is packed panel by panel into scratch by
the item that uses it (the rows of a batch all belong to one item, so each panel is packed once).
Batch axes that advance evenly are merged into the rows; the others are items. One row or a few
(a decoder's step, a classifier at batch 1) are bound by the streaming of weights: such tiles are
wide instead of high.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from planish.backends.cpu.codegen.blocking import candidate_blockings, fold_columns
from planish.backends.cpu.codegen.element import (
    WIDENED,
    ElementKind,
    VectorUnit,
    vector_unit,
)
from planish.backends.cpu.codegen.epilogue import (
    Epilogue,
    Parts,
    make_epilogue,
    refuse_epilogue,
    split_body,
)
from planish.backends.cpu.codegen.gemm import print_gemm
from planish.backends.cpu.codegen.gemm_problem import Blocking, Problem, RightOperand
from planish.backends.cpu.codegen.packing import pack_columns, pack_matrix
from planish.backends.cpu.codegen.row_axes import Axis, merge_axes
from planish.backends.cpu.tactics.convolution import (
    FLOATS,
    first_sums,
    input_behind_casts,
    refuse_integers,
    zero_point_of,
)
from planish.errors import TacticError
from planish.ir.dtypes import BF16, DType
from planish.ir.graph import Node, Value
from planish.ir.shape import Dim, Shape, symbols_of
from planish.tactics.integer_form import (
    BYTES,
    integer_form,
    largest_sum,
    without_zero_point,
)
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Side:
    """One operand of a product: a region input, or a constant (`array`)."""

    shape: Shape
    strides: Shape
    dtype: DType
    index: int
    array: Array | None


@dataclass(frozen=True)
class _Product:
    """A product; `region` is what it was read from: the region, or its integer form."""

    region: Region
    anchor: Node
    parts: Parts
    left: _Side
    right: _Side
    zero: int = 0

    @property
    def depth(self) -> Dim:
        left, right = self.left.shape[-1], self.right.shape[-2]
        return left if isinstance(left, int) else right


class GemmMatMul(Tactic):
    """Matrix product of floats, or of bytes by constant bytes; see the module's docstring."""

    name: ClassVar[str] = "gemm_matmul"
    rank: ClassVar[int] = 20

    def supports(self, region: Region, target: Target) -> Support:
        """Accept operands of rank 2 or more whose rows (left) lie contiguously."""
        unit = vector_unit(target)
        if unit is None:
            return no("the CPU has no AVX2")
        product = read_product(region, integers=True)
        return no(product) if isinstance(product, str) else YES

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return blockings, the best guess of the cost model first."""
        problem, _ = matmul_problem(region, target)
        bindings = {name: opt for name, (_, opt, _) in region.ranges.items()}
        return [b.as_config() for b in candidate_blockings(problem, target, bindings)]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel of one blocking."""
        problem, constants = matmul_problem(region, target)
        largest = {name: high for name, (_, _, high) in region.ranges.items()}
        printed = print_gemm(problem, Blocking.of(config), largest)
        packed = [*problem.epilogue.arrays]
        if constants.left is not None:
            packed.append(constants.left)
        if constants.right is not None and isinstance(problem.run, int):
            packed.append(pack_matrix(constants.right, problem.run, printed.columns, problem.kind))
        if problem.bias_pointer is not None and problem.epilogue.bias is not None:
            batches = 1 if constants.right is None else len(constants.right)
            bias = problem.epilogue.bias
            bias = np.broadcast_to(bias, (batches, bias.shape[-1]))
            packed.append(pack_columns(bias, printed.columns))
        return Kernel(
            printed.source, printed.items, tuple(packed), printed.scratch_bytes, problem.unit.isa
        )


def read_product(region: Region, integers: bool = False) -> _Product | str:
    """Return a MatMul region's product, or why it cannot be done.

    With `integers` a quantized product is read in its integer form; without, it is refused.
    """
    lowered = integer_form(region) if integers else None
    region = lowered or region
    anchor = region.anchor
    if region.kind not in ("MatMul", "MatMulInteger") or anchor is None:
        return "the region is not a matrix product"
    parts = split_body(region.body, anchor)
    types = BYTES if lowered else FLOATS
    left, right = (_side(region, value, types) for value in anchor.present_inputs[:2])
    if isinstance(left, str) or isinstance(right, str):
        return left if isinstance(left, str) else str(right)
    if len(right.shape) < 2:
        return "the right operand is a vector"
    if len(left.shape) < 2:
        return "the left operand is a vector"
    if left.strides[-1] != 1 and left.shape[-1] != 1:
        return "the left operand's rows are not contiguous"
    if right.array is None and 1 not in right.strides[-2:]:
        return "neither axis of the right operand is contiguous"
    known = set(region.symbols)
    for dim in (*anchor.output.known_shape, *left.shape, *right.shape):
        if symbols_of(dim) - known:
            return f"the extent {dim} is known only after data was read"
    reason = refuse_epilogue(region, parts)
    if reason is not None:
        return reason
    if right.array is not None and _uneven_batch(anchor, right):
        return "the batch axes of constant weights do not fit the output's"
    if not lowered:
        return _Product(region, anchor, parts, left, right)
    if left.array is not None or right.array is None:
        return "only the right operand of a product of integers may be, and has to be, a constant"
    weights = without_zero_point(right.array, anchor.input(3), -1)
    reason = refuse_integers(weights)
    if reason is not None:
        return reason
    zero = zero_point_of(anchor.input(2))
    return _Product(region, anchor, parts, left, replace(right, array=weights), zero)


def _side(region: Region, value: Value, types: Sequence[DType]) -> _Side | str:
    if value.constant is not None:
        if value.dtype not in types:
            return f"{value.dtype} is not a type that it multiplies"
        return _Side(
            value.known_shape, _contiguous(value.array.shape), value.dtype, -1, value.array
        )
    source = input_behind_casts(value)
    if source is None or source not in region.body.inputs:
        return "there are operations before the product"
    index = region.body.inputs.index(source)
    operand = region.inputs[index]
    if operand.dtype not in types:
        return f"{operand.dtype} is not a type that it multiplies"
    return _Side(operand.shape, operand.strides, operand.dtype, index, None)


def _contiguous(shape: tuple[int, ...]) -> Shape:
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))


def _uneven_batch(anchor: Node, right: _Side) -> bool:
    batch = right.shape[:-2]
    wanted = anchor.output.known_shape[:-2]
    return any(b not in (1, w) for b, w in zip(reversed(batch), reversed(wanted), strict=False))


@dataclass(frozen=True)
class Constants:
    """Constant operands: the left one as it is, the right one as [batches, K, N]."""

    left: Array | None
    right: Array | None


def matmul_problem(
    region: Region, target: Target, tiles: bool = False
) -> tuple[Problem, Constants]:
    """Return the GEMM of a region that is supported, and its constant operands.

    With `tiles` it is for AMX.
    """
    product, unit = read_product(region, integers=True), vector_unit(target)
    if isinstance(product, str) or unit is None:
        raise TacticError(f"gemm_matmul cannot do it: {product}", where=region.name)
    region, left, right, anchor = product.region, product.left, product.right, product.anchor
    kind = _kind(unit, left, right, tiles)
    constants = Constants(
        None if left.array is None else _converted(left.array, kind),
        None if right.array is None else right.array.reshape(-1, *right.array.shape[-2:]),
    )
    start = None if constants.right is None else first_sums(constants.right, product.zero, kind)
    most = math.inf
    if kind.is_integer and constants.right is not None:
        most = largest_sum(constants.right.shape[1])
    epilogue = make_epilogue(region, product.parts, anchor.output.rank - 1, start, most)
    pointer = len(region.inputs) + len(region.outputs) + len(epilogue.arrays)
    left_pointer = left.index
    if left.array is not None:
        left_pointer, pointer = pointer, pointer + 1
    weights = None
    if right.array is not None:
        weights, pointer = pointer, pointer + 1
    axes = tuple(merge_axes(_axes(product, epilogue)))
    problem = Problem(
        unit=unit,
        kind=kind,
        symbols=region.symbols,
        axes=axes,
        columns=right.shape[-1],
        loops=(),
        run=product.depth,
        epilogue=epilogue,
        input_offset=0,
        input_pointer=left_pointer,
        weight_pointer=weights,
        bias_pointer=None if epilogue.bias is None else pointer,
    )
    if right.array is None:
        problem = _with_right(problem, right)
    return fold_columns(problem), constants


def _with_right(problem: Problem, right: _Side) -> Problem:
    row, column = right.strides[-2:]
    if right.shape[-1] == 1 and row != 1:
        column = 1  # one column: its stride does not matter
    outer = tuple(axis.strides[-1] for axis in problem.outer)
    fields = {name: getattr(problem, name) for name in Problem.__dataclass_fields__}
    fields["right"] = RightOperand(right.index, right.dtype, row, column, outer)
    return Problem(**fields)


def _kind(unit: VectorUnit, left: _Side, right: _Side, tiles: bool) -> ElementKind:
    """Return the element kind that fits how both operands lie in memory."""
    if left.array is not None:
        dtype = right.dtype if right.array is None else left.dtype
        return unit.kind_of(dtype)
    if right.array is None and left.dtype is BF16 and right.dtype is not BF16:
        return WIDENED
    return unit.kind_in_place(left.dtype, tiles)


def _converted(array: Array, kind: ElementKind) -> Array:
    """Return a constant left operand in the type in which tiles read it."""
    return np.ascontiguousarray(array).astype(kind.dtype.numpy)


def _axes(product: _Product, epilogue: Epilogue) -> list[Axis]:
    """Return the row axes, the output's but the last; strides end with the right operand's."""
    shape = product.anchor.output.known_shape
    left, right = product.left, product.right
    axes = []
    for axis in range(len(shape) - 1):
        from_end = axis - len(shape)  # -2 is the rows' own axis
        a = _batch_stride(left, from_end)
        b: Dim = 0 if from_end == -2 else _batch_stride(right, from_end)
        own = b != 0
        strides = [access.strides[axis] for access in epilogue.accesses]
        axes.append(Axis(shape[axis], (a, *strides, b), own_weights=own))
    if not axes:
        axes.append(Axis(1, (0,) * (len(epilogue.accesses) + 2)))
    return axes


def _batch_stride(side: _Side, from_end: int) -> Dim:
    if -from_end > len(side.shape) or side.shape[from_end] == 1:
        return 0
    return side.strides[from_end]
