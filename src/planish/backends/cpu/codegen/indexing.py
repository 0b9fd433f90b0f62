"""From tensor indices to memory: maps between index spaces, and operands read through them.

Most operators that move data (and every pointwise one) say where an output element comes from:
each index of the input is an affine function of the loop indices, plus terms from tables or other
tensors. `IndexMap` is that function; `operand_access` turns it into strides and an offset of an
operand, broadcasting included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planish.backends.cpu.codegen.access import Access, Term
from planish.backends.cpu.codegen.writer import KernelWriter
from planish.ir.dtypes import DType
from planish.ir.shape import Dim, Shape


@dataclass(frozen=True)
class Index:
    """The index along one axis of a tensor: offset + sum(i[k] * strides[k]) + terms."""

    strides: Shape
    offset: Dim = 0
    terms: tuple[Term, ...] = ()


IndexMap = tuple[Index, ...]


def loop_index(axis: int, rank: int, stride: Dim = 1, offset: Dim = 0) -> Index:
    """Return ``i[axis] * stride + offset`` in a nest of `rank` axes."""
    return Index(tuple(stride if k == axis else 0 for k in range(rank)), offset)


def fixed_index(rank: int, offset: Dim = 0) -> Index:
    """Return an index that no loop changes."""
    return Index((0,) * rank, offset)


def term_index(rank: int, text: str, axes: Sequence[int]) -> Index:
    """Return an index that is a C expression over the loop indices of `axes`."""
    return Index((0,) * rank, 0, (Term(text, frozenset(axes)),))


def identity_map(rank: int) -> IndexMap:
    """Return the map of a tensor whose axes are the nest's."""
    return tuple(loop_index(axis, rank) for axis in range(rank))


def shifted_map(offsets: Sequence[Dim]) -> IndexMap:
    """Return the identity moved by an offset along each axis."""
    return tuple(loop_index(axis, len(offsets), 1, offset) for axis, offset in enumerate(offsets))


@dataclass(frozen=True)
class Memory:
    """A tensor in memory: the C pointer to its element (0, ..., 0), its shape and strides."""

    pointer: str
    dtype: DType
    shape: Shape
    strides: Shape


def operand_access(
    writer: KernelWriter, memory: Memory, space: Shape, index: IndexMap, nest_rank: int
) -> Access:
    """Return how a nest reads `memory` where the tensor of shape `space` is at `index`.

    `memory` is broadcast to `space` as numpy does: axes align from the right, extents of 1 repeat.
    """
    strides: list[Dim] = [0] * nest_rank
    offset: Dim = 0
    terms: list[Term] = []
    for axis, (extent, stride) in enumerate(zip(memory.shape, memory.strides, strict=True)):
        if extent == 1 or stride == 0:
            continue
        along = index[axis + len(space) - len(memory.shape)]
        for k, factor in enumerate(along.strides):
            strides[k] = strides[k] + factor * stride
        offset = offset + along.offset * stride
        scale = "" if stride == 1 else f" * {writer.dim(stride)}"
        terms += [Term(f"({term.text}){scale}", term.axes) for term in along.terms]
    return Access(memory.pointer, memory.dtype, tuple(strides), offset, tuple(terms))
