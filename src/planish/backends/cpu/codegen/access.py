"""How loops touch memory: pointer, strides, offset, and what no stride can say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from planish.backends.cpu.codegen.scalar import load, store
from planish.backends.cpu.codegen.writer import KernelWriter
from planish.ir.dtypes import DType
from planish.ir.shape import Dim, Shape


@dataclass(frozen=True)
class Term:
    """Part of an offset that is no constant times an index.

    `text` is a C expression (elements) that may use ``i0``, ``i1``, ...; `axes` are those it uses.
    """

    text: str
    axes: frozenset[int]


@dataclass(frozen=True)
class Access:
    """Where a nest touches an operand: pointer[offset + sum(i[k] * strides[k]) + terms]."""

    pointer: str
    dtype: DType
    strides: Shape
    offset: Dim = 0
    terms: tuple[Term, ...] = ()


def prune_axes(access: Access, axes: Sequence[int]) -> Access:
    """Return `access` without the strides of `axes`, whose index is always 0."""
    kept = tuple(0 if axis in axes else s for axis, s in enumerate(access.strides))
    return replace(access, strides=kept)


def print_load(writer: KernelWriter, access: Access) -> str:
    """Return the expression that reads an access into its compute type."""
    return load(access.dtype, access.pointer, offset_of(writer, access))


def print_store(writer: KernelWriter, access: Access, expression: str) -> str:
    """Return the statement that writes `expression` (of the compute type)."""
    return store(access.dtype, access.pointer, offset_of(writer, access), expression)


def offset_of(writer: KernelWriter, access: Access) -> str:
    """Return the element offset of an access as C over i0, i1, ..."""
    parts = []
    for axis, stride in enumerate(access.strides):
        if stride == 0:
            continue
        parts.append(f"i{axis}" if stride == 1 else f"i{axis} * {writer.dim(stride)}")
    parts += [f"({term.text})" for term in access.terms]
    if access.offset != 0:
        parts.append(writer.dim(access.offset))
    return " + ".join(parts) or "0"
