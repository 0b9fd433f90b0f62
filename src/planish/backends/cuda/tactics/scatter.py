"""ScatterElements and ScatterND, from the side of the output.

Every output element looks for the updates that go to it, in their order, so results do not depend
on the order in which blocks run: y[o] = x[o], combined with u[k] for every k whose index is o. It
reads all indices that could lead to the element, so it is meant for few updates an axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from planish.backends.cuda.codegen.elements import Describe, Elements, ElementTactic, typed
from planish.errors import TacticError
from planish.ir.dtypes import BOOL
from planish.ir.shape import Dim, product
from planish.tactics.tactic import Config, Region
from planish.tactics.target import Target

MOST_WORK = 1 << 36  # indices that all elements together look at
COMBINE = {
    "none": "{b}",
    "add": "{a} + {b}",
    "mul": "{a} * {b}",
    "max": "tl.maximum({a}, {b})",
    "min": "tl.minimum({a}, {b})",
}


def _scatter_elements(e: Elements) -> Sequence[str]:
    x, where, updates = e.node.present_inputs[:3]
    axis = int(e.node.attributes["axis"]) % x.rank
    count = where.known_shape[axis]
    _check(e, count)
    total = _start(e)
    others = [
        f"({e.at[k]} < {e.dim(where.known_shape[k])})"
        for k in range(x.rank)
        if k != axis and where.known_shape[k] != x.known_shape[k]
    ]
    covered = " & ".join(others) or None
    with e.block_of(f"for step in range({e.dim(count)}):"):
        at: list[str | Dim] = list(e.at)
        at[axis] = f"({e.at[axis]} * 0 + step)"
        place = _wrapped(e, e.read(where, at, covered), x.known_shape[axis])
        hit = f"({place} == {e.at[axis]})"
        _combine(e, total, e.read(updates, at, covered), f"{hit} & {covered}" if covered else hit)
    return [total]


def _scatter_nd(e: Elements) -> Sequence[str]:
    x, where, updates = e.node.present_inputs[:3]
    length = where.known_shape[-1]
    if not isinstance(length, int):
        raise TacticError("the length of the index tuples is symbolic")
    tuples = where.known_shape[:-1]
    count = product(tuples)
    _check(e, count * length)
    total = _start(e)
    with e.block_of(f"for step in range({e.dim(count)}):"):
        lead: list[str | Dim] = []
        rest = "step"
        for extent in reversed(tuples):
            lead.insert(0, e.let("t", f"{rest} % {e.dim(extent)}"))
            rest = e.let("t", f"{rest} // {e.dim(extent)}")
        hits = []
        for k in range(length):
            index = e.read(where, [*lead, k], bare=True)
            place = _wrapped(e, index, x.known_shape[k])
            hits.append(f"({place} == {e.at[k]})")
        hit = e.let("hit", " & ".join(hits) or "tl.full((1,), 1, tl.int1)")
        update = e.read(updates, [*(f"({e.at[0]} * 0 + {t})" for t in lead), *e.at[length:]], hit)
        _combine(e, total, update, hit)
    return [total]


def _check(e: Elements, steps: Dim) -> None:
    elements = product(e.node.output.known_shape)
    if e.printer.largest(steps * elements) > MOST_WORK:
        raise TacticError("every element would look at too many indices")
    if e.node.output.dtype is BOOL and e.node.attributes["reduction"] != "none":
        raise TacticError("it reduces booleans")


def _start(e: Elements) -> str:
    """Return the name of the running element, a vector from the start."""
    dtype = e.node.output.dtype
    value = e.read(e.node.present_inputs[0], e.at)
    zero = e.full("0", "tl.int1" if dtype is BOOL else "tl.int8")
    both = f"{value} | {zero}" if dtype is BOOL else f"{value} + {zero}"
    return e.let("total", typed(both, dtype))


def _wrapped(e: Elements, index: str, extent: Dim) -> str:
    return e.let("place", f"tl.where({index} < 0, {index} + {e.dim(extent)}, {index})")


def _combine(e: Elements, total: str, update: str, hit: str) -> None:
    both = COMBINE[str(e.node.attributes["reduction"])].format(a=total, b=update)
    e.say(f"{total} = {typed(f'tl.where({hit}, {both}, {total})', e.node.output.dtype)}")


class Scatter(ElementTactic):
    """See the module's docstring."""

    name: ClassVar[str] = "triton_scatter"
    describe: ClassVar[dict[str, Describe]] = {
        "ScatterElements": _scatter_elements,
        "ScatterND": _scatter_nd,
    }

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return elements of a block, by warps."""
        return [{"block": 128, "warps": 4}, {"block": 256, "warps": 4}]
