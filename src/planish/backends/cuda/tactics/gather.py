"""Reading at indices that are data: Gather, GatherElements, GatherND, ReverseSequence.

y[i] = x[..., index(i), ...]; bound by memory. Indices count from the end where negative; those out
of range are clamped, so that nothing outside of the table is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from planish.backends.cuda.codegen.elements import Describe, Elements, ElementTactic
from planish.errors import TacticError
from planish.ir.graph import Value
from planish.ir.shape import Dim


def _looked_up(e: Elements, where: Value, at: Sequence[str | Dim], extent: Dim) -> str:
    """Return the index that tensor `where` holds at `at`, for an axis of `extent` elements."""
    return e.let("place", f"planish_index({e.read(where, at)}, {e.dim(extent)})")


def _gather(e: Elements) -> Sequence[str]:
    x, where = e.node.present_inputs
    axis = int(e.node.attributes.get("axis", 0)) % x.rank
    last = axis + where.rank
    place = _looked_up(e, where, e.at[axis:last], x.known_shape[axis])
    return [e.read(x, [*e.at[:axis], place, *e.at[last:]])]


def _gather_elements(e: Elements) -> Sequence[str]:
    x, where = e.node.present_inputs
    axis = int(e.node.attributes["axis"]) % x.rank
    at = list(e.at)
    at[axis] = _looked_up(e, where, e.at, x.known_shape[axis])
    return [e.read(x, at)]


def _gather_nd(e: Elements) -> Sequence[str]:
    x, where = e.node.present_inputs
    batch = int(e.node.attributes["batch_dims"])
    length, outer = where.known_shape[-1], where.rank - 1
    if not isinstance(length, int):
        raise TacticError("the length of the index tuples is symbolic")
    at = e.at[:batch]
    for k in range(length):
        at.append(_looked_up(e, where, [*e.at[:outer], k], x.known_shape[batch + k]))
    return [e.read(x, [*at, *e.at[outer:]])]


def _reverse_sequence(e: Elements) -> Sequence[str]:
    x, lengths = e.node.present_inputs
    time = int(e.node.attributes["time_axis"]) % x.rank
    batch = int(e.node.attributes["batch_axis"]) % x.rank
    here, steps = e.at[time], e.dim(x.known_shape[time])
    length = e.let("length", f"tl.minimum({e.read(lengths, [e.at[batch]])}, {steps})")
    at = list(e.at)
    at[time] = e.let("place", f"tl.where({here} < {length}, {length} - 1 - {here}, {here})")
    return [e.read(x, at)]


class Gather(ElementTactic):
    """See the module's docstring."""

    name: ClassVar[str] = "triton_gather"
    describe: ClassVar[dict[str, Describe]] = {
        "Gather": _gather,
        "GatherElements": _gather_elements,
        "GatherND": _gather_nd,
        "ReverseSequence": _reverse_sequence,
    }
