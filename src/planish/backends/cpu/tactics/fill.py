"""Operators that make elements from indices: fills, ranges, diagonals, one-hot codes, triangles.

y[i] = f(i), with f printed into the loop; bound by writing y. `planish.Extents`, Shape and Size
write expressions of the symbols, which cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from planish.backends.cpu.codegen.body import body_reason
from planish.backends.cpu.codegen.indexing import fixed_index, identity_map, loop_index
from planish.backends.cpu.codegen.injection import Builder, Describe, Injection, InjectiveTactic
from planish.backends.cpu.codegen.scalar import compute_type, literal, store
from planish.backends.cpu.codegen.writer import KernelWriter
from planish.errors import TacticError
from planish.ir.dtypes import DType
from planish.ir.shape import Dim, Shape, static_shape
from planish.ops.content import contents
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target


class ContentTactic(Tactic):
    """Regions whose every output is made of extents: the expressions are written out."""

    name: ClassVar[str] = "content"
    rank: ClassVar[int] = 10

    def supports(self, region: Region, target: Target) -> Support:
        """Accept regions whose outputs all have known contents."""
        if not region.outputs:
            return no("there is no output")
        for operand in region.outputs:
            if contents(operand.value) is None or static_shape(operand.shape) is None:
                return no("an output is not made of extents")
        reason = body_reason(region)
        if reason is not None and "known only after" in reason:
            return no(reason)
        try:
            self.build(region, {}, target)
        except TacticError as error:
            return no(error.what)
        return YES

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return the only configuration."""
        return [{}]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel."""
        writer = KernelWriter(region, target)
        lines = []
        for index, operand in enumerate(region.outputs):
            pointer, shape = writer.output_pointer(index), static_shape(operand.shape) or ()
            known = contents(operand.value) or ()
            for position, dim in zip(np.ndindex(*shape), known, strict=True):
                offset: Dim = 0
                for i, stride in zip(position, operand.strides, strict=True):
                    offset = offset + i * stride
                value = f"({compute_type(operand.dtype)}){writer.dim(dim)}"
                lines.append(store(operand.dtype, pointer, writer.dim(offset), value))
        return writer.kernel(lines, 1)


def _constant_of_shape(builder: Builder) -> list[Injection] | str:
    value = builder.node.attributes.get("value")
    fill = np.float32(0) if value is None else np.asarray(value).reshape(-1)[0]
    dtype = builder.node.outputs[0].dtype
    return [_made(builder, builder.node.outputs[0].known_shape, literal(fill, dtype), ())]


def _made(builder: Builder, shape: Shape, text: str, used: tuple[int, ...]) -> Injection:
    """Return a nest over `shape` that writes the expression `text`."""
    index = identity_map(len(shape))
    return Injection(shape, (), index, 0, lambda _: text, frozenset(used))


def _range(builder: Builder) -> list[Injection] | str:
    start, _, delta = (builder.scalar(value) for value in builder.node.present_inputs)
    if start is None or delta is None:
        return "the bounds are computed in the region"
    ctype = compute_type(builder.value(0).dtype)
    shape = builder.node.outputs[0].known_shape
    return [_made(builder, shape, f"({ctype})({start} + ({ctype})i0 * {delta})", (0,))]


def _eye(builder: Builder) -> list[Injection] | str:
    k = int(builder.node.attributes["k"])
    return [_made(builder, builder.shape(0), f"i1 - i0 == {k}", (0, 1))]


def _triangle(builder: Builder) -> list[Injection] | str:
    node, shape = builder.node, builder.shape(0)
    rank, shift = len(shape), "0"
    if node.input(1) is not None:
        text = builder.scalar(builder.value(1))
        if text is None:
            return "the shift is computed in the region"
        shift = text
    sign = ">=" if node.attributes["upper"] else "<="
    row, column = rank - 2, rank - 1
    zero = literal(0, node.outputs[0].dtype)
    index = identity_map(rank)
    return [
        Injection(
            shape,
            ((builder.value(0), index),),
            index,
            0,
            lambda names: f"i{column} - i{row} {sign} {shift} ? {names[0]} : {zero}",
            frozenset({row, column}),
        )
    ]


def _one_hot(builder: Builder) -> list[Injection] | str:
    """Compare every index with the position along the new axis."""
    node, shape = builder.node, builder.node.outputs[0].known_shape
    where, depth, values = node.present_inputs
    rank = len(shape)
    axis = int(node.attributes["axis"]) % rank
    depth_text = builder.scalar(depth)
    if depth_text is None or not builder.is_operand(values):
        return "the depth or the values are computed in the region"
    index = tuple(loop_index(k, rank) for k in range(rank) if k != axis)
    off, on = (builder.element(values, (2,), (fixed_index(0, which),), 0)[0] for which in (0, 1))

    def expression(names: Sequence[str]) -> str:
        wanted = _index_text(names[0], where.dtype)
        counted = f"({wanted} < 0 ? {wanted} + (int64_t){depth_text} : {wanted})"
        return f"{counted} == i{axis} ? {on} : {off}"

    return [
        Injection(shape, ((where, index),), identity_map(rank), 0, expression, frozenset({axis}))
    ]


def _index_text(name: str, dtype: DType) -> str:
    return f"(int64_t)({name})" if dtype.is_float else f"(int64_t){name}"


class FillTactic(InjectiveTactic):
    """Elements computed from their indices."""

    name: ClassVar[str] = "fill"
    describe: ClassVar[dict[str, Describe]] = {
        "ConstantOfShape": _constant_of_shape,
        "EyeLike": _eye,
        "OneHot": _one_hot,
        "Range": _range,
        "Trilu": _triangle,
    }
