"""Reductions over any axes, of any type and length, and positions of extremes.

y[k] = finish(sum over r of f(x[k, r])). See codegen/row_program.py for how rows are walked.
Integers are summed in 64 bits, floats in float32 (float64 stays).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from planish.backends.cuda.codegen.elements import anchor_of
from planish.backends.cuda.codegen.printer import unprintable
from planish.backends.cuda.codegen.row_program import Fold, RowProgram, row_configs, sum_of
from planish.backends.cuda.codegen.triton_types import compute_type, sum_type
from planish.backends.cuda.tactics.direct_window import norm_of
from planish.errors import TacticError
from planish.ir.dtypes import BOOL, F32, F64, I32, I64, U64, DType
from planish.ir.graph import Node
from planish.ir.shape import product
from planish.ops.reduction import reduced_axes
from planish.tactics.tactic import YES, Config, Region, Support, Tactic, TritonKernel, no
from planish.tactics.target import Target

Describe = Callable[[RowProgram], str]


def largest_of(dtype: DType) -> Fold:
    """Return a running maximum."""
    low = 'float("-inf")' if dtype.is_float else str(_limits(dtype)[0])
    return Fold(dtype, low, "tl.maximum({a}, {b})", "tl.max({x}, axis=1)")


def smallest_of(dtype: DType) -> Fold:
    """Return a running minimum."""
    high = 'float("inf")' if dtype.is_float else str(_limits(dtype)[1])
    return Fold(dtype, high, "tl.minimum({a}, {b})", "tl.min({x}, axis=1)")


def product_of(dtype: DType) -> Fold:
    """Return a running product."""
    return Fold(dtype, "1", "{a} * {b}", "tl.reduce({x}, 1, planish_multiply)")


def _limits(dtype: DType) -> tuple[int, int]:
    limits = np.iinfo(dtype.numpy)
    return int(limits.min), int(limits.max)


def _extreme_type(dtype: DType) -> DType:
    """Return the type that elements are compared in: booleans as numbers."""
    return I32 if dtype is BOOL else F32 if dtype.is_float and dtype is not F64 else dtype


def _summed(element: str, finish: str = "{r}") -> Describe:
    """Return a reduction: the sum of `element` (field {x}), then `finish` (fields {r} and {n})."""

    def describe(p: RowProgram) -> str:
        x = p.node.present_inputs[0]
        if x.dtype is BOOL:
            raise TacticError("booleans have no sums")
        kind = sum_type(x.dtype)
        wide = compute_type(kind)
        (total,) = p.fold(
            (sum_of(kind), lambda: element.format(x=f"({p.read(x)}).to({wide})"))
        )  # fmt: skip
        if finish == "{r}":
            return total
        real = "tl.float64" if kind in (I64, U64, F64) else "tl.float32"
        number = p.let("number", f"{total}.to({real})")
        return p.let("result", finish.format(r=number, n=f"({p.dim(p.length)})"))

    return describe


def _folded(fold: Callable[[DType], Fold], kind: Callable[[DType], DType]) -> Describe:
    def describe(p: RowProgram) -> str:
        x = p.node.present_inputs[0]
        (total,) = p.fold((fold(kind(x.dtype)), lambda: p.read(x)))
        return p.let("result", f"{total} != 0") if x.dtype is BOOL else total

    return describe


def _log_sum_exp(p: RowProgram) -> str:
    x = p.node.present_inputs[0]
    if not x.dtype.is_float:
        raise TacticError(f"it is of {x.dtype}")
    kind = sum_type(x.dtype)
    (top,) = p.fold((largest_of(kind), lambda: p.read(x)))
    safe = p.let("safe", f"tl.where({top} - {top} == 0.0, {top}, 0.0)")
    (total,) = p.fold((sum_of(kind), lambda: f"tl.exp({p.read(x)} - {safe}[:, None])"))
    return p.let("result", f"tl.log({total}) + {safe}")


def _position(fold: Callable[[DType], Fold]) -> Describe:
    """Return ArgMax or ArgMin: find the extreme, then the first or last place that has it."""

    def describe(p: RowProgram) -> str:
        x = p.node.present_inputs[0]
        (best,) = p.fold((fold(_extreme_type(x.dtype)), lambda: p.read(x)))
        is_last = bool(p.node.attributes.get("select_last_index", 0))
        pick = largest_of(I32) if is_last else smallest_of(I32)
        (where,) = p.fold(
            (pick, lambda: f"tl.where({p.read(x)} == {best}[:, None], inner[None, :], "
                           f"{pick.neutral})")
        )  # fmt: skip
        return p.let("result", f"tl.where({where} == {pick.neutral}, 0, {where})")

    return describe


def _norm(p: RowProgram) -> str:
    power, root = norm_of(int(p.node.attributes.get("p", 2)))
    return _summed(power, root.replace("{x}", "{r}"))(p)


class Reduce(Tactic):
    """See the module's docstring."""

    name: ClassVar[str] = "triton_reduce"
    device: ClassVar[str] = "cuda"
    rank: ClassVar[int] = 50
    describe: ClassVar[dict[str, Describe]] = {
        "ArgMax": _position(largest_of),
        "ArgMin": _position(smallest_of),
        "GlobalAveragePool": _summed("{x}", "{r} / {n}"),
        "GlobalLpPool": _norm,
        "GlobalMaxPool": _folded(largest_of, _extreme_type),
        "ReduceL1": _summed("tl.abs({x})"),
        "ReduceL2": _summed("{x} * {x}", "tl.sqrt({r})"),
        "ReduceLogSum": _summed("{x}", "tl.log({r})"),
        "ReduceLogSumExp": _log_sum_exp,
        "ReduceMax": _folded(largest_of, _extreme_type),
        "ReduceMean": _summed("{x}", "{r} / {n}"),
        "ReduceMin": _folded(smallest_of, _extreme_type),
        "ReduceProd": _folded(product_of, sum_type),
        "ReduceSum": _summed("{x}"),
        "ReduceSumSquare": _summed("{x} * {x}"),
    }

    def supports(self, region: Region, target: Target) -> Support:
        """Accept known axes and printable nodes around the reduction."""
        if region.kind not in self.describe:
            return no(f"it is no operator of {self.name}")
        if region.anchor is None or _axes(region.anchor) is None:
            return no("the axes are known only at run time")
        space = region.anchor.output.known_shape
        if any(operand.shape != space for operand in region.outputs):
            return no("the epilogue changes the shape")
        reason = unprintable(region, region.anchor)
        if reason is not None:
            return no(reason)
        try:
            self.build(region, {"rows": 1, "chunk": 128, "warps": 4}, target)
        except TacticError as error:
            return no(error.what)
        return YES

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return tile sizes."""
        node = anchor_of(region)
        shape, axes = node.present_inputs[0].known_shape, _axes(node) or ()
        length = product(shape[axis] for axis in axes)
        return row_configs(
            region, length, product(n for axis, n in enumerate(shape) if axis not in axes)
        )

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel."""
        node = anchor_of(region)
        program = RowProgram(region, node, config)
        program.walk(node.present_inputs[0].known_shape, _axes(node) or ())
        result = self.describe[node.op](program)
        kind = compute_type(node.output.dtype)
        text = result if node.output.dtype is BOOL else program.let("y", f"{result}.to({kind})")
        program.store_rows({node.output: text})
        return program.kernel()


def _axes(node: Node) -> tuple[int, ...] | None:
    rank = node.present_inputs[0].rank
    if node.op.startswith("Global"):
        return tuple(range(2, rank))
    if node.op.startswith("Arg"):
        return (int(node.attributes.get("axis", 0)) % max(rank, 1),) if rank else ()
    return reduced_axes(node)
