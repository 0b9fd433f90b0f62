"""Reading at indices that are data: Gather, GatherElements, GatherND, ReverseSequence.

y[i] = x[..., index(i), ...]. The index is read once for each slice and the slice is copied by a
vectorised loop; where single elements are gathered, every element reads its own index. Negative
indices count from the end; indices out of range are clamped, so that no other memory is read.
Bound by memory, or by cache misses of scattered rows.
"""

from __future__ import annotations

from typing import ClassVar

from planish.backends.cpu.codegen.indexing import (
    Index,
    IndexMap,
    fixed_index,
    identity_map,
    loop_index,
    term_index,
)
from planish.backends.cpu.codegen.injection import Builder, Describe, Injection, InjectiveTactic
from planish.ir.graph import Value
from planish.ir.shape import Dim

COMPUTED = "the indices are computed in the region"


def _looked_up(builder: Builder, where: Value, at: IndexMap, extent: Dim, rank: int) -> Index:
    """Return the index that tensor `where` holds at `at`, for an axis of `extent` elements."""
    text, axes = builder.element(where, where.known_shape, at, rank)
    wrapped = f"planish_index((int64_t)({text}), {builder.writer.dim(extent)})"
    return term_index(rank, wrapped, sorted(axes))


def _gather(builder: Builder) -> list[Injection] | str:
    x, where = builder.node.present_inputs
    if not builder.is_operand(where):
        return COMPUTED
    shape = builder.node.outputs[0].known_shape
    rank, axis = len(shape), int(builder.node.attributes["axis"]) % x.rank
    at = tuple(loop_index(axis + k, rank) for k in range(where.rank))
    read = (
        *(loop_index(k, rank) for k in range(axis)),
        _looked_up(builder, where, at, x.known_shape[axis], rank),
        *(loop_index(k - 1 + where.rank, rank) for k in range(axis + 1, x.rank)),
    )
    return [Injection(shape, ((x, read),), identity_map(rank))]


def _gather_elements(builder: Builder) -> list[Injection] | str:
    x, where = builder.node.present_inputs
    if not builder.is_operand(where):
        return COMPUTED
    rank = x.rank
    axis = int(builder.node.attributes["axis"]) % rank
    read = list(identity_map(rank))
    read[axis] = _looked_up(builder, where, identity_map(rank), x.known_shape[axis], rank)
    return [Injection(where.known_shape, ((x, tuple(read)),), identity_map(rank))]


def _gather_nd(builder: Builder) -> list[Injection] | str:
    x, where = builder.node.present_inputs
    if not builder.is_operand(where):
        return COMPUTED
    batch = int(builder.node.attributes["batch_dims"])
    shape, length = builder.node.outputs[0].known_shape, where.known_shape[-1]
    if not isinstance(length, int):
        return "the length of the index tuples is symbolic"
    rank, outer = len(shape), where.rank - 1
    read: list[Index] = [loop_index(k, rank) for k in range(batch)]
    for k in range(length):
        at = (*(loop_index(axis, rank) for axis in range(outer)), fixed_index(rank, k))
        read.append(_looked_up(builder, where, at, x.known_shape[batch + k], rank))
    read += [loop_index(outer + k, rank) for k in range(x.rank - batch - length)]
    return [Injection(shape, ((x, tuple(read)),), identity_map(rank))]


def _reverse_sequence(builder: Builder) -> list[Injection] | str:
    x, lengths = builder.node.present_inputs
    if not builder.is_operand(lengths):
        return "the lengths are computed in the region"
    rank = x.rank
    time = int(builder.node.attributes["time_axis"]) % rank
    batch = int(builder.node.attributes["batch_axis"]) % rank
    at = (loop_index(batch, rank),)
    text, axes = builder.element(lengths, lengths.known_shape, at, rank)
    length = f"planish_min_i64((int64_t){text}, {builder.writer.dim(x.known_shape[time])})"
    reversed_index = f"(i{time} < {length} ? {length} - 1 - i{time} : i{time})"
    read = list(identity_map(rank))
    read[time] = term_index(rank, reversed_index, sorted({*axes, time}))
    return [Injection(x.known_shape, ((x, tuple(read)),), identity_map(rank))]


class GatherTactic(InjectiveTactic):
    """Copies of slices and elements found through an index tensor."""

    name: ClassVar[str] = "gather"
    describe: ClassVar[dict[str, Describe]] = {
        "Gather": _gather,
        "GatherElements": _gather_elements,
        "GatherND": _gather_nd,
        "ReverseSequence": _reverse_sequence,
    }
