"""Operators whose result depends on an order or on which elements are not zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.dtypes import I64
from planish.ir.graph import Node
from planish.ir.requirement import Requirement, at_most
from planish.ir.shape import Dim, product
from planish.ops.content import contents
from planish.ops.numeric import required, widen
from planish.ops.op import (
    Array,
    Attributes,
    Cost,
    Inferred,
    Inputs,
    Op,
    Sample,
    bytes_of,
    normalize_axis,
    unknown_extent,
)
from planish.ops.sample_data import f32, floats, indices, truths, whole


class ArgExtreme(Op):
    """Base: position of an extreme along `axis`; of equal ones the first, or the last."""

    attributes: ClassVar[Mapping[str, Any]] = {"axis": 0, "keepdims": 1, "select_last_index": 0}
    find: ClassVar[Any] = None

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return int64 positions; the axis becomes 1, or goes."""
        shape = node.present_inputs[0].shape
        if shape is None:
            return [Inferred(I64, None)]
        axis = normalize_axis(node.attributes["axis"], len(shape), node)
        kept = (1,) if node.attributes["keepdims"] else ()
        return [Inferred(I64, (*shape[:axis], *kept, *shape[axis + 1 :]))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Search, in a flipped tensor for the last of equals."""
        x, axis = widen(required(inputs, 0)), attributes["axis"]
        keep = bool(attributes["keepdims"])
        if attributes["select_last_index"]:
            found = x.shape[axis] - 1 - cls.find(np.flip(x, axis), axis=axis, keepdims=keep)
        else:
            found = cls.find(x, axis=axis, keepdims=keep)
        return [np.asarray(found, dtype=np.int64)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return axes, keepdims, and equal elements."""
        x = whole(3, 4, 5, low=0, high=4, dtype=np.float32)
        return [
            Sample((x,)),
            Sample((x,), {"axis": -1, "keepdims": 0}, name="last_axis"),
            Sample((x,), {"axis": 1, "select_last_index": 1}, name="last_of_equals"),
            Sample((whole(3, 4, dtype=np.int32),), {"axis": 1}, name="i32"),
        ]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Return one comparison an input element."""
        return Cost(product(node.present_inputs[0].shape or ()), bytes_of(node))


class ArgMax(ArgExtreme):
    """Position of the largest element along `axis`."""

    name = "ArgMax"
    find = np.argmax


class ArgMin(ArgExtreme):
    """Position of the smallest element along `axis`."""

    name = "ArgMin"
    find = np.argmin


class TopK(Op):
    """The k (input 1) largest or smallest elements along `axis`, and their positions.

    Of equal elements the one with the lower position comes first. The result is sorted also where
    `sorted` is 0 (that order is unspecified).
    """

    name = "TopK"
    attributes: ClassVar[Mapping[str, Any]] = {"axis": -1, "largest": 1, "sorted": 1}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return values and positions with the extent k along the axis."""
        value, count = node.present_inputs
        if value.shape is None:
            return [Inferred(value.dtype, None), Inferred(I64, None)]
        axis = normalize_axis(node.attributes["axis"], len(value.shape), node)
        known = contents(count)
        k: Dim = unknown_extent(node, 0, axis) if known is None else known[0]
        extent = value.shape[axis]
        if isinstance(k, int) and isinstance(extent, int) and not 0 <= k <= extent:
            raise ShapeError(f"cannot take {k} of {extent} elements", where=str(node))
        shape = (*value.shape[:axis], k, *value.shape[axis + 1 :])
        return [Inferred(value.dtype, shape), Inferred(I64, shape)]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that k is no more than there is."""
        x, result, axis = (
            node.present_inputs[0].shape,
            node.outputs[0].shape,
            node.attributes["axis"],
        )
        return [] if not x or not result else at_most(result[axis], x[axis])

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Sort stably and keep the first k."""
        x, count, axis = required(inputs, 0), required(inputs, 1), attributes["axis"]
        wide = widen(x)
        if attributes["largest"]:
            # a stable descending sort: sort the flipped tensor ascending, flip the result back
            flipped = np.flip(np.argsort(np.flip(wide, axis), axis=axis, kind="stable"), axis)
            order = x.shape[axis] - 1 - flipped
        else:
            order = np.argsort(wide, axis=axis, kind="stable")
        order = np.take(order, np.arange(int(count.reshape(-1)[0])), axis=axis)
        return [np.take_along_axis(x, order, axis), order.astype(np.int64)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return both directions, other axes, equal elements, and a k known only later."""
        x = floats(3, 4, 6)
        ties = f32([[1, 3, 3, 2, 3], [0, 0, 5, 5, 0]])
        return [
            Sample((x, indices(2)), {}, (1,), outputs=2, name="largest"),
            Sample((x, indices(3)), {"axis": 1, "largest": 0}, (1,), outputs=2, name="smallest"),
            Sample((ties, indices(3)), {}, (1,), outputs=2, name="ties"),
            Sample((whole(2, 5), indices(5)), {"axis": -1}, (1,), outputs=2, name="i64_all"),
            Sample((x, indices(1)), {}, outputs=2, name="dynamic"),
        ]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Return eight operations an input element (a partial sort)."""
        return Cost(product(node.present_inputs[0].shape or ()) * 8, bytes_of(node))


class NonZero(Op):
    """Positions of the elements that are not zero: one row an axis, one column an element."""

    name = "NonZero"

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return as many rows as axes; how many columns only the data says."""
        shape = node.present_inputs[0].shape
        rows: Dim = unknown_extent(node, 0, 0) if shape is None else max(1, len(shape))
        return [Inferred(I64, (rows, unknown_extent(node, 0, 1)))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Search in row-major order."""
        return [np.array(np.nonzero(np.atleast_1d(required(inputs, 0))), dtype=np.int64)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return booleans, floats, and nothing found."""
        return [
            Sample((truths(3, 4),), name="bool"),
            Sample((whole(2, 3, 4, low=-1, high=2, dtype=np.float32),), name="f32"),
            Sample((np.zeros((2, 3), dtype=np.int64),), name="none"),
        ]


class Compress(Op):
    """The slices along `axis` where input 1 is true, or the flattened elements without an axis."""

    name = "Compress"
    attributes: ClassVar[Mapping[str, Any]] = {"axis": None}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the shape; how much is kept is known for a constant condition only."""
        value, condition = node.present_inputs
        axis = node.attributes["axis"]
        if value.shape is None and axis is not None:
            return [Inferred(value.dtype, None)]
        place = 0 if axis is None else normalize_axis(axis, len(value.shape or ()), node)
        kept: Dim = unknown_extent(node, 0, place)
        if condition.is_constant:
            kept = int(np.count_nonzero(condition.array))
        if axis is None or value.shape is None:
            return [Inferred(value.dtype, (kept,))]
        return [Inferred(value.dtype, (*value.shape[:place], kept, *value.shape[place + 1 :]))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Keep where true; a condition shorter than the axis is false beyond its end."""
        x, condition = required(inputs, 0), required(inputs, 1)
        return [np.compress(condition, x, axis=attributes["axis"])]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return an axis, none, a short condition, and a constant one."""
        x = floats(3, 4)
        keep = np.array([True, False, True])
        return [
            Sample((x, keep), {"axis": 0}, (1,), name="rows"),
            Sample((x, keep), {"axis": -1}, name="short"),
            Sample((x, keep), name="flat"),
        ]


class Unique(Op):
    """Distinct elements (or slices along `axis`), with first positions, inverse and counts."""

    name = "Unique"
    attributes: ClassVar[Mapping[str, Any]] = {"axis": None, "sorted": 1}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return all four outputs; how many are distinct only the data says."""
        value, axis = node.present_inputs[0], node.attributes["axis"]
        if value.shape is None and axis is not None:
            return [Inferred(value.dtype, None), *([Inferred(I64, None)] * 3)]
        shape = value.shape
        place = 0 if axis is None else normalize_axis(axis, len(shape or ()), node)
        count = unknown_extent(node, 0, place)
        if axis is None or shape is None:
            distinct: tuple[Dim, ...] = (count,)
            positions = unknown_extent(node, 0, 1) if shape is None else product(shape)
        else:
            distinct = (*shape[:place], count, *shape[place + 1 :])
            positions = shape[place]
        return [
            Inferred(value.dtype, distinct),
            Inferred(I64, (count,)),
            Inferred(I64, (positions,)),
            Inferred(I64, (count,)),
        ]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Sort; where `sorted` is 0, put the result in order of first occurrence."""
        x, axis = required(inputs, 0), attributes["axis"]
        distinct, first, inverse, counts = np.unique(
            x, return_index=True, return_inverse=True, return_counts=True, axis=axis
        )
        inverse = inverse.reshape(-1)
        if not attributes["sorted"]:
            order = np.argsort(first, kind="stable")
            distinct = np.take(distinct, order, axis=0 if axis is None else axis)
            first, counts = first[order], counts[order]
            inverse = np.argsort(order, kind="stable")[inverse]
        return [distinct, *(each.astype(np.int64) for each in (first, inverse, counts))]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return the flat case in both orders, and slices along an axis."""
        x = whole(3, 4, low=0, high=5, dtype=np.float32)
        rows = f32([[1, 0, 0], [1, 0, 0], [2, 3, 4]])
        return [
            Sample((x,), {}, outputs=4, name="sorted"),
            Sample((x,), {"sorted": 0}, outputs=4, name="first_occurrence"),
            Sample((rows,), {"axis": 0}, outputs=4, name="rows"),
        ]
