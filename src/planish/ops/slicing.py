"""Operators that cut tensors, join them, and enlarge them: Concat, Split, Slice, Pad, Tile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.graph import Node, Value
from planish.ir.requirement import Requirement, equal
from planish.ir.shape import Dim, Shape, ceildiv, static_shape
from planish.ops.content import (
    MAX_CONTENT,
    Ranges,
    at_least,
    bounds,
    content_array,
    contents,
    integers,
    larger,
    ranges_of,
    smaller,
    to_content,
)
from planish.ops.numeric import optional, required
from planish.ops.op import (
    REQUIRED,
    Array,
    Attributes,
    Inferred,
    Inputs,
    Sample,
    SubgraphRunner,
    normalize_axis,
    unknown_extent,
)
from planish.ops.sample_data import f32, floats, indices, whole
from planish.ops.shape_ops import Movement, length_of, unknown_shape

LAST = np.iinfo(np.int32).max - 1  # exporters write the largest integers for "to the end"


class Concat(Movement):
    """The inputs one after the other along `axis`."""

    name = "Concat"
    attributes: ClassVar[Mapping[str, Any]] = {"axis": REQUIRED}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the common shape with the extents along `axis` added."""
        values = node.present_inputs
        dtype = values[0].dtype
        if any(value.dtype != dtype for value in values):
            types = ", ".join(str(value.dtype) for value in values)
            raise ShapeError(f"inputs of Concat have different types: {types}", where=str(node))
        shapes = [value.shape for value in values if value.shape is not None]
        if len(shapes) < len(values):
            rank = len(shapes[0]) if shapes else None
            return [Inferred(dtype, unknown_shape(node, rank))]
        axis = normalize_axis(node.attributes["axis"], len(shapes[0]), node)
        shape = cls._joined(shapes, axis, node)
        arrays = [content_array(value) for value in values]
        known = [array for array in arrays if array is not None]
        whole_known = len(known) == len(arrays)
        return [
            Inferred(dtype, shape, to_content(np.concatenate(known, axis)) if whole_known else None)
        ]

    @classmethod
    def _joined(cls, shapes: Sequence[Shape], axis: int, node: Node) -> Shape:
        result = list(shapes[0])
        for shape in shapes[1:]:
            clash = len(shape) != len(result) or any(
                isinstance(a, int) and isinstance(b, int) and a != b and position != axis
                for position, (a, b) in enumerate(zip(result, shape, strict=False))
            )
            if clash:
                listing = ", ".join(str(list(shape)) for shape in shapes)
                raise ShapeError(f"cannot join {listing} along axis {axis}", where=str(node))
            for position, dim in enumerate(shape):
                if position == axis:
                    result[position] = result[position] + dim
                elif isinstance(dim, int):
                    result[position] = dim
        return tuple(result)

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that extents are equal except along the axis."""
        result = node.outputs[0].shape
        if result is None:
            return []
        joined = int(node.attributes["axis"]) % max(len(result), 1)
        return [
            each
            for value in node.present_inputs
            for axis, (dim, whole) in enumerate(zip(value.shape or (), result, strict=False))
            if axis != joined
            for each in equal(dim, whole)
        ]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Concatenate."""
        arrays = [array for array in inputs if array is not None]
        return [np.concatenate(arrays, axis=attributes["axis"])]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return one, two and three inputs along several axes."""
        x, y, z = floats(2, 3, 4), floats(2, 1, 4, seed=1), floats(2, 5, 4, seed=2)
        return [
            Sample((x, y), {"axis": 1}, name="two"),
            Sample((x, y, z), {"axis": -2}, name="three"),
            Sample((x,), {"axis": 0}, name="one"),
            Sample((x, floats(2, 3, 4, seed=1)), {"axis": -1}, (1,), name="last"),
            Sample((whole(3), whole(2, seed=1)), {"axis": 0}, name="i64"),
        ]


class Split(Movement):
    """The input cut along `axis` into parts of given sizes (input 1), or `num_outputs` equal ones.

    Equal parts are rounded up; the last one takes what remains.
    """

    name = "Split"
    attributes: ClassVar[Mapping[str, Any]] = {"axis": 0, "num_outputs": None}
    view = True

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return one shape for each output."""
        value, given = node.present_inputs[0], node.input(1)
        count = len(node.outputs)
        if value.shape is None:
            return [Inferred(value.dtype, None)] * count
        axis = normalize_axis(node.attributes["axis"], len(value.shape), node)
        sizes = cls._sizes(node, value.shape[axis], count)
        if given is not None:
            known = contents(given)
            unknown = [unknown_extent(node, index, axis) for index in range(count)]
            sizes = unknown if known is None else list(known)
        cls._check(node, value.shape[axis], sizes, count)
        before, after = value.shape[:axis], value.shape[axis + 1 :]
        parts = cls._contents(value, sizes, axis)
        return [
            Inferred(value.dtype, (*before, size, *after), part)
            for size, part in zip(sizes, parts, strict=True)
        ]

    @classmethod
    def _sizes(cls, node: Node, extent: Dim, count: int) -> list[Dim]:
        size = ceildiv(extent, count) if isinstance(extent, int) else None
        if size is None:
            exact = extent // count
            size = exact if exact * count == extent else ceildiv(extent, count)
        return [*([size] * (count - 1)), extent - size * (count - 1)]

    @classmethod
    def _check(cls, node: Node, extent: Dim, sizes: Sequence[Dim], count: int) -> None:
        total = sum(sizes, start=0)
        wrong = isinstance(extent, int) and isinstance(total, int) and total != extent
        if wrong or len(sizes) != count:
            raise ShapeError(
                f"cannot split an extent of {extent} into {count} parts of {list(sizes)}",
                where=str(node),
            )

    @classmethod
    def _contents(
        cls, value: Value, sizes: Sequence[Dim], axis: int
    ) -> list[tuple[Dim, ...] | None]:
        array = content_array(value)
        numbers = [size for size in sizes if isinstance(size, int)]
        if array is None or len(numbers) < len(sizes):
            return [None] * len(sizes)
        parts = np.split(array, np.cumsum(numbers)[:-1].tolist(), axis)
        return [to_content(part) for part in parts]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that the parts make up the whole."""
        value, axis = node.present_inputs[0], int(node.attributes["axis"])
        if not value.shape or any(output.shape is None for output in node.outputs):
            return []
        sizes = [output.known_shape[axis] for output in node.outputs]
        return equal(sum(sizes, start=0), value.shape[axis])

    @classmethod
    def evaluate(cls, node: Node, inputs: Inputs, run: SubgraphRunner) -> list[Array]:
        """Split into as many parts as the node has outputs."""
        return cls.reference(inputs, {**node.attributes, "num_outputs": len(node.outputs)})

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Cut; `num_outputs` must be set where input 1 is absent."""
        x, given, axis = required(inputs, 0), optional(inputs, 1), attributes["axis"]
        if given is not None:
            ends = np.cumsum(given)[:-1].tolist()
        else:
            size = -(-x.shape[axis] // attributes["num_outputs"])
            ends = [size * part for part in range(1, attributes["num_outputs"])]
        return [np.ascontiguousarray(part) for part in np.split(x, ends, axis)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return given sizes, equal parts, and parts that do not divide the extent."""
        x = floats(2, 6, 4)
        return [
            Sample((x, indices(1, 5)), {"axis": 1}, (1,), outputs=2, name="sizes"),
            Sample((x,), {"axis": -2, "num_outputs": 3}, outputs=3, name="equal"),
            Sample((floats(7, 2),), {"num_outputs": 3}, outputs=3, name="rest"),
            Sample((x,), {"axis": 2, "num_outputs": 1}, outputs=1, name="one"),
            Sample((x, indices(2, 4)), {"axis": 1}, outputs=2, name="dynamic"),
        ]


class Slice(Movement):
    """Elements `starts` to `ends` of `axes` in `steps` (inputs 1 to 4; axes and steps optional).

    Negative positions count from the end, positions beyond an end are clamped, as in Python.
    """

    name = "Slice"
    view = True

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the number of positions on every axis, exact for symbolic extents too."""
        value = node.present_inputs[0]
        if value.shape is None:
            return [Inferred(value.dtype, None)]
        axes = cls._axes(node, len(value.shape))
        if axes is None:
            return [Inferred(value.dtype, unknown_shape(node, len(value.shape)))]
        given = [cls._given(node, index, len(axes)) for index in (1, 2, 4)]
        shape = list(value.shape)
        for axis, start, end, step in zip(axes, *given, strict=True):
            if not isinstance(step, int) or start is None or end is None:
                shape[axis] = unknown_extent(node, 0, axis)
                continue
            count = positions(shape[axis], start, end, step, ranges_of(node))
            shape[axis] = unknown_extent(node, 0, axis) if count is None else count
        return [Inferred(value.dtype, tuple(shape), cls._content(value, axes, given))]

    @classmethod
    def _axes(cls, node: Node, rank: int) -> tuple[int, ...] | None:
        if node.input(3) is None:
            count = length_of(node.present_inputs[1])
            return tuple(range(count)) if isinstance(count, int) else None
        axes = integers(node.input(3))
        return None if axes is None else tuple(normalize_axis(axis, rank, node) for axis in axes)

    @classmethod
    def _given(cls, node: Node, index: int, count: int) -> tuple[Dim | None, ...]:
        value = node.input(index)
        if value is None:
            return (1,) * count  # only steps may be absent
        return contents(value) or (None,) * count

    @classmethod
    def _content(
        cls, value: Value, axes: Sequence[int], given: Sequence[Sequence[Dim | None]]
    ) -> tuple[Dim, ...] | None:
        array = content_array(value)
        numbers = all(isinstance(item, int) for items in given for item in items)
        if array is None or not numbers:
            return None
        starts, ends, steps = ([item for item in items if isinstance(item, int)] for items in given)
        return to_content(_sliced(array, axes, starts, ends, steps))

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Slice."""
        x = required(inputs, 0)
        starts, ends = required(inputs, 1).tolist(), required(inputs, 2).tolist()
        axes, steps = optional(inputs, 3), optional(inputs, 4)
        chosen = list(range(len(starts))) if axes is None else axes.tolist()
        strides = [1] * len(starts) if steps is None else steps.tolist()
        return [np.ascontiguousarray(_sliced(x, chosen, starts, ends, strides))]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return every form of start, end and step, in and out of range."""
        x = floats(3, 5, 8)
        last, first = np.iinfo(np.int64).max, np.iinfo(np.int64).min
        cases = {
            "plain": ((1, 2), (3, 4), (0, 1), (1, 1)),
            "negative": ((-4,), (-1,), (2,), (1,)),
            "to_end": ((1,), (last,), (1,), (1,)),
            "step": ((0,), (last,), (-1,), (3,)),
            "backwards": ((-1,), (first,), (1,), (-1,)),
            "backwards_step": ((6,), (-8,), (2,), (-2,)),
            "backwards_clamped": ((-99,), (first,), (1,), (-1,)),
            "backwards_beyond": ((99,), (-99,), (1,), (-2,)),
            "clamped": ((-99, 2), (99, 77), (0, 2), (1, 2)),
            "empty": ((4,), (2,), (1,), (1,)),
            "begin": ((0,), (2,), (1,), (1,)),
        }
        samples = [
            Sample((x, *(indices(*items) for items in case)), {}, (1, 2, 3, 4), name=name)
            for name, case in cases.items()
        ]
        return [
            *samples,
            Sample((x, indices(1), indices(2)), {}, (1, 2), name="no_axes"),
            Sample((x, indices(1), indices(2), indices(-1)), {}, (1, 2, 3), name="no_steps"),
            Sample((x, indices(1), indices(4), indices(1)), {}, (3,), name="dynamic"),
        ]


def _sliced(
    array: Array,
    axes: Sequence[int],
    starts: Sequence[int],
    ends: Sequence[int],
    steps: Sequence[int],
) -> Array:
    cut = [slice(None)] * array.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # Python reads -1 - extent and below as "before the first element" only through None
        beyond = step < 0 and end < -array.shape[axis]
        if step < 0:
            start = max(start, -array.shape[axis])  # ONNX begins at the first element then
        cut[axis] = slice(start, None if beyond else end, step)
    return array[tuple(cut)]


def positions(extent: Dim, start: Dim, end: Dim, step: int, ranges: Ranges) -> Dim | None:
    """Return how many elements a slice of an axis takes, or None where a sign is not known.

    Implements the clamping of ONNX Slice on symbolic extents: min and max stay in the result only
    where neither the declared ranges of the symbols nor ``extent >= 0`` decide them.
    """
    first, past = (_from_front(position, extent, ranges) for position in (start, end))
    if step < 0:
        return _positions_backwards(extent, (start, first), (end, past), step, ranges)
    if isinstance(end, int) and end >= LAST:
        past = extent
    if first is None or past is None:
        return None
    low, high = _clamped(first, extent, ranges), _clamped(past, extent, ranges)
    count = ceildiv(high - low, step)
    return count if low == 0 or high == extent else larger(count, 0, ranges)


def _clamped(position: Dim, extent: Dim, ranges: Ranges) -> Dim:
    """Return min(max(position, 0), extent), given that extent >= 0."""
    if at_least(0, position, ranges):
        return 0
    if at_least(position, extent, ranges):
        return extent
    positive = larger(position, 0, ranges)
    return positive if at_least(extent, position, ranges) else smaller(positive, extent, ranges)


def _positions_backwards(
    extent: Dim,
    start: tuple[Dim, Dim | None],
    end: tuple[Dim, Dim | None],
    step: int,
    ranges: Ranges,
) -> Dim | None:
    """Return the count for a negative step; positions lie between -1 and extent - 1."""
    (given_start, first), (given_end, past) = start, end
    if isinstance(given_start, int) and given_start >= LAST:
        first = extent - 1
    if isinstance(given_end, int) and given_end <= -LAST:
        past = -1
    if first is None or past is None:
        return None
    high = _clamped(larger(first, 0, ranges) + 1, extent, ranges) - 1
    low = _clamped(past + 1, extent, ranges) - 1
    count = ceildiv(high - low, -step)
    return count if low == -1 or high == extent - 1 else larger(count, 0, ranges)


def _from_front(position: Dim, extent: Dim, ranges: Ranges) -> Dim | None:
    """Return a position counted from the front, not clamped; None where its sign is not known."""
    low, high = bounds(position, ranges)
    if low >= 0:
        return position
    return position + extent if high < 0 else None


class Pad(Movement):
    """The input with `pads` (input 1) elements added before and after each of `axes` (input 3).

    `mode` "constant" adds input 2 (0 by default), "edge" repeats the border, "reflect" mirrors
    without the border, "wrap" continues periodically. Negative pads cut elements off.
    """

    name = "Pad"
    attributes: ClassVar[Mapping[str, Any]] = {"mode": "constant"}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the enlarged extents."""
        value, pads = node.present_inputs[0], contents(node.input(1))
        if value.shape is None:
            return [Inferred(value.dtype, None)]
        rank = len(value.shape)
        axes_value = node.input(3)
        axes = tuple(range(rank)) if axes_value is None else integers(axes_value)
        if pads is None or axes is None:
            return [Inferred(value.dtype, unknown_shape(node, rank))]
        if len(pads) != 2 * len(axes):
            raise ShapeError(f"{len(axes)} axes need 2 pads each, got {len(pads)}", where=str(node))
        shape = list(value.shape)
        for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
            position = normalize_axis(axis, rank, node)
            extent = shape[position] + before + after
            shape[position] = extent
            if isinstance(extent, int) and extent < 0:
                raise ShapeError(f"pads {pads} leave a negative extent", where=str(node))
        return [Inferred(value.dtype, tuple(shape))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Cut by negative pads first, then add."""
        x, pads = required(inputs, 0), required(inputs, 1).tolist()
        fill, axes = optional(inputs, 2), optional(inputs, 3)
        chosen = range(x.ndim) if axes is None else axes.tolist()
        pairs = [(0, 0)] * x.ndim
        for axis, before, after in zip(
            chosen, pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True
        ):
            pairs[axis] = (before, after)
        cut = tuple(
            slice(max(0, -before), extent - max(0, -after))
            for extent, (before, after) in zip(x.shape, pairs, strict=True)
        )
        widths = [(max(0, before), max(0, after)) for before, after in pairs]
        if attributes["mode"] != "constant":
            return [np.pad(x[cut], widths, mode=attributes["mode"])]
        return [_filled(x[cut], widths, np.zeros((), x.dtype) if fill is None else fill)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return every mode, a fill value, chosen axes, and negative pads."""
        x, pads = floats(2, 3, 4), indices(0, 1, 2, 1, 0, 3)
        inner = indices(0, 1, 2, 0, 1, 3)
        three = f32(3.5)
        return [
            Sample((x, pads), {}, (1,), name="zero"),
            Sample((x, pads, three), {}, (1, 2), name="fill"),
            Sample((x, indices(1, 2), three, indices(-1)), {}, (1, 2, 3), name="axes"),
            Sample((x, indices(1, 2), None, indices(1)), {}, (1, 3), name="axes_zero"),
            Sample((x, indices(0, -1, 2, 0, 0, -1)), {}, (1,), name="negative"),
            Sample((x, pads), {"mode": "edge"}, (1,), name="edge"),
            Sample((x, inner), {"mode": "reflect"}, (1,), name="reflect"),
            Sample((x, inner), {"mode": "wrap"}, (1,), name="wrap"),
            Sample((whole(2, 3), indices(1, 0, 0, 1)), {}, (1,), name="i64"),
            Sample((x, pads), name="dynamic"),
        ]


def _filled(array: Array, widths: Sequence[tuple[int, int]], fill: Array) -> Array:
    sizes = [n + before + after for n, (before, after) in zip(array.shape, widths, strict=True)]
    result = np.full(sizes, fill.reshape(()), dtype=array.dtype)
    inside = tuple(
        slice(before, before + n) for n, (before, _) in zip(array.shape, widths, strict=True)
    )
    result[inside] = array
    return result


class Tile(Movement):
    """The input repeated `repeats` (input 1) times along every axis."""

    name = "Tile"

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the extents multiplied by the repeats."""
        value, repeats = node.present_inputs[0], contents(node.input(1))
        if value.shape is None:
            return [Inferred(value.dtype, None)]
        if repeats is None:
            return [Inferred(value.dtype, unknown_shape(node, len(value.shape)))]
        if len(repeats) != len(value.shape):
            raise ShapeError(
                f"{len(value.shape)} axes need as many repeats, got {len(repeats)}", where=str(node)
            )
        shape = tuple(dim * times for dim, times in zip(value.shape, repeats, strict=True))
        return [Inferred(value.dtype, shape, cls._content(node, value, shape))]

    @classmethod
    def _content(cls, node: Node, value: Value, shape: Shape) -> tuple[Dim, ...] | None:
        array, repeats, sizes = content_array(value), integers(node.input(1)), static_shape(shape)
        if array is None or repeats is None or sizes is None or math.prod(sizes) > MAX_CONTENT:
            return None
        return to_content(np.tile(array, repeats))

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Repeat."""
        return [np.tile(required(inputs, 0), tuple(required(inputs, 1).tolist()))]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return repeats of one and more, and repeats known only later."""
        x = floats(2, 3)
        return [
            Sample((x, indices(2, 1)), {}, (1,), name="first"),
            Sample((x, indices(2, 3)), {}, (1,), name="both"),
            Sample((whole(3), indices(2)), {}, (1,), name="i64"),
            Sample((x, indices(1, 2)), name="dynamic"),
        ]
