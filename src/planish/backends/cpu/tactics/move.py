"""Operators that rearrange elements: copies along affine index maps.

y[i] = x[m(i)] with m affine, so that each is one or several strided copies; bound by memory. Which
axis is walked innermost, merging of axes, and tiling where both sides are contiguous along
different axes are decided in codegen/loops.py. They are used where the storage pass could not make
a view of the operator, and with pointwise nodes fused on either side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from planish.backends.cpu.codegen.indexing import (
    Index,
    IndexMap,
    identity_map,
    loop_index,
    shifted_map,
    term_index,
)
from planish.backends.cpu.codegen.injection import Builder, Describe, Injection, InjectiveTactic
from planish.backends.cpu.codegen.writer import contiguous_strides
from planish.ir.shape import Dim, Shape, dim_max, dim_min, floordiv
from planish.ops.content import Ranges, bounds, contents

LONGEST = 2**31  # exporters write INT64_MAX for "to the end": anything above this is the end


def _copy(builder: Builder) -> list[Injection] | str:
    """Identity, and Expand: numpy broadcasting does the rest."""
    shape = builder.node.output.known_shape
    index = identity_map(len(shape))
    return [Injection(shape, ((builder.value(0), index),), index)]


def _transpose(builder: Builder) -> list[Injection] | str:
    shape = builder.node.output.known_shape
    rank = len(shape)
    order = builder.node.attributes.get("perm") or tuple(reversed(range(rank)))
    source = {axis: loop_index(k, rank) for k, axis in enumerate(order)}
    read = tuple(source[axis] for axis in range(rank))
    return [Injection(shape, ((builder.value(0), read),), identity_map(rank))]


def _reshape(builder: Builder) -> list[Injection] | str:
    """Walk the common refinement of both shapes; without one, divide linear indices."""
    source, target = builder.shape(0), builder.node.output.known_shape
    factors = refine(source, target)
    if factors is None:
        return [_linear_reshape(builder, source, target)]
    read, write = regroup(source, factors), regroup(target, factors)
    return [Injection(tuple(factors), ((builder.value(0), read),), write)]


def refine(a: Shape, b: Shape) -> list[Dim] | None:
    """Return extents such that both shapes are products of consecutive ones, or None."""
    left, right = [d for d in a if d != 1], [d for d in b if d != 1]
    factors: list[Dim] = []
    while left and right:
        x, y = left.pop(0), right.pop(0)
        if x == y:
            factors.append(x)
        elif y != 0 and floordiv(x, y) * y == x:
            factors.append(y)
            left.insert(0, floordiv(x, y))
        elif x != 0 and floordiv(y, x) * x == y:
            factors.append(x)
            right.insert(0, floordiv(y, x))
        else:
            return None
    return None if left or right else factors


def regroup(shape: Shape, factors: Sequence[Dim]) -> IndexMap:
    """Return the index along each axis of `shape` in a nest over `factors` (see `refine`)."""
    rank, at = len(factors), 0
    found = []
    for extent in shape:
        first = at
        reached: Dim = 1
        while reached != extent and at < rank:
            reached = reached * factors[at]
            at += 1
        inner = contiguous_strides(tuple(factors[first:at]))
        strides: list[Dim] = [0] * rank
        strides[first:at] = inner
        found.append(Index(tuple(strides)))
    return tuple(found)


def _linear_reshape(builder: Builder, source: Shape, target: Shape) -> Injection:
    rank = len(target)
    dim = builder.writer.dim
    steps = contiguous_strides(target)
    linear = " + ".join(f"i{axis} * {dim(step)}" for axis, step in enumerate(steps)) or "0"
    read = tuple(
        term_index(rank, f"({linear}) / {dim(step)} % {dim(extent)}", range(rank))
        for extent, step in zip(source, contiguous_strides(source), strict=True)
    )
    return Injection(target, ((builder.value(0), read),), identity_map(rank))


def _slice(builder: Builder) -> list[Injection] | str:
    node, shape = builder.node, builder.node.output.known_shape
    rank = len(shape)
    starts, ends = contents(node.input(1)), contents(node.input(2))
    if starts is None or ends is None:
        return "the slice's bounds are known only at run time"
    axes = contents(node.input(3)) if node.input(3) is not None else tuple(range(len(starts)))
    steps = contents(node.input(4)) if node.input(4) is not None else (1,) * len(starts)
    if axes is None or steps is None:
        return "the slice's axes or steps are known only at run time"
    read = list(identity_map(rank))
    for start, axis, step in zip(starts, axes, steps, strict=True):
        if not isinstance(axis, int) or not isinstance(step, int):
            return "the slice's axes or steps are symbolic"
        extent = builder.shape(0)[axis % rank]
        first = slice_start(start, extent, step, builder.writer.region.ranges)
        if first is None:
            return "the sign of a slice's start is not known"
        read[axis % rank] = loop_index(axis % rank, rank, step, first)
    return [Injection(shape, ((builder.value(0), tuple(read)),), identity_map(rank))]


def slice_start(start: Dim, extent: Dim, step: int, ranges: Ranges) -> Dim | None:
    """Return the first index of a slice, counted from the front and clamped; None if unknown."""
    last = extent if step > 0 else extent - 1
    low, high = bounds(start, ranges)
    if low >= LONGEST:
        return last
    if high < -LONGEST:
        return 0
    if high < 0:
        return dim_max(extent + start, 0)
    return dim_min(start, last) if low >= 0 else None


def _concat(builder: Builder) -> list[Injection] | str:
    node = builder.node
    rank = node.output.rank
    axis = int(node.attributes["axis"]) % rank
    injections: list[Injection] = []
    at: Dim = 0
    for value in node.present_inputs:
        shape = value.known_shape
        write = shifted_map([at if k == axis else 0 for k in range(rank)])
        injections.append(Injection(shape, ((value, identity_map(rank)),), write))
        at = at + shape[axis]
    return injections


def _split(builder: Builder) -> list[Injection] | str:
    node = builder.node
    rank = builder.value(0).rank
    axis = int(node.attributes.get("axis", 0)) % rank
    injections: list[Injection] = []
    at: Dim = 0
    for k, output in enumerate(node.outputs):
        shape = output.known_shape
        read = shifted_map([at if k == axis else 0 for k in range(rank)])
        reads = ((builder.value(0), read),)
        injections.append(Injection(shape, reads, identity_map(rank), output=k))
        at = at + shape[axis]
    return injections


def _tile(builder: Builder) -> list[Injection] | str:
    """Walk (repeat, index) pairs of axes: everything stays affine."""
    source, target = builder.shape(0), builder.node.output.known_shape
    rank = len(source)
    repeats = contents(builder.node.input(1))
    if repeats is None:
        return "the repeats are known only at run time"
    extents = tuple(repeats) + source
    read = tuple(loop_index(rank + axis, 2 * rank) for axis in range(rank))
    write = tuple(
        Index(tuple(source[axis] if k == axis else int(k == rank + axis) for k in range(2 * rank)))
        for axis in range(rank)
    )
    if len(target) != rank:
        return "repeats do not fit the rank"
    return [Injection(extents, ((builder.value(0), read),), write)]


def _depth_to_space(builder: Builder) -> list[Injection] | str:
    """Nest (n, c, h, a, w, b): y[n, c, h*s + a, w*s + b] = x[n, channel(c, a, b), h, w]."""
    n, _, h, w = builder.shape(0)
    c, s = builder.node.output.known_shape[1], int(builder.node.attributes["blocksize"])
    channel: Shape = (c * 0 + s * s, s, 1)
    if _mode(builder) == "DCR":
        channel = (1, s * c, c)
    deep = (0, channel[0], 0, channel[1], 0, channel[2])
    read = (loop_index(0, 6), Index(deep), loop_index(2, 6), loop_index(4, 6))
    write = (
        loop_index(0, 6), loop_index(1, 6), Index((0, 0, s, 1, 0, 0)), Index((0, 0, 0, 0, s, 1)),
    )  # fmt: skip
    return [Injection((n, c, h, s, w, s), ((builder.value(0), read),), write)]


def _space_to_depth(builder: Builder) -> list[Injection] | str:
    """Nest (n, a, b, c, h, w): y[n, (a*s + b)*C + c, h, w] = x[n, c, h*s + a, w*s + b]."""
    n, c, _, _ = builder.shape(0)
    s = int(builder.node.attributes["blocksize"])
    _, _, h, w = builder.node.output.known_shape
    deep = (
        Index((0, s, 1, s * s, 0, 0)) if _mode(builder) == "CRD" else Index((0, s * c, c, 1, 0, 0))
    )
    read = (
        loop_index(0, 6), loop_index(3, 6), Index((0, 1, 0, 0, s, 0)), Index((0, 0, 1, 0, 0, s)),
    )  # fmt: skip
    write = (loop_index(0, 6), deep, loop_index(4, 6), loop_index(5, 6))
    return [Injection((n, s, s, c, h, w), ((builder.value(0), read),), write)]


def _mode(builder: Builder) -> str:
    return str(builder.node.attributes.get("mode", "DCR"))


class MoveTactic(InjectiveTactic):
    """Strided copies for operators whose index map is affine."""

    name: ClassVar[str] = "move"
    describe: ClassVar[dict[str, Describe]] = {
        "Concat": _concat,
        "DepthToSpace": _depth_to_space,
        "Expand": _copy,
        "Flatten": _reshape,
        "Identity": _copy,
        "Reshape": _reshape,
        "Slice": _slice,
        "SpaceToDepth": _space_to_depth,
        "Split": _split,
        "Squeeze": _reshape,
        "Tile": _tile,
        "Transpose": _transpose,
        "Unsqueeze": _reshape,
    }
