"""Reductions over any axes: y[k] = finish(sum over r of f(x[k, r])), and positions of extremes.

Bound by memory: x is read once (twice for LogSumExp and for positions, the second time from a
cache). Floats accumulate in float with 16 to 64 partial sums, which is as accurate as pairwise
summation for the row lengths that occur. A maximum ignores NaN unless all elements are NaN.
Row and column form, and how additions are kept independent, are explained in codegen/rows.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from planish.backends.cpu.codegen.indexing import IndexMap, identity_map, loop_index
from planish.backends.cpu.codegen.row_tactic import Describe, RowBuilder, RowTactic
from planish.backends.cpu.codegen.rows import Accumulator, ElementPass, RowProgram, RowStep
from planish.backends.cpu.codegen.scalar import compute_type
from planish.ir.dtypes import BOOL
from planish.ops.reduction import reduced_axes

LIMITS = {
    "float": ("-__builtin_inff()", "__builtin_inff()"),
    "double": ("-__builtin_inf()", "__builtin_inf()"),
    "int": ("0", "1"),
    "int8_t": ("INT8_MIN", "INT8_MAX"),
    "int16_t": ("INT16_MIN", "INT16_MAX"),
    "int32_t": ("INT32_MIN", "INT32_MAX"),
    "int64_t": ("INT64_MIN", "INT64_MAX"),
    "uint8_t": ("0", "UINT8_MAX"),
    "uint16_t": ("0", "UINT16_MAX"),
    "uint32_t": ("0", "UINT32_MAX"),
    "uint64_t": ("0", "UINT64_MAX"),
}

Expression = Callable[[RowBuilder, str], str]


def _reduction(
    operator: str, element: Expression, finish: Callable[[RowBuilder, str, str], str]
) -> Describe:
    """Return a description: accumulate `element(x)`, then `finish(total, count)`."""

    def describe(builder: RowBuilder) -> RowProgram | str:
        found = _axes(builder)
        if isinstance(found, str):
            return found
        axes, index = found
        dtype = builder.x.dtype
        if dtype is BOOL and operator not in ("min", "max"):
            return "booleans have no sums"
        total = builder.accumulator("total", _initial(operator, builder.ctype), operator)
        first = _visit(builder, [(total, element)])
        shape = builder.x.known_shape
        count = builder.count([shape[axis] for axis in axes])
        text = finish(builder, total.name, count)
        return _program(builder, axes, index, (first,), text)

    return describe


def _axes(builder: RowBuilder) -> tuple[tuple[int, ...], IndexMap] | str:
    """Return the reduced axes and the index of the output in the input's space."""
    node, rank = builder.node, builder.x.rank
    if node.op.startswith("Global"):
        return tuple(range(2, rank)), identity_map(rank)
    axes = reduced_axes(node)
    if axes is None:
        return "the axes are known only at run time"
    if node.attributes["keepdims"]:
        return axes, identity_map(rank)
    return axes, tuple(loop_index(axis, rank) for axis in range(rank) if axis not in axes)


def _visit(
    builder: RowBuilder, updates: list[tuple[Accumulator, Expression]], used: int | None = None
) -> ElementPass:
    x = builder.x
    part, name = builder.read(x, x.known_shape, identity_map(x.rank), x.rank)
    accumulate = tuple((accumulator, f(builder, name)) for accumulator, f in updates)
    indices = frozenset() if used is None else frozenset({used})
    return ElementPass(part.loads, part.statements, accumulate, used=indices)


def _program(
    builder: RowBuilder,
    axes: tuple[int, ...],
    index: IndexMap,
    stages: tuple[ElementPass | RowStep, ...],
    text: str,
) -> RowProgram:
    """Return stages followed by the epilogue of the result `text`."""
    result = builder.node.outputs[0]
    name, rank = builder.writer.fresh("result"), builder.x.rank
    statement = f"const {compute_type(result.dtype)} {name} = {text};"
    end = builder.finish(result, name, index, rank)
    step = RowStep(end.loads, (statement, *end.statements), (), end.stores)
    return RowProgram(builder.x.known_shape, frozenset(axes), (*stages, step))


def _initial(operator: str, ctype: str) -> str:
    low, high = LIMITS[ctype]
    return {"+": "0", "*": "1", "max": low, "min": high}[operator]


def _plain(_: RowBuilder, x: str) -> str:
    return x


def _square(_: RowBuilder, x: str) -> str:
    return f"{x} * {x}"


