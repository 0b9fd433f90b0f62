"""Normalizations: y = (x - mean) / sqrt(variance + epsilon) * scale + shift over rows of x.

Three visits to a row that stays in L1 or L2: the mean, the mean of squared differences (nothing
cancels, unlike E[x^2] - mean^2), the result. A residual addition or any other pointwise prologue is
computed in the first visit and kept in a row buffer, and is stored as well where the region has it
as an output. RMS forms need one visit less. Bound by reading x and writing y once. Statistics are
float whatever the element type. Channels-last images normalize per channel in column form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from planish.backends.cpu.codegen.body import Load, Part
from planish.backends.cpu.codegen.indexing import (
    Index,
    IndexMap,
    identity_map,
    loop_index,
)
from planish.backends.cpu.codegen.row_tactic import Describe, RowBuilder, RowTactic, is_plain
from planish.backends.cpu.codegen.rows import (
    ElementPass,
    RowProgram,
    RowStep,
    Stage,
    buffer_fits,
)
from planish.ir.graph import Value
from planish.ir.shape import Dim, Shape, floordiv


class _Rows:
    """A normalization being described.

    The nest has `extents`; `index` says where in it an element of x is, `channel` which element of
    a per-channel vector belongs to it.
    """

    def __init__(
        self, builder: RowBuilder, extents: Shape, reduced: frozenset[int], index: IndexMap
    ) -> None:
        self.builder, self.extents, self.reduced, self.index = builder, extents, reduced, index
        self.rank = len(extents)
        self.part, self.name = builder.read(builder.x, builder.x.known_shape, index, self.rank)
        self._save(is_plain(self.part, builder.x.dtype))
        self.count = builder.count([extents[axis] for axis in sorted(reduced)])
        self.known: dict[Value, str] = {builder.x: self.name}
        self.stages: list[Stage] = []

    def add(self, value: Value) -> None:
        """Add another input (a residual, a bias) to x; the name then stands for the sum."""
        other, name = self.builder.read(value, self.builder.x.known_shape, self.index, self.rank)
        total = self.builder.writer.fresh("sum")
        statement = f"const {self.builder.ctype} {total} = {self.name} + {name};"
        loads = (*self.part.loads, *other.loads)
        statements = (*self.part.statements, *other.statements, statement)
        self.part = Part(loads, statements, {})
        self.name, self.known = total, {}
        self._save(False)

    def _save(self, plain: bool) -> None:
        fits = buffer_fits(self.builder.writer, self.extents, self.reduced)
        self.saved = fits and not plain

    def visit(self, **settings: object) -> ElementPass:
        """Return a pass with x under its name; the first one fills the row buffer."""
        first = not any(isinstance(stage, ElementPass) for stage in self.stages)
        recalls = ((0, self.name),) if self.saved and not first else ()
        saves = ((0, self.name),) if self.saved and first else ()
        loads = () if recalls else self.part.loads
        statements = () if recalls else self.part.statements
        found = ElementPass(loads, statements, saves=saves, recalls=recalls)
        return replace(found, **settings)  # type: ignore[arg-type]

    def mean(self) -> str:
        """Append the stages that compute the mean; return its name."""
        builder = self.builder
        total, mean = builder.accumulator("total", "0", "+"), builder.writer.fresh("mean")
        self.stages.append(self.visit(accumulate=((total, self.name),)))
        text = f"{total.name} / ({self.count})"
        self.stages.append(RowStep(defines=((builder.ctype, mean, text),)))
        return mean

    def inverse(self, centred: str, epsilon: float, finish: str = "") -> str:
        """Append the stages that compute 1 / sqrt(mean(centred^2) + epsilon); return its name."""
        builder = self.builder
        squares = builder.accumulator("squares", "0", "+")
        inverse = builder.writer.fresh("inverse")
        update = ((squares, f"({centred}) * ({centred})"),)
        self.stages.append(self.visit(accumulate=update))
        root = f"planish_sqrt{builder.suffix}"
        spread = f"{squares.name} / ({self.count}) + {builder.number(epsilon)}"
        text = finish.format(squares.name) if finish else f"1 / {root}({spread})"
        self.stages.append(RowStep(defines=((builder.ctype, inverse, text),)))
        return inverse

    def keep(self, output: int, name: str) -> None:
        """Store a row variable as output `output` of the anchor, if the node has it."""
        node = self.builder.node
        if output >= len(node.outputs):
            return
        end = self.builder.finish(node.outputs[output], name, self.index, self.rank)
        self.stages.append(RowStep(end.loads, end.statements, (), end.stores))

    def result(
        self, text: str, parameters: Mapping[str, tuple[Value, IndexMap]], extra: int | None = None
    ) -> RowProgram:
        """Append the last visit, which stores ``text``; {scale} and {shift} are parameters."""
        builder, node = self.builder, self.builder.node
        loads: list[Load] = []
        statements: list[str] = []
        names = {"scale": "1", "shift": "0"}
        for key, (value, index) in parameters.items():
            space = builder.x.known_shape if len(index) == builder.x.rank else value.known_shape
            part, names[key] = builder.read(value, space, index, self.rank)
            loads += part.loads
            statements += part.statements
        name = builder.writer.fresh("y")
        statements.append(f"const {builder.ctype} {name} = {text.format(**names)};")
        end = builder.finish(node.outputs[0], name, self.index, self.rank, self.known)
        stores = list(end.stores)
        more = []
        if extra is not None and extra < len(node.outputs):
            also = builder.finish(node.outputs[extra], self.name, self.index, self.rank)
            more = [*also.statements]
            loads += also.loads
            stores += also.stores
        visit = self.visit()
        last = replace(
            visit,
            loads=(*visit.loads, *loads, *end.loads),
            statements=(*visit.statements, *statements, *end.statements, *more),
            stores=tuple(stores),
        )
        return RowProgram(self.extents, self.reduced, (*self.stages, last), builder.ctype)


def _reason(builder: RowBuilder) -> str | None:
    if not builder.x.dtype.is_float:
        return f"{builder.node.op} of {builder.x.dtype} is left to the reference"
    return None


def _trailing(builder: RowBuilder) -> _Rows:
    """Return rows over the axes from `axis` to the last."""
    shape = builder.x.known_shape
    rank = len(shape)
    axis = int(builder.node.attributes.get("axis", -1)) % max(rank, 1)
    return _Rows(builder, shape, frozenset(range(axis, rank)), identity_map(rank))


def _broadcast(builder: RowBuilder, **inputs: int) -> dict[str, tuple[Value, IndexMap]]:
    """Return parameters that broadcast to x."""
    index = identity_map(builder.x.rank)
    found = {key: builder.node.input(position) for key, position in inputs.items()}
    return {key: (value, index) for key, value in found.items() if value is not None}


def _layer(builder: RowBuilder) -> RowProgram | str:
    reason = _reason(builder)
    if reason is not None:
        return reason
    rows = _trailing(builder)
    return _standardized(rows, _broadcast(builder, scale=1, shift=2))


def _standardized(
    rows: _Rows, parameters: Mapping[str, tuple[Value, IndexMap]], extra: int | None = None
) -> RowProgram:
    mean = rows.mean()
    rows.keep(1, mean)
    epsilon = float(rows.builder.node.attributes["epsilon"])
    inverse = rows.inverse(f"{rows.name} - {mean}", epsilon)
    rows.keep(2, inverse)
    text = f"({rows.name} - {mean}) * {inverse}"
    return rows.result(_affine(text, parameters), parameters, extra)


def _affine(text: str, parameters: Mapping[str, object]) -> str:
    if "scale" in parameters:
        text = f"{text} * {{scale}}"
    if "shift" in parameters:
        text = f"{text} + {{shift}}"
    return text


def _root_mean_square(builder: RowBuilder) -> RowProgram | str:
    reason = _reason(builder)
    if reason is not None:
        return reason
    rows = _trailing(builder)
    return _rescaled(rows, _broadcast(builder, scale=1), 1)


def _rescaled(
    rows: _Rows,
    parameters: Mapping[str, tuple[Value, IndexMap]],
    kept: int,
    extra: int | None = None,
) -> RowProgram:
    inverse = rows.inverse(rows.name, float(rows.builder.node.attributes["epsilon"]))
    rows.keep(kept, inverse)
    return rows.result(_affine(f"{rows.name} * {inverse}", parameters), parameters, extra)


def _skip_layer(builder: RowBuilder) -> RowProgram | str:
    reason = _reason(builder)
    if reason is not None:
        return reason
    rows, bias = _trailing(builder), builder.node.input(4)
    rows.add(builder.node.present_inputs[1])
    if bias is not None:
        rows.add(bias)
    return _standardized(rows, _broadcast(builder, scale=2, shift=3), 3)


def _skip_root_mean_square(builder: RowBuilder) -> RowProgram | str:
    reason = _reason(builder)
    if reason is not None:
        return reason
    if len(builder.node.outputs) > 1 and builder.node.outputs[1].uses:
        return "the mean of a simplified normalization is left to the reference"
    rows, bias = _trailing(builder), builder.node.input(3)
    rows.add(builder.node.present_inputs[1])
    if bias is not None:
        rows.add(bias)
    rows.keep(1, "0")
    return _rescaled(rows, _broadcast(builder, scale=2), 2, 3)


def _instance(builder: RowBuilder) -> RowProgram | str:
    reason = _reason(builder)
    if reason is not None:
        return reason
    shape = builder.x.known_shape
    rank = len(shape)
    rows = _Rows(builder, shape, frozenset(range(2, rank)), identity_map(rank))
    return _standardized(rows, _per_channel(builder, loop_index(1, rank)))


def _per_channel(builder: RowBuilder, channel: Index) -> dict[str, tuple[Value, IndexMap]]:
    """Return scale and shift, vectors over channels."""
    scale, shift = builder.node.present_inputs[1:3]
    return {"scale": (scale, (channel,)), "shift": (shift, (channel,))}


def _group(builder: RowBuilder) -> RowProgram | str:
    """Nest (n, group, channel of the group, spatial...)."""
    reason = _reason(builder)
    if reason is not None:
        return reason
    n, channels, *spatial = builder.x.known_shape
    groups = int(builder.node.attributes["num_groups"])
    each: Dim = floordiv(channels, groups)
    extents = (n, groups, each, *spatial)
    rank = len(extents)
    channel = Index((0, each, 1, *(0,) * len(spatial)))
    index = (loop_index(0, rank), channel, *(loop_index(k, rank) for k in range(3, rank)))
    rows = _Rows(builder, extents, frozenset(range(2, rank)), index)
    return _standardized(rows, _per_channel(builder, channel))


def _mean_variance(builder: RowBuilder) -> RowProgram | str:
    reason = _reason(builder)
    if reason is not None:
        return reason
    shape = builder.x.known_shape
    rank = len(shape)
    axes = frozenset(int(axis) % rank for axis in builder.node.attributes["axes"])
    rows = _Rows(builder, shape, axes, identity_map(rank))
    mean = rows.mean()
    root = f"1 / (planish_sqrt{builder.suffix}({{0}} / ({rows.count})) + {builder.number(1e-9)})"
    inverse = rows.inverse(f"{rows.name} - {mean}", 0.0, root)
    return rows.result(f"({rows.name} - {mean}) * {inverse}", {})


def _lp(builder: RowBuilder) -> RowProgram | str:
    reason = _reason(builder)
    if reason is not None:
        return reason
    shape = builder.x.known_shape
    rank, order = len(shape), int(builder.node.attributes.get("p", 2))
    axis = int(builder.node.attributes.get("axis", -1)) % rank
    rows = _Rows(builder, shape, frozenset({axis}), identity_map(rank))
    if order == 2:
        norm = f"planish_sqrt{builder.suffix}({{0}})"
        inverse = rows.inverse(rows.name, 0.0, f"{{0}} == 0 ? 1 : 1 / {norm}")
        return rows.result(f"{rows.name} * {inverse}", {})
    total = builder.accumulator("total", "0", "+")
    inverse = builder.writer.fresh("inverse")
    update = ((total, f"planish_abs{builder.suffix}({rows.name})"),)
    rows.stages.append(rows.visit(accumulate=update))
    text = f"{total.name} == 0 ? 1 : 1 / {total.name}"
    rows.stages.append(RowStep(defines=((builder.ctype, inverse, text),)))
    return rows.result(f"{rows.name} * {inverse}", {})


class NormalizeTactic(RowTactic):
    """Normalizations over rows kept in a cache."""

    name: ClassVar[str] = "normalize"
    describe: ClassVar[dict[str, Describe]] = {
        "GroupNormalization": _group,
        "InstanceNormalization": _instance,
        "LayerNormalization": _layer,
        "LpNormalization": _lp,
        "MeanVarianceNormalization": _mean_variance,
        "RMSNormalization": _root_mean_square,
        "SimplifiedLayerNormalization": _root_mean_square,
        "com.microsoft.SkipLayerNormalization": _skip_layer,
        "com.microsoft.SkipSimplifiedLayerNormalization": _skip_root_mean_square,
    }
