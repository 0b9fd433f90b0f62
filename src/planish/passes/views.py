"""Views: where the elements of a value lie in another value's memory.

A chain of view operators (Reshape, Transpose, Slice, Split, ...) only renumbers elements. `View`
follows such a chain exactly: every logical axis is a list of *pieces*, (extent, stride) pairs
from outer to inner, whose product of extents is the axis's extent. Transpose permutes axes,
Reshape regroups pieces, Slice moves the offset. A value can be addressed by a kernel when every
axis is one piece (`View.storage`); a value that cannot, but is only read by further views, needs
no memory either: Reshape -> Transpose -> Reshape (a channel shuffle, attention heads) costs one
copy at most, where a kernel reads the result.

Nothing here allocates or changes a graph. Extents may be symbolic; when an expression cannot be
divided exactly the answer is None, which means "needs a copy", never a wrong address.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planish.ir.graph import Node, Value
from planish.ir.layout import Halo, Layout, Storage
from planish.ir.shape import Dim, Shape, floordiv, product, symbols_of
from planish.ops.content import bounds, contents, larger, smaller

Piece = tuple[Dim, Dim]  # extent and stride, in elements
Axis = tuple[Piece, ...]  # outer to inner; empty for an extent of 1
Ranges = Mapping[str, tuple[int, int, int]]

# operators whose output is a one-to-one renumbering of the input's elements
BIJECTIVE = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})
VIEWS = BIJECTIVE | {"Slice", "Split", "Expand", "planish.Element"}
_RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True)
class View:
    """Elements of `root`'s memory in the order of another value.

    Attributes
    ----------
    root : Value
        Owner of the memory.
    offset : Dim
        Position of element (0, ..., 0), in elements.
    axes : tuple of Axis
        One a logical axis.
    halo : tuple of (int, int)
        Zeros that may be read around each axis.
    """

    root: Value
    offset: Dim
    axes: tuple[Axis, ...]
    halo: Halo

    @property
    def shape(self) -> Shape:
        """Logical extents."""
        return tuple(product(extent for extent, _ in axis) for axis in self.axes)

    def storage(self) -> Storage | None:
        """Return plain strides, or None when an axis is more than one piece."""
        strides: list[Dim] = []
        inner: Dim = 1  # stride that an axis of extent 1 gets: as if it were dense
        for axis in reversed(self.axes):
            merged = merge(axis)
            if len(merged) > 1:
                return None
            if merged:
                extent, stride = merged[0]
                inner = stride if extent == 1 else extent * stride
                strides.append(stride)
            else:
                strides.append(inner)
        return Storage(self.root, self.offset, tuple(reversed(strides)))


def whole(value: Value, layout: Layout) -> View:
    """Return the view of a value that owns memory in `layout`."""
    shape = value.known_shape
    axes = tuple(zip(shape, layout.strides(shape), strict=True))
    return View(value, layout.origin(shape), tuple((piece,) for piece in axes), layout.halo)


def merge(pieces: Sequence[Piece]) -> Axis:
    """Join neighbouring pieces that are one arithmetic progression; drop extents of 1."""
    merged: list[Piece] = []
    for extent, stride in pieces:
        if extent == 1 and len(pieces) > 1:
            continue
        if merged and merged[-1][1] == extent * stride:
            merged[-1] = (merged[-1][0] * extent, stride)
        else:
            merged.append((extent, stride))
    return tuple(merged)


def forward(node: Node, output: int, view: View, ranges: Ranges) -> View | None:
    """Return the view of output `output` of a view operator, given that of its first input."""
    result = node.outputs[output]
    match node.op:
        case "Identity":
            return view
        case "Transpose":
            return transpose(view, permutation(node))
        case "Reshape" | "Flatten":
            return reshape(view, result.known_shape)
        case "Squeeze" | "Unsqueeze":
            return _restructure(view, result.known_shape)
        case "Expand":
            return _expand(view, result.known_shape)
        case "Split":
            return _split(node, output, view)
        case "Slice":
            return _slice(node, view, ranges)
        case "planish.Element":
            return _element(node, view)
    return None


def backward(node: Node, view: View) -> View | None:
    """Return the view that the input of a bijective operator must have to give `view`."""
    source = node.inputs[0]
    if source is None or node.op not in BIJECTIVE:
        return None
    if node.op == "Identity":
        return view
    if node.op == "Transpose":
        return transpose(view, inverse(permutation(node)))
    if node.op in ("Squeeze", "Unsqueeze"):
        return _restructure(view, source.known_shape)
    return reshape(view, source.known_shape)


def permutation(node: Node) -> tuple[int, ...]:
    """Return the permutation of a Transpose node, the default (reversal) filled in."""
    rank = node.outputs[0].rank
    given = node.attributes.get("perm")
    return tuple(given) if given else tuple(reversed(range(rank)))


def inverse(order: Sequence[int]) -> tuple[int, ...]:
    """Return the inverse of a permutation."""
    result = [0] * len(order)
    for position, axis in enumerate(order):
        result[axis] = position
    return tuple(result)


def transpose(view: View, perm: Sequence[int]) -> View:
    """Return `view` with axis i of the result taken from axis perm[i]."""
    axes = tuple(view.axes[axis] for axis in perm)
    return View(view.root, view.offset, axes, tuple(view.halo[axis] for axis in perm))


def reshape(view: View, shape: Shape) -> View | None:
    """Return `view` with its elements, in order, regrouped into `shape`.

    Leading and trailing axes that keep their extents keep their pieces and halos.
    """
    before, after = _unchanged(view.shape, shape)
    stop = len(view.axes) - after
    pieces = [piece for axis in view.axes[before:stop] for piece in axis if piece[0] != 1]
    middle = _regroup(pieces, shape[before : len(shape) - after])
    if middle is None:
        return None
    return View(
        view.root,
        view.offset,
        (*view.axes[:before], *middle, *view.axes[stop:]),
        (*view.halo[:before], *no_halo(len(middle)), *view.halo[stop:]),
    )


def slice_axis(view: View, axis: int, start: Dim, extent: Dim, step: int) -> View | None:
    """Return elements start, start + step, ... (`extent` of them) of one axis."""
    sliced = _slice_pieces(merge(view.axes[axis]) or ((1, 0),), start, extent, step)
    if sliced is None:
        return None
    offset, pieces = sliced
    axes = (*view.axes[:axis], pieces, *view.axes[axis + 1 :])
    halo = (*view.halo[:axis], (0, 0), *view.halo[axis + 1 :])
    return View(view.root, view.offset + offset, axes, halo)


def take_element(view: View, axis: int, index: Dim) -> View | None:
    """Return element `index` of one axis, without that axis."""
    part = slice_axis(view, axis, index, 1, 1)
    if part is None:
        return None
    axes = (*part.axes[:axis], *part.axes[axis + 1 :])
    return View(part.root, part.offset, axes, (*part.halo[:axis], *part.halo[axis + 1 :]))


def no_halo(rank: int) -> Halo:
    """Return the halo of a value that has none."""
    return ((0, 0),) * rank


def numeric(dim: Dim, ranges: Ranges) -> float:
    """Return `dim` with every symbol at the top of its range, for comparing sizes."""
    if isinstance(dim, int):
        return dim
    missing = {name: (97, 97, 97) for name in symbols_of(dim) if name not in ranges}
    return bounds(dim, {**ranges, **missing} if missing else ranges)[1]


def order_of(strides: Shape, shape: Shape, ranges: Ranges) -> tuple[int, ...]:
    """Return the axes from the largest stride to the smallest; ties keep the logical order.

    Broadcast axes (stride 0) come first: they say nothing about the order of what is there.
    """
    sizes = [abs(numeric(stride, ranges)) for stride in strides]
    keys = [-size if size else -math.inf for size in sizes]
    return tuple(sorted(range(len(shape)), key=lambda axis: keys[axis]))


def follows(strides: Shape, shape: Shape, order: Sequence[int], ranges: Ranges) -> bool:
    """Whether memory is nested in `order` and its innermost axis is contiguous.

    Axes of extent 1 do not matter; where the innermost axis is one, nothing needs to be
    contiguous, because the kernel's vectors have one element. This is what a kernel written for
    `order` needs: steps between rows may be larger than a row, but rows do not interleave.
    """
    axes = [axis for axis in order if shape[axis] != 1]
    if not axes:
        return True
    if shape[order[-1]] != 1 and strides[order[-1]] != 1:
        return False
    sizes = [numeric(strides[axis], ranges) for axis in axes]
    extents = [numeric(shape[axis], ranges) for axis in axes]
    steps = zip(sizes[:-1], sizes[1:], extents[1:], strict=True)
    return all(outer >= inner * extent for outer, inner, extent in steps)


def same_order(a: Sequence[int], b: Sequence[int], shape: Shape) -> bool:
    """Whether two axis orders are equal when axes of extent 1 are left out."""
    return [i for i in a if shape[i] != 1] == [i for i in b if shape[i] != 1]


# -- grouping pieces -----------------------------------------------------------------------------


def _unchanged(old: Shape, new: Shape) -> tuple[int, int]:
    """Return how many leading and how many trailing extents are the same in both shapes."""
    limit = min(len(old), len(new))
    before = 0
    while before < limit and old[before] == new[before]:
        before += 1
    after = 0
    while after < limit - before and old[-1 - after] == new[-1 - after]:
        after += 1
    return before, after


def _regroup(pieces: Sequence[Piece], shape: Shape) -> tuple[Axis, ...] | None:
    merged = merge(pieces)
    for candidate in (merged, tuple(pieces)):
        for axes in (_group(candidate, shape), _group_from_the_right(candidate, shape)):
            if axes is not None:
                return axes
    if len(merged) != 1:
        return None
    # one arithmetic progression can be cut anywhere, even where no division is known to be exact
    axes_reversed: list[Axis] = []
    stride = merged[0][1]
    for dim in reversed(shape):
        axes_reversed.append(((dim, stride),))
        stride = stride * dim
    return tuple(reversed(axes_reversed))


def _exact(a: Dim, b: Dim) -> Dim | None:
    """Return a / b when that is certain to be exact."""
    if b == 0:
        return None
    quotient = floordiv(a, b)
    return quotient if quotient * b == a else None


def _group(pieces: Sequence[Piece], shape: Shape) -> tuple[Axis, ...] | None:
    """Deal pieces out to the axes of `shape`, outermost first, splitting where needed."""
    queue = list(reversed(pieces))  # the next piece is the last
    axes: list[Axis] = []
    for dim in shape:
        axis: list[Piece] = []
        rest = dim
        while rest != 1:
            if not queue:
                return None
            extent, stride = queue.pop()
            if (whole_piece := _exact(rest, extent)) is not None:
                axis.append((extent, stride))
                rest = whole_piece
            elif (inner := _exact(extent, rest)) is not None:
                axis.append((rest, stride * inner))
                queue.append((inner, stride))
                rest = 1
            else:
                return None
        axes.append(tuple(axis))
    return None if queue else tuple(axes)


def _group_from_the_right(pieces: Sequence[Piece], shape: Shape) -> tuple[Axis, ...] | None:
    """Do as `_group` does, innermost axes first: other symbolic divisions become possible."""
    queue = list(pieces)
    axes: list[Axis] = []
    for dim in reversed(shape):
        axis: list[Piece] = []
        rest = dim
        while rest != 1:
            if not queue:
                return None
            extent, stride = queue.pop()
            if (whole_piece := _exact(rest, extent)) is not None:
                axis.append((extent, stride))
                rest = whole_piece
            elif (outer := _exact(extent, rest)) is not None:
                axis.append((rest, stride))
                queue.append((outer, stride * rest))
                rest = 1
            else:
                return None
        axes.append(tuple(reversed(axis)))
    return None if queue else tuple(reversed(axes))


def _restructure(view: View, shape: Shape) -> View | None:
    """Insert or remove axes of extent 1, keeping the other axes (and their halos) as they are."""
    remaining = [
        (axis, halo)
        for axis, halo, dim in zip(view.axes, view.halo, view.shape, strict=True)
        if dim != 1
    ]
    axes: list[Axis] = []
    halos: list[tuple[int, int]] = []
    for dim in shape:
        if dim == 1:
            axes.append(())
            halos.append((0, 0))
            continue
        if not remaining:
            return reshape(view, shape)
        axis, halo = remaining.pop(0)
        axes.append(axis)
        halos.append(halo)
    if remaining:
        return reshape(view, shape)
    return View(view.root, view.offset, tuple(axes), tuple(halos))


def _expand(view: View, shape: Shape) -> View | None:
    missing = len(shape) - len(view.axes)
    axes: list[Axis] = [((dim, 0),) for dim in shape[:missing]]
    for axis, have, want in zip(view.axes, view.shape, shape[missing:], strict=True):
        if have == want:
            axes.append(axis)
        elif have == 1:
            axes.append(((want, 0),))
        else:
            return None
    return View(view.root, view.offset, tuple(axes), no_halo(len(shape)))


def _split(node: Node, output: int, view: View) -> View | None:
    axis = int(node.attributes.get("axis", 0)) % len(view.axes)
    start: Dim = 0
    for earlier in node.outputs[:output]:
        start = start + earlier.known_shape[axis]
    return slice_axis(view, axis, start, node.outputs[output].known_shape[axis], 1)


def _element(node: Node, view: View) -> View | None:
    index = contents(node.input(1))
    return (
        None
        if index is None
        else take_element(view, int(node.attributes["axis"]) % len(view.axes), index[0])
    )


# -- slices --------------------------------------------------------------------------------------


def _slice(node: Node, view: View, ranges: Ranges) -> View | None:
    starts = contents(node.input(1))
    if starts is None:
        return None
    axes = contents(node.input(3)) if node.input(3) is not None else tuple(range(len(starts)))
    steps = contents(node.input(4)) if node.input(4) is not None else (1,) * len(starts)
    if axes is None or steps is None:
        return None
    shape = node.outputs[0].known_shape
    result: View | None = view
    for start, axis, step in zip(starts, axes, steps, strict=True):
        if result is None or not isinstance(axis, int) or not isinstance(step, int):
            return None
        axis %= len(shape)
        first = _first_index(start, view.shape[axis], step, ranges)
        if first is None:
            return None
        if first == 0 and step == 1 and shape[axis] == view.shape[axis]:
            continue  # the whole axis, halo included
        result = slice_axis(result, axis, first, shape[axis], step)
    return result


def _first_index(start: Dim, extent: Dim, step: int, ranges: Ranges) -> Dim | None:
    """Return ONNX's clamped start, or None when its sign is not known."""
    low, high = bounds(start, ranges)
    if low < 0 <= high:
        return None
    if high < 0:
        return larger(extent + start, 0, ranges)
    return smaller(start, extent if step > 0 else extent - 1, ranges)


def _slice_pieces(
    pieces: Sequence[Piece], start: Dim, extent: Dim, step: int
) -> tuple[Dim, Axis] | None:
    """Return the offset and the pieces of a slice of one axis."""
    size, stride = pieces[0]
    if len(pieces) == 1:
        return start * stride, ((extent, stride * step),)
    inner = product(inner_extent for inner_extent, _ in pieces[1:])
    first, count = _exact(start, inner), _exact(extent, inner)
    if step == 1 and first is not None and count is not None:
        return first * stride, ((count, stride), *pieces[1:])
    if not (isinstance(start, int) and isinstance(extent, int) and isinstance(inner, int)):
        return None
    last = start + (extent - 1) * step
    if extent < 1 or start // inner != last // inner or not isinstance(size, int):
        return None  # the slice straddles two outer elements
    within = _slice_pieces(pieces[1:], start % inner, extent, step)
    if within is None:
        return None
    return start // inner * stride + within[0], within[1]