def _magnitude(builder: RowBuilder, x: str) -> str:
    if builder.x.dtype.is_float:
        return f"planish_abs{builder.suffix}({x})"
    return f"({x} < 0 ? -{x} : {x})"


def _total(_: RowBuilder, total: str, count: str) -> str:
    return total


def _mean(builder: RowBuilder, total: str, count: str) -> str:
    return f"{total} / ({count})"


def _root(builder: RowBuilder, total: str, count: str) -> str:
    if builder.x.dtype.is_float:
        return f"planish_sqrt{builder.suffix}({total})"
    return f"({builder.ctype})planish_sqrt_f64((double)({total}))"


def _logarithm(builder: RowBuilder, total: str, count: str) -> str:
    if builder.x.dtype.is_float:
        return f"planish_log{builder.suffix}({total})"
    return f"({builder.ctype})planish_log_f64((double)({total}))"


def _log_sum_exp(builder: RowBuilder) -> RowProgram | str:
    found = _axes(builder)
    if isinstance(found, str):
        return found
    if not builder.x.dtype.is_float:
        return "LogSumExp of integers is left to the reference"
    axes, index = found
    suffix, low = builder.suffix, LIMITS[builder.ctype][0]
    top = builder.accumulator("top", low, "max")
    safe = builder.writer.fresh("shift")
    shift = RowStep(
        defines=((builder.ctype, safe, f"{top.name} - {top.name} == 0 ? {top.name} : 0"),)
    )
    total = builder.accumulator("total", "0", "+")
    exponent = lambda _, x: f"planish_exp{suffix}({x} - {safe})"  # noqa: E731
    stages = (_visit(builder, [(top, _plain)]), shift, _visit(builder, [(total, exponent)]))
    return _program(builder, axes, index, stages, f"planish_log{suffix}({total.name}) + {safe}")


def _position(operator: str) -> Describe:
    """Return the description of ArgMax or ArgMin: find the extreme, then where it is."""

    def describe(builder: RowBuilder) -> RowProgram | str:
        node, x = builder.node, builder.x
        axis = int(node.attributes.get("axis", 0)) % max(x.rank, 1)
        index = tuple(
            loop_index(k, x.rank)
            for k in range(x.rank)
            if k != axis or node.attributes.get("keepdims", 1)
        )
        best = builder.accumulator("best", _initial(operator, builder.ctype), operator)
        last = bool(node.attributes.get("select_last_index", 0))
        missing, pick = ("-1", "max") if last else ("INT32_MAX", "min")
        where = builder.accumulator("where", missing, pick, "int32_t")
        match = lambda _, name: f"{name} == {best.name} ? (int32_t)i{axis} : {missing}"  # noqa: E731
        stages = (
            _visit(builder, [(best, _plain)]),
            _visit(builder, [(where, match)], used=axis),
        )
        text = f"({where.name} == {missing} ? 0 : {where.name})"  # a row of NaN
        return _program(builder, (axis,), index, stages, text)

    return describe


def _lp_pool(builder: RowBuilder) -> RowProgram | str:
    p = int(builder.node.attributes.get("p", 2))
    if p == 1:
        return _reduction("+", _magnitude, _total)(builder)
    if p == 2:
        return _reduction("+", _square, _root)(builder)
    return f"the norm of order {p} is left to the reference"


class ReduceTactic(RowTactic):
    """Reductions in row or column form."""

    name: ClassVar[str] = "reduce"
    describe: ClassVar[dict[str, Describe]] = {
        "ArgMax": _position("max"),
        "ArgMin": _position("min"),
        "GlobalAveragePool": _reduction("+", _plain, _mean),
        "GlobalLpPool": _lp_pool,
        "GlobalMaxPool": _reduction("max", _plain, _total),
        "ReduceL1": _reduction("+", _magnitude, _total),
        "ReduceL2": _reduction("+", _square, _root),
        "ReduceLogSum": _reduction("+", _plain, _logarithm),
        "ReduceLogSumExp": _log_sum_exp,
        "ReduceMax": _reduction("max", _plain, _total),
        "ReduceMean": _reduction("+", _plain, _mean),
        "ReduceMin": _reduction("min", _plain, _total),
        "ReduceProd": _reduction("*", _plain, _total),
        "ReduceSum": _reduction("+", _plain, _total),
        "ReduceSumSquare": _reduction("+", _square, _total),
    }
