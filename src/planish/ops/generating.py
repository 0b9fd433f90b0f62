"""Operators that make tensors from little: constants, ranges, masks, one-hot codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.dtypes import I64, DType, dtype_of
from planish.ir.graph import Node
from planish.ir.shape import Dim, Shape, ceildiv, static_shape
from planish.ops.cast import dtype_attribute
from planish.ops.content import MAX_CONTENT, contents, integers, larger, ranges_of
from planish.ops.numeric import optional, required
from planish.ops.op import (
    Array,
    Attributes,
    Inferred,
    Inputs,
    Op,
    Sample,
    normalize_axis,
    unknown_extent,
)
from planish.ops.sample_data import f32, floats, indices, whole
from planish.ops.shape_ops import Movement, length_of, unknown_shape


class Constant(Op):
    """A tensor known at build time; exactly one of the `value...` attributes is set."""

    name = "Constant"
    attributes: ClassVar[Mapping[str, Any]] = {
        "value": None,
        "value_float": None,
        "value_floats": None,
        "value_int": None,
        "value_ints": None,
        "value_string": None,
        "value_strings": None,
    }
    operations_per_element = 0

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the tensor's type and, where it is small, its contents."""
        array = cls.array(node.attributes)
        content = None
        if array.size <= MAX_CONTENT and dtype_of(array).is_integer:
            content = tuple(int(item) for item in array.reshape(-1).tolist())
        return [Inferred(dtype_of(array), array.shape, content)]

    @classmethod
    def array(cls, attributes: Attributes) -> Array:
        """Return the tensor; raise ShapeError where no attribute holds one."""
        for name, dtype in (
            ("value", None),
            ("value_float", np.float32),
            ("value_floats", np.float32),
            ("value_int", np.int64),
            ("value_ints", np.int64),
            ("value_string", object),
            ("value_strings", object),
        ):
            if attributes.get(name) is not None:
                return np.asarray(attributes[name], dtype=dtype)
        raise ShapeError("Constant has no value", fix="set one of its value attributes")

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Return the tensor."""
        return [cls.array(attributes)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return every attribute."""
        return [
            Sample((), {"value": floats(2, 3)}, name="tensor"),
            Sample((), {"value_float": 1.5}, name="float"),
            Sample((), {"value_floats": (1.5, 2.5)}, name="floats"),
            Sample((), {"value_int": 7}, name="int"),
            Sample((), {"value_ints": (7, -8)}, name="ints"),
        ]


class ConstantOfShape(Op):
    """A tensor of the shape in input 0, filled with the one element of `value` (0.0 by default)."""

    name = "ConstantOfShape"
    attributes: ClassVar[Mapping[str, Any]] = {"value": None}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the shape that the input's contents say."""
        fill = cls._fill(node.attributes)
        shape = contents(node.present_inputs[0])
        if shape is None:
            rank = length_of(node.present_inputs[0])
            return [Inferred(dtype_of(fill), unknown_shape(node, rank))]
        return [Inferred(dtype_of(fill), tuple(shape), cls._content(fill, tuple(shape)))]

    @classmethod
    def _content(cls, fill: Array, shape: Shape) -> tuple[Dim, ...] | None:
        sizes = static_shape(shape)
        number = float(fill.reshape(-1)[0])
        if sizes is None or math.prod(sizes) > MAX_CONTENT or number != int(number):
            return None
        return (int(number),) * math.prod(sizes)

    @classmethod
    def _fill(cls, attributes: Attributes) -> Array:
        value = attributes["value"]
        return np.zeros(1, np.float32) if value is None else np.asarray(value)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Fill."""
        fill = cls._fill(attributes)
        shape = tuple(required(inputs, 0).tolist())
        return [np.full(shape, fill.reshape(-1)[0], dtype=fill.dtype)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return the default and given fills, a scalar, and a shape known only later."""
        return [
            Sample((indices(2, 3),), {}, (0,), name="zeros"),
            Sample((indices(3),), {"value": indices(-1)}, (0,), name="i64"),
            Sample((indices(2, 2),), {"value": np.array([True])}, (0,), name="bool"),
            Sample((indices(),), {"value": f32([2.5])}, (0,), name="scalar"),
            Sample((indices(2, 3),), name="dynamic"),
        ]


