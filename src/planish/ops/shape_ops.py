"""Operators on shapes: Shape and Size read them, the others rearrange a tensor without arithmetic.

Reshape, Squeeze, Unsqueeze, Flatten, Expand and Transpose are views: memory can be shared. All of
them carry symbolic contents along (see content.py), so that shape arithmetic resolves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.dtypes import I64
from planish.ir.graph import Node, Value
from planish.ir.requirement import Requirement, broadcasts, equal, equal_counts
from planish.ir.shape import Dim, Shape, product, static_shape
from planish.ops.content import (
    MAX_CONTENT,
    content_array,
    contents,
    divide_products,
    integers,
    to_content,
)
from planish.ops.numeric import optional, required
from planish.ops.op import (
    Array,
    Attributes,
    Inferred,
    Inputs,
    Op,
    Sample,
    broadcast,
    normalize_axis,
    unknown_extent,
)
from planish.ops.sample_data import floats, indices, whole


class Movement(Op):
    """Base: elements change places, nothing is computed."""

    operations_per_element = 0


def moved_content(value: Value, shape: Shape) -> tuple[Dim, ...] | None:
    """Return the contents of `value` for a result with the same elements in the same order."""
    return contents(value) if static_shape(shape) is not None else None


def unknown_shape(node: Node, rank: Dim | None) -> Shape | None:
    """Return `rank` extents that only the data decides, or None where the rank is open too."""
    if not isinstance(rank, int):
        return None
    return tuple(unknown_extent(node, 0, axis) for axis in range(rank))


def length_of(value: Value) -> Dim | None:
    """Return the number of elements of a one-dimensional tensor, or None."""
    return value.shape[0] if value.shape is not None and len(value.shape) == 1 else None


class Shape_(Op):  # noqa: N801 (the name Shape is the type of shapes)
    """Extents `start` to `end` (all by default) of the input, as int64."""

    name = "Shape"
    attributes: ClassVar[Mapping[str, Any]] = {"start": 0, "end": None}
    operations_per_element = 0

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the extents as contents."""
        shape = node.present_inputs[0].shape
        if shape is None:
            return [Inferred(I64, (unknown_extent(node, 0, 0),))]
        extents = shape[node.attributes["start"] : node.attributes["end"]]
        return [Inferred(I64, (len(extents),), tuple(extents))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Return the extents; Python's slice clamps as ONNX does."""
        shape = required(inputs, 0).shape[attributes["start"] : attributes["end"]]
        return [np.array(shape, dtype=np.int64)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return whole and partial shapes, a scalar's among them."""
        x = floats(2, 3, 4)
        return [
            Sample((x,)),
            Sample((x,), {"start": 1}, name="start"),
            Sample((x,), {"start": -2, "end": -1}, name="negative"),
            Sample((x,), {"start": 1, "end": 9}, name="clamped"),
            Sample((floats(),), name="scalar"),
        ]


class Size(Op):
    """Number of elements of the input, as an int64 scalar."""

    name = "Size"
    operations_per_element = 0

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the product of the extents as contents."""
        shape = node.present_inputs[0].shape
        return [Inferred(I64, (), None if shape is None else (product(shape),))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Return the size."""
        return [np.array(required(inputs, 0).size, dtype=np.int64)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return a tensor, a scalar and an empty tensor."""
        return [
            Sample((floats(2, 3, 4),)),
            Sample((floats(),), name="scalar"),
            Sample((floats(2, 0),), name="empty"),
        ]


class Reshape(Movement):
    """The same elements in another shape (input 1).

    An extent of 0 copies the input's (unless `allowzero` is 1), one of -1 takes what remains.
    """

    name = "Reshape"
    attributes: ClassVar[Mapping[str, Any]] = {"allowzero": 0}
    view = True

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the target shape, with symbolic extents where contents are symbolic."""
        value, target = node.present_inputs
        wanted = contents(target)
        if wanted is None:
            return [Inferred(value.dtype, unknown_shape(node, length_of(target)))]
        shape = cls._resolve(node, value.shape, wanted)
        return [Inferred(value.dtype, shape, moved_content(value, shape))]

    @classmethod
    def _resolve(cls, node: Node, shape: Shape | None, wanted: Sequence[Dim]) -> Shape:
        result: list[Dim] = []
        open_axis = None
        for axis, dim in enumerate(wanted):
            if dim == -1:
                if open_axis is not None:
                    raise ShapeError("Reshape has more than one extent of -1", where=str(node))
                open_axis = axis
            elif dim == 0 and not node.attributes["allowzero"]:
                if shape is not None and axis >= len(shape):
                    raise ShapeError(
                        f"Reshape copies extent {axis} of {list(shape)}", where=str(node)
                    )
                dim = unknown_extent(node, 0, axis) if shape is None else shape[axis]
            result.append(dim)
        if open_axis is not None:
            rest = [*result[:open_axis], *result[open_axis + 1 :]]
            unknown = unknown_extent(node, 0, open_axis)
            result[open_axis] = unknown if shape is None else cls._remainder(node, shape, rest)
        cls._check(node, shape, tuple(result))
        return tuple(result)

    @classmethod
    def _remainder(cls, node: Node, shape: Shape, rest: Sequence[Dim]) -> Dim:
        if any(dim == 0 for dim in rest):
            return 0
        return divide_products(shape, rest)

    @classmethod
    def _check(cls, node: Node, shape: Shape | None, result: Shape) -> None:
        before = None if shape is None else static_shape(shape)
        after = static_shape(result)
        if before is not None and after is not None and math.prod(before) != math.prod(after):
            raise ShapeError(
                f"cannot reshape {list(before)} ({math.prod(before)} elements) to {list(after)} "
                f"({math.prod(after)} elements)",
                where=str(node),
            )

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that the number of elements stays."""
        before, after = node.present_inputs[0].shape, node.outputs[0].shape
        return [] if before is None or after is None else equal_counts(before, after)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Reshape in row-major order."""
        x, target = required(inputs, 0), required(inputs, 1).tolist()
        if not attributes["allowzero"]:
            target = [x.shape[axis] if dim == 0 else dim for axis, dim in enumerate(target)]
        if -1 in target and x.size == 0:
            known = math.prod(dim for dim in target if dim != -1)
            target = [0 if dim == -1 and not known else dim for dim in target]
        return [x.reshape(target)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return plain shapes, 0 and -1, a scalar, `allowzero`, and a shape known only later."""
        x = floats(2, 3, 4)
        return [
            Sample((x, indices(4, 6)), {}, (1,), name="plain"),
            Sample((x, indices(0, -1)), {}, (1,), name="copy_and_rest"),
            Sample((x, indices(2, -1, 2)), {}, (1,), name="rest"),
            Sample((floats(1), indices()), {}, (1,), name="to_scalar"),
            Sample((floats(), indices(1, 1)), {}, (1,), name="from_scalar"),
            Sample((floats(0, 3), indices(3, 0)), {"allowzero": 1}, (1,), name="allowzero"),
            Sample((whole(6), indices(3, 2)), name="dynamic"),
        ]


class Squeeze(Movement):
    """The input without the extents of 1 at `axes` (input 1), or without all of them."""

    name = "Squeeze"
    view = True

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the remaining extents; without axes, symbolic extents are taken to stay."""
        value, axes_value = node.present_inputs[0], node.input(1)
        axes = integers(axes_value)
        if value.shape is None or (axes_value is not None and axes is None):
            return [Inferred(value.dtype, cls._unknown(node, value, axes_value))]
        rank = len(value.shape)
        if axes is None:
            axes = tuple(axis for axis, dim in enumerate(value.shape) if dim == 1)
        dropped = {normalize_axis(axis, rank, node) for axis in axes}
        for axis in sorted(dropped):
            dim = value.shape[axis]
            if isinstance(dim, int) and dim != 1:
                raise ShapeError(f"cannot squeeze axis {axis} of extent {dim}", where=str(node))
        shape = tuple(dim for axis, dim in enumerate(value.shape) if axis not in dropped)
        return [Inferred(value.dtype, shape, moved_content(value, shape))]

    @classmethod
    def _unknown(cls, node: Node, value: Value, axes: Value | None) -> Shape | None:
        count = None if axes is None else length_of(axes)
        if value.shape is None or not isinstance(count, int):
            return None
        return unknown_shape(node, len(value.shape) - count)

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that the extents that go are 1."""
        before, axes = node.present_inputs[0].shape, integers(node.input(1))
        if before is None or axes is None:
            return []
        return [each for axis in axes for each in equal(before[axis], 1)]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Drop the axes."""
        x, axes = required(inputs, 0), optional(inputs, 1)
        return [np.squeeze(x, None if axes is None else tuple(axes.reshape(-1).tolist()))]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return given axes, negative ones, and all."""
        x = floats(1, 3, 1, 4)
        return [
            Sample((x, indices(0)), {}, (1,), name="one"),
            Sample((x, indices(-2, 0)), {}, (1,), name="two"),
            Sample((x,), name="all"),
            Sample((floats(1), indices(0)), {}, (1,), name="to_scalar"),
        ]


class Unsqueeze(Movement):
    """The input with extents of 1 inserted at `axes` (input 1), counted in the output."""

    name = "Unsqueeze"
    view = True

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the longer shape."""
        value, axes_value = node.present_inputs
        axes = integers(axes_value)
        if value.shape is None:
            return [Inferred(value.dtype, None)]
        if axes is None:
            count = length_of(axes_value)
            rank = count + len(value.shape) if isinstance(count, int) else None
            return [Inferred(value.dtype, unknown_shape(node, rank))]
        rank = len(value.shape) + len(axes)
        inserted = {normalize_axis(axis, rank, node) for axis in axes}
        if len(inserted) < len(axes):
            raise ShapeError(f"Unsqueeze repeats an axis: {list(axes)}", where=str(node))
        rest = iter(value.shape)
        shape = tuple(1 if axis in inserted else next(rest) for axis in range(rank))
        return [Inferred(value.dtype, shape, moved_content(value, shape))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Insert the axes."""
        axes = tuple(required(inputs, 1).reshape(-1).tolist())
        return [np.expand_dims(required(inputs, 0), axes)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return one axis, several, negative ones, and a scalar."""
        x = floats(3, 4)
        return [
            Sample((x, indices(0)), {}, (1,), name="one"),
            Sample((x, indices(0, 3)), {}, (1,), name="two"),
            Sample((x, indices(-1, 1)), {}, (1,), name="negative"),
            Sample((floats(), indices(0)), {}, (1,), name="scalar"),
        ]


class Flatten(Movement):
    """A matrix: the extents before `axis` multiplied, and those from it on."""

    name = "Flatten"
    attributes: ClassVar[Mapping[str, Any]] = {"axis": 1}
    view = True

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return both products."""
        value, axis = node.present_inputs[0], node.attributes["axis"]
        if value.shape is None:
            return [Inferred(value.dtype, unknown_shape(node, 2))]
        rank = len(value.shape)
        if not -rank <= axis <= rank:
            raise ShapeError(f"axis {axis} is out of range for rank {rank}", where=str(node))
        axis = axis + rank if axis < 0 else axis
        shape = (product(value.shape[:axis]), product(value.shape[axis:]))
        return [Inferred(value.dtype, shape, moved_content(value, shape))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Reshape to a matrix."""
        x, axis = required(inputs, 0), attributes["axis"]
        axis = axis + x.ndim if axis < 0 else axis
        return [x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return every kind of axis."""
        x = floats(2, 3, 4)
        return [
            Sample((x,)),
            Sample((x,), {"axis": 0}, name="first"),
            Sample((x,), {"axis": 3}, name="last"),
            Sample((x,), {"axis": -1}, name="negative"),
        ]


class Expand(Movement):
    """The input broadcast against a shape (input 1); extents of 1 on either side give way."""

    name = "Expand"
    view = True

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the broadcast of the input's shape and the contents of input 1."""
        value, target = node.present_inputs
        wanted = contents(target)
        if value.shape is None:
            return [Inferred(value.dtype, None)]
        if wanted is None:
            count = length_of(target)
            rank = max(count, len(value.shape)) if isinstance(count, int) else None
            return [Inferred(value.dtype, unknown_shape(node, rank))]
        shape = broadcast([value.shape, wanted], str(node))
        return [Inferred(value.dtype, shape, cls._content(value, shape))]

    @classmethod
    def _content(cls, value: Value, shape: Shape) -> tuple[Dim, ...] | None:
        array, sizes = content_array(value), static_shape(shape)
        if array is None or sizes is None or math.prod(sizes) > MAX_CONTENT:
            return None
        return to_content(np.broadcast_to(array, sizes))

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that the input broadcasts."""
        value, target = node.present_inputs
        wanted, result = contents(target), node.outputs[0].shape
        if value.shape is None or wanted is None or result is None:
            return []
        return broadcasts([value.shape, wanted], result)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Broadcast, as a copy."""
        x = required(inputs, 0)
        shape = np.broadcast_shapes(x.shape, tuple(required(inputs, 1).tolist()))
        return [np.broadcast_to(x, shape).copy()]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return targets longer, shorter, and smaller than the input's shape."""
        x = floats(3, 1)
        return [
            Sample((x, indices(2, 3, 4)), {}, (1,), name="longer"),
            Sample((x, indices(5)), {}, (1,), name="shorter"),
            Sample((x, indices(1, 1)), {}, (1,), name="ones"),
            Sample((floats(), indices(2, 3)), {}, (1,), name="scalar"),
            Sample((whole(3, 1), indices(2, 1, 4)), name="dynamic"),
        ]


class Transpose(Movement):
    """Axes in another order: axis i of the output is axis `perm[i]` of the input."""

    name = "Transpose"
    attributes: ClassVar[Mapping[str, Any]] = {"perm": None}
    view = True

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the permuted extents."""
        value, given = node.present_inputs[0], node.attributes["perm"]
        if value.shape is None:
            return [
                Inferred(value.dtype, unknown_shape(node, None if given is None else len(given)))
            ]
        order = tuple(reversed(range(len(value.shape)))) if given is None else tuple(given)
        if sorted(order) != list(range(len(value.shape))):
            raise ShapeError(
                f"perm {list(order)} is no permutation of {len(value.shape)} axes", where=str(node)
            )
        array = content_array(value)
        content = None if array is None else to_content(array.transpose(order))
        return [Inferred(value.dtype, tuple(value.shape[axis] for axis in order), content)]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Permute the axes."""
        return [np.transpose(required(inputs, 0), attributes["perm"])]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return the default order and others."""
        x = floats(2, 3, 4)
        return [
            Sample((x,)),
            Sample((x,), {"perm": (0, 2, 1)}, name="last_two"),
            Sample((x,), {"perm": (1, 2, 0)}, name="rotate"),
            Sample((whole(2, 3, dtype=np.uint8),), {"perm": (1, 0)}, name="u8"),
        ]
