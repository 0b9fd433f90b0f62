"""Operators that make elements from their indices: fills, ranges, diagonals, one-hot codes.

y[i] = f(i); bound by writing y. Regions whose results are made of extents write those out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from planish.backends.cuda.codegen.elements import (
    Describe,
    Elements,
    ElementTactic,
    anchor_of,
    typed,
    zero_of,
)
from planish.backends.cuda.codegen.printer import Printer
from planish.backends.cuda.codegen.triton_types import (
    ELEMENTS,
    POINTERS,
    compute_type,
    literal,
)
from planish.errors import TacticError
from planish.ir.dtypes import BOOL
from planish.ir.shape import Dim, parse_dim, static_shape
from planish.ops.content import contents
from planish.tactics.tactic import YES, Config, Operand, Region, Support, Tactic, TritonKernel, no
from planish.tactics.target import Target


def _constant_of_shape(e: Elements) -> Sequence[str]:
    value = e.node.attributes.get("value")
    fill = np.float32(0) if value is None else np.asarray(value).reshape(-1)[0]
    dtype = e.node.output.dtype
    return [e.let("total", e.full(literal(fill, dtype), compute_type(dtype)))]


def _range(e: Elements) -> Sequence[str]:
    start, _, delta = e.node.present_inputs
    first, step = e.scalar(start), e.scalar(delta)
    (place,) = e.at
    kind = compute_type(e.node.output.dtype)
    return [e.let("total", f"{first} + {place}.to({kind}) * {step}")]


def _eye(e: Elements) -> Sequence[str]:
    row, column = e.at
    text = f"{column} - {row} == {int(e.node.attributes['k'])}"
    return [e.let("total", typed(text, e.node.output.dtype))]


def _triangle(e: Elements) -> Sequence[str]:
    x = e.node.present_inputs[0]
    shift = "0" if e.node.input(1) is None else e.scalar(e.node.present_inputs[1])
    sign = ">=" if e.node.attributes["upper"] else "<="
    kept = f"{e.at[-1]} - {e.at[-2]} {sign} {shift}"
    return [e.let("total", f"tl.where({kept}, {e.read(x, e.at)}, {zero_of(x.dtype)})")]


def _one_hot(e: Elements) -> Sequence[str]:
    """Compare every index with the position along the new axis."""
    where, depth, values = e.node.present_inputs
    axis = int(e.node.attributes["axis"]) % len(e.at)
    place = e.let("place", e.read(where, [*e.at[:axis], *e.at[axis + 1 :]]))
    place = e.let("place", f"{place}.to(tl.int64)")
    wanted = f"tl.where({place} < 0, {place} + tl.cast({e.scalar(depth)}, tl.int64), {place})"
    off, on = (e.read(values, [which], bare=True) for which in (0, 1))
    return [e.let("total", f"tl.where({wanted} == {e.at[axis]}, {on}, {off})")]


class Fill(ElementTactic):
    """Elements computed from their indices."""

    name: ClassVar[str] = "triton_fill"
    describe: ClassVar[dict[str, Describe]] = {
        "ConstantOfShape": _constant_of_shape,
        "EyeLike": _eye,
        "OneHot": _one_hot,
        "Range": _range,
        "Trilu": _triangle,
    }


class Contents(Tactic):
    """Regions whose results are expressions of extents: one block writes them out."""

    name: ClassVar[str] = "triton_contents"
    device: ClassVar[str] = "cuda"
    rank: ClassVar[int] = 10

    def supports(self, region: Region, target: Target) -> Support:
        """Accept regions whose outputs all have known contents."""
        for operand in region.outputs:
            if operand.dtype not in POINTERS:
                return no(f"elements of type {operand.dtype} have no Triton type")
            if _dims(region, operand) is None or static_shape(operand.shape) is None:
                return no("an output is not made of extents")
        try:
            self.build(region, {}, target)
        except TacticError as error:
            return no(error.what)
        return YES if region.outputs else no("there is no output")

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return the only configuration."""
        return [{}]

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel."""
        printer = Printer(region)
        lines = []
        for index, operand in enumerate(region.outputs):
            shape = static_shape(operand.shape) or ()
            dims = _dims(region, operand) or ()
            for position, dim in zip(np.ndindex(*shape), dims, strict=True):
                offset: Dim = 0
                for i, stride in zip(position, operand.strides, strict=True):
                    offset = offset + i * stride
                value = printer.dim(dim) if operand.dtype is not BOOL else f"({dim} != 0)"
                text = f"tl.cast({value}, {ELEMENTS[operand.dtype]})"
                lines.append(f"tl.store(y{index} + {printer.dim(offset)}, {text})")
        return printer.kernel(lines or ["pass"], (1,), warps=1)


def _dims(region: Region, operand: Operand) -> tuple[Dim, ...] | None:
    """Return the elements of an output as extents, None where data decides them."""
    known = contents(operand.value)
    if known is not None or region.kind != "planish.Extents":
        return known
    anchor = anchor_of(region)
    if operand.value is not anchor.output:
        return None
    return tuple(parse_dim(text) for text in anchor.attributes["dims"])