class Range(Op):
    """Numbers from `start` (input 0) up to but without `limit` in steps of `delta`."""

    name = "Range"

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the number of steps, and the numbers where there are few."""
        dtype = node.present_inputs[0].dtype
        numbers = [contents(value) for value in node.present_inputs]
        if all(number is not None and len(number) == 1 for number in numbers):
            start, limit, delta = (number[0] for number in numbers if number)
            return [cls._of_extents(node, dtype, start, limit, delta)]
        if all(value.is_constant for value in node.present_inputs):
            arrays = [value.array for value in node.present_inputs]
            return [Inferred(dtype, cls.reference(arrays, {})[0].shape)]
        return [Inferred(dtype, unknown_shape(node, 1))]

    @classmethod
    def _of_extents(cls, node: Node, dtype: DType, start: Dim, limit: Dim, delta: Dim) -> Inferred:
        if not isinstance(delta, int) or delta == 0:
            return Inferred(dtype, unknown_shape(node, 1))
        span = limit - start if delta > 0 else start - limit
        count = larger(ceildiv(span, abs(delta)), 0, ranges_of(node))
        if not isinstance(count, int) or count > MAX_CONTENT:
            return Inferred(dtype, (count,))
        return Inferred(dtype, (count,), tuple(start + step * delta for step in range(count)))

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Count, then multiply: start + i * delta."""
        start, limit, delta = (required(inputs, index).reshape(()) for index in range(3))
        count = max(0, math.ceil((float(limit) - float(start)) / float(delta)))
        steps = np.arange(count).astype(start.dtype)
        return [np.asarray(start + steps * delta).astype(start.dtype)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return both directions, floats, an empty range, and limits known only later."""

        def of(*numbers: float, dtype: Any = np.int64) -> tuple[Array, ...]:
            return tuple(np.array(number, dtype=dtype) for number in numbers)

        return [
            Sample(of(0, 7, 1), {}, (0, 1, 2), name="plain"),
            Sample(of(2, 9, 3), {}, (0, 1, 2), name="step"),
            Sample(of(9, 2, -2), {}, (0, 1, 2), name="down"),
            Sample(of(0, 1, 0.25, dtype=np.float32), {}, (0, 1, 2), name="f32"),
            Sample(of(5, 2, 1), {}, (0, 1, 2), name="empty"),
            Sample(of(1, 6, 2), name="dynamic"),
        ]


class OneHot(Op):
    """One-hot codes of `indices` (input 0) along a new `axis` of extent `depth` (input 1).

    Input 2 holds the value for "off" and for "on"; indices out of range give no "on".
    """

    name = "OneHot"
    attributes: ClassVar[Mapping[str, Any]] = {"axis": -1}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the indices' shape with the new axis."""
        where, depth_value, values = node.present_inputs
        if where.shape is None:
            return [Inferred(values.dtype, None)]
        axis = normalize_axis(node.attributes["axis"], len(where.shape) + 1, node)
        depth = contents(depth_value)
        extent = unknown_extent(node, 0, axis) if depth is None else depth[0]
        return [Inferred(values.dtype, (*where.shape[:axis], extent, *where.shape[axis:]))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Compare every index with every class."""
        where, depth_value, values = (required(inputs, index) for index in range(3))
        depth, axis = int(depth_value.reshape(-1)[0]), attributes["axis"]
        axis = axis + where.ndim + 1 if axis < 0 else axis
        wanted = where.astype(np.int64)
        wanted = np.where(wanted < 0, wanted + depth, wanted)
        shape = [depth if position == axis else 1 for position in range(where.ndim + 1)]
        hit = np.expand_dims(wanted, axis) == np.arange(depth).reshape(shape)
        return [np.where(hit, values[1], values[0]).astype(values.dtype)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return last and first axis, negative and excessive indices, and a late depth."""
        where, depth, values = whole(2, 3, low=-4, high=6), np.array(4), f32([0.0, 1.0])
        return [
            Sample((where, depth, values), {}, (1, 2), name="last"),
            Sample((where, depth, values), {"axis": 0}, (1, 2), name="first"),
            Sample((where, depth, f32([-1.0, 2.5])), {"axis": 1}, name="dynamic"),
        ]


class EyeLike(Op):
    """A matrix of the input's shape with ones on diagonal `k`, of type `dtype` or the input's."""

    name = "EyeLike"
    attributes: ClassVar[Mapping[str, Any]] = {"dtype": None, "k": 0}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the input's shape."""
        value, dtype = node.present_inputs[0], node.attributes["dtype"]
        return [Inferred(value.dtype if dtype is None else dtype_attribute(dtype), value.shape)]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Return the matrix."""
        x, dtype = required(inputs, 0), attributes["dtype"]
        result = x.dtype if dtype is None else dtype_attribute(dtype).numpy
        rows, columns = x.shape
        return [np.eye(rows, columns, k=attributes["k"]).astype(result)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return the main and another diagonal, and another type."""
        x = floats(3, 4)
        return [
            Sample((x,)),
            Sample((x,), {"k": 1}, name="above"),
            Sample((x,), {"k": -1, "dtype": I64.onnx}, name="below_i64"),
        ]


class Trilu(Movement):
    """The upper (or lower, where `upper` is 0) triangle of matrices, zeros elsewhere.

    Input 1 shifts the diagonal up.
    """

    name = "Trilu"
    attributes: ClassVar[Mapping[str, Any]] = {"upper": 1}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the input's type."""
        value = node.present_inputs[0]
        return [Inferred(value.dtype, value.shape)]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Keep the triangle."""
        x, shift = required(inputs, 0), optional(inputs, 1)
        k = 0 if shift is None else int(shift.reshape(-1)[0])
        rows, columns = np.indices(x.shape[-2:], sparse=True)
        keep = columns - rows >= k if attributes["upper"] else columns - rows <= k
        return [np.where(keep, x, np.zeros((), x.dtype))]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return both triangles and shifted diagonals of batches."""
        x = floats(2, 3, 4)
        return [
            Sample((x,)),
            Sample((x,), {"upper": 0}, name="lower"),
            Sample((x, np.array(1)), {}, (1,), name="shifted"),
            Sample((whole(4, 4), np.array(-1)), {"upper": 0}, (1,), name="lower_shifted"),
        ]


def axis_of(node: Node, value_index: int, rank: int) -> int | None:
    """Return the axis that a one-element input holds, or None where it is not constant."""
    axes = integers(node.input(value_index))
    return None if axes is None else normalize_axis(axes[0], rank, node)


class Cumulative(Op):
    """Base: running totals along the axis in input 1.

    `reverse` runs from the end; `exclusive` leaves out the element itself.
    """

    attributes: ClassVar[Mapping[str, Any]] = {"exclusive": 0, "reverse": 0}
    start: ClassVar[int] = 0

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the input's type; check a constant axis."""
        value = node.present_inputs[0]
        if value.shape is not None:
            axis_of(node, 1, len(value.shape))
        return [Inferred(value.dtype, value.shape)]

    @classmethod
    def run(cls, array: Array, axis: int) -> Array:
        """Return the running totals along `axis`, the element itself included."""
        return np.cumsum(array, axis=axis, dtype=array.dtype)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Accumulate, flipped where `reverse` is set."""
        x, axis = required(inputs, 0), int(required(inputs, 1).reshape(-1)[0])
        wide = x.astype(np.float32) if dtype_of(x).is_float and x.dtype.itemsize < 4 else x
        ordered = np.flip(wide, axis) if attributes["reverse"] else wide
        total = cls.run(ordered, axis)
        if attributes["exclusive"]:
            total = np.roll(total, 1, axis)
            first = [slice(None)] * x.ndim
            first[axis] = slice(0, 1)
            total[tuple(first)] = cls.start
        total = np.flip(total, axis) if attributes["reverse"] else total
        return [np.ascontiguousarray(total.astype(x.dtype))]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return both axes and every combination of flags."""
        x = floats(3, 4)
        flags = [{"exclusive": e, "reverse": r} for e in (0, 1) for r in (0, 1)]
        return [
            *(Sample((x, np.array(1)), each, (1,)) for each in flags),
            Sample((x, np.array(-2)), {}, (1,), name="first_axis"),
            Sample((whole(2, 3, low=1), np.array(1)), {"exclusive": 1}, name="i64_dynamic"),
        ]


class CumSum(Cumulative):
    """Running sums along an axis."""

    name = "CumSum"


class CumProd(Cumulative):
    """Running products along an axis."""

    name = "CumProd"
    start = 1

    @classmethod
    def run(cls, array: Array, axis: int) -> Array:
        """Return the running products along `axis`."""
        return np.cumprod(array, axis=axis, dtype=array.dtype)
