"""Softmax, LogSoftmax, Hardmax along any axis.

y = exp(x - max) / sum(exp(x - max)) in three visits to a row that stays in L1: the maximum, the
exponentials (kept in a row buffer) and their sum, the product with 1 / sum. Bound by the
exponential, about 15 cycles for 16 elements, for rows that fit a cache; rows above the buffer's
limit compute it twice instead of storing it. Statistics are float whatever the element type.
"""

from __future__ import annotations

from typing import ClassVar

from planish.backends.cpu.codegen.indexing import identity_map
from planish.backends.cpu.codegen.row_tactic import Describe, RowBuilder, RowTactic, is_plain
from planish.backends.cpu.codegen.rows import (
    Accumulator,
    ElementPass,
    RowProgram,
    RowStep,
    Stage,
    buffer_fits,
)
from planish.backends.cpu.tactics.reduce import LIMITS


class _Rows:
    """What the three operators share: the space, the maximum's pass, and reading x again."""

    def __init__(self, builder: RowBuilder) -> None:
        x = builder.x
        self.builder = builder
        self.axis = int(builder.node.attributes.get("axis", -1)) % max(x.rank, 1)
        self.extents, self.rank = x.known_shape, x.rank
        self.reduced = frozenset({self.axis})
        self.buffered = buffer_fits(builder.writer, self.extents, self.reduced)
        self.part, self.name = builder.read(x, self.extents, identity_map(x.rank), x.rank)
        self.saved = self.buffered and not is_plain(self.part, x.dtype)
        self.top = builder.accumulator("top", LIMITS[builder.ctype][0], "max")

    def first(self) -> ElementPass:
        """Return the pass that finds the maximum."""
        saves = ((0, self.name),) if self.saved else ()
        accumulate = ((self.top, self.name),)
        return ElementPass(self.part.loads, self.part.statements, accumulate, saves=saves)

    def again(self, **settings: object) -> ElementPass:
        """Return a pass that has x under the same name."""
        if self.saved:
            base = ElementPass(recalls=((0, self.name),))
        else:
            base = ElementPass(self.part.loads, self.part.statements)
        statements = (*base.statements, *settings.pop("statements", ()))  # type: ignore[misc]
        loads = (*base.loads, *settings.pop("loads", ()))  # type: ignore[misc]
        return ElementPass(loads, statements, recalls=base.recalls, **settings)  # type: ignore[arg-type]

    def last(self, text: str, recall: bool, known: bool = True) -> ElementPass:
        """Return the pass that stores `text`; `recall` reads the row buffer instead of x."""
        builder = self.builder
        result = builder.node.outputs[0]
        name = builder.writer.fresh("y")
        seen = {builder.x: self.name} if known and not recall else {}
        end = builder.finish(result, name, identity_map(self.rank), self.rank, seen)
        statement = f"const {builder.ctype} {name} = {text};"
        statements = (statement, *end.statements)
        if recall:
            return ElementPass(end.loads, statements, (), end.stores, recalls=((0, "kept"),))
        return self.again(loads=end.loads, statements=statements, stores=end.stores)

    def program(self, *stages: Stage) -> RowProgram:
        """Return the program."""
        ctype = self.builder.ctype
        return RowProgram(self.extents, self.reduced, stages, ctype)


def _reason(builder: RowBuilder) -> str | None:
    if not builder.x.dtype.is_float:
        return f"{builder.node.op} of {builder.x.dtype} is left to the reference"
    return None


def _exponential(rows: _Rows) -> str:
    builder = rows.builder
    function = "planish_exp_f64" if builder.suffix else "planish_exp_nonpositive"
    return f"{function}({rows.name} - {rows.top.name})"


def _softmax(builder: RowBuilder) -> RowProgram | str:
    reason = _reason(builder)
    if reason is not None:
        return reason
    rows = _Rows(builder)
    total = builder.accumulator("total", "0", "+")
    scale = builder.writer.fresh("scale")
    step = RowStep(defines=((builder.ctype, scale, f"1 / {total.name}"),))
    # x itself is an output as well: the buffer must keep x, not the exponentials
    if not rows.buffered or _x_is_output(builder):
        second = rows.again(accumulate=((total, _exponential(rows)),))
        return rows.program(
            rows.first(), second, step, rows.last(f"{_exponential(rows)} * {scale}", recall=False)
        )
    power = builder.writer.fresh("e")
    second = rows.again(
        statements=(f"const {builder.ctype} {power} = {_exponential(rows)};",),
        accumulate=((total, power),),
        saves=((0, power),),
    )
    return rows.program(rows.first(), second, step, rows.last(f"kept * {scale}", recall=True))


def _x_is_output(builder: RowBuilder) -> bool:
    outputs = builder.writer.region.body.outputs
    anchor = builder.node.outputs[0]
    nodes = builder.body.epilogue
    return any(
        value is not anchor and (value.producer is None or value.producer not in nodes)
        for value in outputs
    )


def _log_softmax(builder: RowBuilder) -> RowProgram | str:
    reason = _reason(builder)
    if reason is not None:
        return reason
    rows = _Rows(builder)
    total = builder.accumulator("total", "0", "+")
    shift = builder.writer.fresh("shift")
    text = f"{rows.top.name} + planish_log{builder.suffix}({total.name})"
    step = RowStep(defines=((builder.ctype, shift, text),))
    second = rows.again(accumulate=((total, _exponential(rows)),))
    return rows.program(
        rows.first(), second, step, rows.last(f"{rows.name} - {shift}", recall=False)
    )


def _hardmax(builder: RowBuilder) -> RowProgram | str:
    reason = _reason(builder)
    if reason is not None:
        return reason
    rows = _Rows(builder)
    where: Accumulator = builder.accumulator("where", "INT32_MAX", "min", "int32_t")
    position = f"{rows.name} == {rows.top.name} ? (int32_t)i{rows.axis} : INT32_MAX"
    used = frozenset({rows.axis})
    second = rows.again(accumulate=((where, position),), used=used)
    last = rows.last(f"i{rows.axis} == {where.name} ? 1 : 0", recall=False)
    last = ElementPass(last.loads, last.statements, (), last.stores, (), last.recalls, used)
    return rows.program(rows.first(), second, last)


class SoftmaxTactic(RowTactic):
    """Softmax over rows kept in L1."""

    name: ClassVar[str] = "softmax"
    describe: ClassVar[dict[str, Describe]] = {
        "Hardmax": _hardmax,
        "LogSoftmax": _log_softmax,
        "Softmax": _softmax,
    }
