"""Operators that rearrange elements: y[i] = x[m(i)], and Pad's borders; bound by memory.

They are used where the storage pass could not make a view of the operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from planish.backends.cuda.codegen.elements import (
    Describe,
    Elements,
    ElementTactic,
    anchor_of,
    memory_order,
    zero_of,
)
from planish.backends.cuda.codegen.printer import unprintable
from planish.errors import TacticError
from planish.ir.graph import Node
from planish.ir.shape import Dim, ceildiv, dim_max, dim_min, product
from planish.ops.content import Ranges, bounds, contents
from planish.tactics.tactic import YES, Config, Region, Support, TritonKernel, no
from planish.tactics.target import Target

LONGEST = 2**31  # exporters write INT64_MAX for "to the end": anything above this is the end


def _copy(e: Elements) -> Sequence[str]:
    """Identity, and Expand: axes of extent 1 have one coordinate."""
    x = e.node.present_inputs[0]
    return [e.read(x, e.at[len(e.at) - x.rank :])]


def _transpose(e: Elements) -> Sequence[str]:
    rank = len(e.at)
    order = e.node.attributes.get("perm") or tuple(reversed(range(rank)))
    at = dict(zip(order, e.at, strict=True))
    return [e.read(e.node.present_inputs[0], [at[axis] for axis in range(rank)])]


def _reshape(e: Elements) -> Sequence[str]:
    """Count the position in row-major order on one side, and divide it on the other."""
    step: Dim = 1
    terms = []
    for axis in reversed(range(len(e.at))):
        terms.append(f"{e.at[axis]} * {e.dim(step)}")
        step = step * e.node.output.known_shape[axis]
    zero = f"tl.arange(0, {e.block}) * 0"
    return [e.read_flat(e.node.present_inputs[0], e.let("place", " + ".join(terms) or zero))]


def _slice(e: Elements) -> Sequence[str]:
    node, rank = e.node, len(e.at)
    x = node.present_inputs[0]
    starts, ends = contents(node.input(1)), contents(node.input(2))
    axes = contents(node.input(3)) if node.input(3) is not None else tuple(range(rank))
    steps = contents(node.input(4)) if node.input(4) is not None else (1,) * rank
    if starts is None or ends is None or axes is None or steps is None:
        raise TacticError("the slice is known only at run time")
    at: list[str | Dim] = list(e.at)
    for start, axis, step in zip(starts, axes, steps, strict=False):
        if not isinstance(axis, int) or not isinstance(step, int):
            raise TacticError("the slice's axes or steps are symbolic")
        first = _slice_start(start, x.known_shape[axis % rank], step, e.region.ranges)
        at[axis % rank] = f"({e.at[axis % rank]} * {step} + {e.dim(first)})"
    return [e.read(x, at)]


def _slice_start(start: Dim, extent: Dim, step: int, ranges: Ranges) -> Dim:
    """Return the first index of a slice, counted from the front and clamped."""
    last = extent if step > 0 else extent - 1
    low, high = bounds(start, ranges)
    if low >= LONGEST:
        return last
    if high < -LONGEST:
        return 0
    if high < 0:
        return dim_max(extent + start, 0)
    if low < 0:
        raise TacticError("the sign of a slice's start is not known")
    return dim_min(start, last)


def _concat(e: Elements) -> Sequence[str]:
    """Each operand is read by the lanes whose coordinate lies in it."""
    axis = int(e.node.attributes["axis"]) % len(e.at)
    here = e.at[axis]
    start: Dim = 0
    total = ""
    for value in e.node.present_inputs:
        end = start + value.known_shape[axis]
        inside = f"({here} >= {e.dim(start)}) & ({here} < {e.dim(end)})"
        at: list[str | Dim] = list(e.at)
        at[axis] = f"({here} - {e.dim(start)})"
        part = e.read(value, at, inside)
        total = e.let("total", f"tl.where({inside}, {part}, {total})" if total else part)
        start = end
    return [total]


def _tile(e: Elements) -> Sequence[str]:
    x = e.node.present_inputs[0]
    pairs = zip(e.at, x.known_shape, strict=True)
    return [e.read(x, [f"({place} % {e.dim(extent)})" for place, extent in pairs])]


def _depth_to_space(e: Elements) -> Sequence[str]:
    """y[n, c, h*s + a, w*s + b] = x[n, channel(c, a, b), h, w]."""
    n, c, y, x = e.at
    s = int(e.node.attributes["blocksize"])
    inner = f"({y} % {s}) * {s} + {x} % {s}"
    channel = f"({c} * {s * s} + {inner})"
    if _is_depth_first(e.node):
        channel = f"(({inner}) * {e.dim(e.node.output.known_shape[1])} + {c})"
    return [e.read(e.node.present_inputs[0], [n, channel, f"({y} // {s})", f"({x} // {s})"])]


def _space_to_depth(e: Elements) -> Sequence[str]:
    """y[n, (a*s + b)*C + c, h, w] = x[n, c, h*s + a, w*s + b]."""
    n, c, y, x = e.at
    s, source = int(e.node.attributes["blocksize"]), e.node.present_inputs[0]
    if _is_depth_first(e.node):
        channels = e.dim(source.known_shape[1])
        inner, channel = f"({c} // {channels})", f"({c} % {channels})"
    else:
        inner, channel = f"({c} % {s * s})", f"({c} // {s * s})"
    down, across = f"({y} * {s} + {inner} // {s})", f"({x} * {s} + {inner} % {s})"
    return [e.read(source, [n, channel, down, across])]


def _is_depth_first(node: Node) -> bool:
    return str(node.attributes.get("mode", "DCR")) == "DCR"


# -- padding -------------------------------------------------------------------------------------

BORDERS = {
    "edge": "planish_clamp({i}, 0, {n} - 1)",
    "reflect": "planish_reflect({i}, {n})",
    "wrap": "planish_wrap({i}, {n})",
}


def _pad(e: Elements) -> Sequence[str]:
    x, mode = e.node.present_inputs[0], str(e.node.attributes["mode"])
    inside: list[str] = []
    at: list[str | Dim] = []
    pairs = zip(e.at, x.known_shape, _pads(e.node, x.rank), strict=True)
    for place, extent, (before, after) in pairs:
        if (before, after) == (0, 0):
            at.append(place)
            continue
        shifted = e.let("p", f"{place} - {e.dim(before)}")
        if mode == "constant":
            inside.append(f"({shifted} >= 0) & ({shifted} < {e.dim(extent)})")
            at.append(shifted)
            continue
        front, back = (_added(dim, e.region.ranges) for dim in (before, after))
        cut, kept = front - before, extent + (before - front) + (after - back)
        n = e.dim(kept)
        border = BORDERS[mode].format(i=f"{place} - {e.dim(front)}", n=n)
        at.append(e.let("p", f"{border} + {e.dim(cut)}"))
    if not inside:
        return [e.read(x, at)]
    condition = e.let("inside", " & ".join(inside))
    fill = e.node.input(2)
    rest = zero_of(x.dtype) if fill is None else e.scalar(fill)
    return [e.let("total", f"tl.where({condition}, {e.read(x, at, condition)}, {rest})")]


def _pads(node: Node, rank: int) -> list[tuple[Dim, Dim]]:
    """Return (before, after) of every axis."""
    given = contents(node.input(1))
    axes = contents(node.input(3)) if node.input(3) is not None else tuple(range(rank))
    if given is None or axes is None:
        raise TacticError("the pads are known only at run time")
    pairs: list[tuple[Dim, Dim]] = [(0, 0)] * rank
    for position, axis in enumerate(axes):
        if not isinstance(axis, int):
            raise TacticError("a padded axis is symbolic")
        pairs[axis % rank] = (given[position], given[position + len(axes)])
    return pairs


def _added(dim: Dim, ranges: Ranges) -> Dim:
    """Return what a pad adds: nothing where it is negative and cuts."""
    low, high = bounds(dim, ranges)
    if low < 0 < high:
        raise TacticError("the sign of a pad is not known")
    return dim if low >= 0 else 0


class Move(ElementTactic):
    """Copies along index maps that are known when the kernel is printed."""

    name: ClassVar[str] = "triton_move"
    describe: ClassVar[dict[str, Describe]] = {
        "Concat": _concat,
        "DepthToSpace": _depth_to_space,
        "Expand": _copy,
        "Flatten": _reshape,
        "Identity": _copy,
        "Pad": _pad,
        "Reshape": _reshape,
        "Slice": _slice,
        "SpaceToDepth": _space_to_depth,
        "Squeeze": _reshape,
        "Tile": _tile,
        "Transpose": _transpose,
        "Unsqueeze": _reshape,
    }


class Split(ElementTactic):
    """Split: the second axis of the grid counts the outputs."""

    name: ClassVar[str] = "triton_split"

    def supports(self, region: Region, target: Target) -> Support:
        """Accept a Split alone."""
        if region.kind != "Split":
            return no("it is no Split")
        if len(region.body) != 1:
            return no("there are operations around the Split")
        reason = unprintable(region, region.anchor)
        return YES if reason is None else no(reason)

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel."""
        node = anchor_of(region)
        x = node.present_inputs[0]
        axis = int(node.attributes.get("axis", 0)) % x.rank
        start: Dim = 0
        elements = Elements(region, node, config)
        places = {operand.value: index for index, operand in enumerate(region.outputs)}
        blocks: Dim = 1
        for value in node.outputs:
            if value in places:
                index = places[value]
                with elements.block_of(f"if tl.program_id(1) == {index}:"):
                    elements.walk(value.known_shape, memory_order(region.outputs[index], region))
                    at: list[str | Dim] = list(elements.at)
                    at[axis] = f"({elements.at[axis]} + {elements.dim(start)})"
                    elements.store(index, elements.read(x, at))
                blocks = dim_max(blocks, ceildiv(product(value.known_shape), elements.block))
            start = start + value.known_shape[axis]
        return elements.kernel(blocks, len(region.outputs))
