"""Operators that read or write at computed positions: Gather*, Scatter*."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.graph import Node, Value
from planish.ir.requirement import Requirement, at_most, equal_shapes
from planish.ir.shape import Dim, product
from planish.ops.content import content_array, integers, to_content
from planish.ops.numeric import required
from planish.ops.op import (
    Array,
    Attributes,
    Cost,
    Inferred,
    Inputs,
    Sample,
    normalize_axis,
)
from planish.ops.sample_data import floats, indices, whole
from planish.ops.shape_ops import Movement

# how a scattered update meets the element that is there
REDUCTIONS: dict[str, Callable[[Array, Any, Array], None]] = {
    "add": np.add.at,
    "mul": np.multiply.at,
    "max": np.maximum.at,
    "min": np.minimum.at,
}


def _bytes_of_elements(count: Dim, node: Node) -> Dim:
    """Return the bytes of `count` elements read, `count` written, and the indices."""
    data, index = node.present_inputs[:2]
    return count * data.dtype.itemsize * 2 + product(index.shape or ()) * index.dtype.itemsize


class Gathering(Movement):
    """Base: reads as many elements as it writes, not the whole table."""

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Return the bytes of the elements read and written."""
        return Cost(0, _bytes_of_elements(product(node.outputs[0].shape or ()), node))


class Gather(Gathering):
    """Slices of the data at indices (input 1) along `axis`; negative ones count from the end."""

    name = "Gather"
    attributes: ClassVar[Mapping[str, Any]] = {"axis": 0}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the data's shape with the indices' shape in place of `axis`."""
        data, where = node.present_inputs
        if data.shape is None or where.shape is None:
            return [Inferred(data.dtype, None)]
        axis = normalize_axis(node.attributes["axis"], len(data.shape), node)
        shape = (*data.shape[:axis], *where.shape, *data.shape[axis + 1 :])
        return [Inferred(data.dtype, shape, cls._content(node, data, where, axis))]

    @classmethod
    def _content(cls, node: Node, data: Value, where: Value, axis: int) -> tuple[Dim, ...] | None:
        array, chosen = content_array(data), content_array(where)
        numbers = integers(where)
        if array is None or chosen is None or numbers is None:
            return None
        extent = array.shape[axis]
        if any(not -extent <= number < extent for number in numbers):
            raise ShapeError(
                f"index {max(numbers, key=abs)} is out of range for extent {extent}",
                where=str(node),
            )
        # flat indices give the same elements in the same order, and an array for a scalar index
        return to_content(np.take(array, chosen.reshape(-1).astype(np.int64), axis))

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that there is something to index."""
        data = node.present_inputs[0]
        if not data.shape:
            return []
        return at_most(1, data.shape[int(node.attributes["axis"])])

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Take the slices."""
        data, where = required(inputs, 0), required(inputs, 1)
        return [np.take(data, where, axis=attributes["axis"])]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return scalar, vector and matrix indices, negative ones, and several axes."""
        x = floats(3, 4, 5)
        matrix = np.array([[0, 2], [-1, 1]], dtype=np.int64)
        return [
            Sample((x, np.array(1)), {}, (1,), name="scalar"),
            Sample((x, matrix), {"axis": 1}, (1,), name="matrix"),
            Sample((x, indices(-1, 0)), {"axis": -1}, name="last_axis"),
            Sample((x, indices(2, 0).astype(np.int32)), name="i32_indices"),
            Sample((indices(7, 8, 9), indices(2, -3)), {}, (0, 1), name="i64"),
        ]


class GatherElements(Gathering):
    """One element for each index: out[i][j] = data[i][index[i][j]] for `axis` = 1."""

    name = "GatherElements"
    attributes: ClassVar[Mapping[str, Any]] = {"axis": 0}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the indices' shape."""
        data, where = node.present_inputs
        return [Inferred(data.dtype, where.shape)]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that the indices cover no more than the data on the other axes."""
        data, where = node.present_inputs[:2]
        return _covered(data, where, int(node.attributes["axis"]))

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Take the elements; the indices may cover less than the data on other axes."""
        data, where, axis = required(inputs, 0), required(inputs, 1), attributes["axis"]
        return [data[_element_positions(data, where, axis)]]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return both axes of a matrix, negative indices, and a smaller index tensor."""
        x = floats(3, 4)
        return [
            Sample((x, whole(2, 4, low=-3, high=3)), name="rows"),
            Sample((x, whole(3, 6, low=0, high=4)), {"axis": 1}, (1,), name="columns"),
            Sample((floats(2, 3, 5), whole(1, 2, 4, low=0, high=5)), {"axis": -1}, name="partial"),
        ]


def _covered(data: Value, where: Value, axis: int) -> list[Requirement]:
    """Require one index for an element of `data` at most, except along `axis`."""
    if data.shape is None or where.shape is None:
        return []
    axis %= len(data.shape)
    found = at_most(1, data.shape[axis])
    for position, (extent, limit) in enumerate(zip(where.shape, data.shape, strict=False)):
        if position != axis:
            found += at_most(extent, limit)
    return found


def _element_positions(data: Array, where: Array, axis: int) -> tuple[Array, ...]:
    """Return one index array an axis: the own position, and `where` along `axis`."""
    axis = axis % data.ndim
    positions: list[Array] = list(np.indices(where.shape, sparse=True))
    positions[axis] = np.where(where < 0, where + data.shape[axis], where)
    return tuple(positions)


def _tuple_positions(data: Array, where: Array, skip: int = 0) -> tuple[Array, ...]:
    """Return one index array for each of the axes that the last axis of `where` addresses."""
    sizes = data.shape[skip : skip + where.shape[-1]]
    return tuple(
        np.where(where[..., i] < 0, where[..., i] + size, where[..., i])
        for i, size in enumerate(sizes)
    )


class GatherND(Gathering):
    """Slices at index tuples: the last axis of `indices` (input 1) addresses the first data axes.

    The first `batch_dims` axes of data and indices correspond to each other.
    """

    name = "GatherND"
    attributes: ClassVar[Mapping[str, Any]] = {"batch_dims": 0}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the indices' shape without its last axis, then the axes not addressed."""
        data, where = node.present_inputs
        if data.shape is None or where.shape is None or not isinstance(where.shape[-1], int):
            return [Inferred(data.dtype, None)]
        addressed = node.attributes["batch_dims"] + where.shape[-1]
        if addressed > len(data.shape):
            raise ShapeError(
                f"indices address {addressed} axes of a tensor with {len(data.shape)}",
                where=str(node),
            )
        return [Inferred(data.dtype, (*where.shape[:-1], *data.shape[addressed:]))]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that batches correspond and that there is something to index."""
        data, where = node.present_inputs[:2]
        if data.shape is None or where.shape is None:
            return []
        batch = int(node.attributes["batch_dims"])
        found = equal_shapes(data.shape[:batch], where.shape[:batch])
        last = where.shape[-1]
        axes = data.shape[batch : batch + last] if isinstance(last, int) else ()
        return found + [each for dim in axes for each in at_most(1, dim)]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Index with one array an addressed axis."""
        data, where, batch = required(inputs, 0), required(inputs, 1), attributes["batch_dims"]
        found = _tuple_positions(data, where, batch)
        own = np.indices(where.shape[:-1], sparse=True)[:batch]
        return [data[(*own, *found)]]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return whole and partial tuples, negative indices, and batches."""
        x = floats(3, 4, 5)
        pairs = np.array([[0, 1], [2, -1]], dtype=np.int64)
        return [
            Sample((x, np.array([[0, 1, 2], [-1, 3, 0]])), name="elements"),
            Sample((x, pairs), {}, (1,), name="rows"),
            Sample((x, pairs.reshape(2, 1, 2)), name="matrix_of_rows"),
            Sample((x, whole(3, 1, low=0, high=4)), {"batch_dims": 1}, name="batch"),
            Sample((x, whole(3, 4, 2, 1, low=0, high=5)), {"batch_dims": 2}, name="two_batches"),
        ]


class Scattering(Movement):
    """Base: a copy of the data with updates (input 2) written at indices (input 1)."""

    attributes: ClassVar[Mapping[str, Any]] = {"reduction": "none"}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the data's type."""
        data, _, updates = node.present_inputs
        if data.dtype != updates.dtype:
            raise ShapeError(
                f"updates of type {updates.dtype} cannot go into {data.dtype}", where=str(node)
            )
        return [Inferred(data.dtype, data.shape)]


def _scatter(
    data: Array, positions: tuple[Array, ...], updates: Array, attributes: Attributes
) -> Array:
    result = data.copy()
    if attributes["reduction"] == "none":
        result[positions] = updates
    else:
        REDUCTIONS[attributes["reduction"]](result, positions, updates)
    return result


class ScatterElements(Scattering):
    """A copy of the data with updates: out[index[i][j]][j] = updates[i][j] for `axis` = 0.

    `reduction` "add", "mul", "max" or "min" combines with what is there; "none" overwrites.
    """

    name = "ScatterElements"
    attributes: ClassVar[Mapping[str, Any]] = {"axis": 0, "reduction": "none"}

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that updates and indices correspond and cover no more than the data."""
        data, where, updates = node.present_inputs[:3]
        if where.shape is None or updates.shape is None:
            return []
        same = equal_shapes(updates.shape, where.shape)
        return same + _covered(data, where, int(node.attributes["axis"]))

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Write the elements."""
        data, where, updates = (required(inputs, index) for index in range(3))
        return [
            _scatter(data, _element_positions(data, where, attributes["axis"]), updates, attributes)
        ]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return both axes, negative indices, and every reduction with a repeated index."""
        x, updates = floats(3, 4), floats(2, 3, seed=1)
        rows = np.array([[0, 1, 2], [-1, 0, 1]], dtype=np.int64)
        columns = np.array([[1, 0, 3], [2, -1, 0]], dtype=np.int64)
        repeated = np.array([[1, 1, 0], [1, 2, 0]], dtype=np.int64)
        reduced = [
            Sample((x, repeated, updates), {"reduction": kind, "axis": 1}, name=kind)
            for kind in REDUCTIONS
        ]
        return [
            Sample((x, rows, updates), name="rows"),
            Sample((x, columns, updates), {"axis": 1}, (1,), name="columns"),
            *reduced,
        ]


class ScatterND(Scattering):
    """A copy of the data with slices written at index tuples (the last axis of input 1).

    `reduction` "add", "mul", "max" or "min" combines with what is there; "none" overwrites.
    """

    name = "ScatterND"

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that there is an update for every index tuple, of the shape of a slice."""
        data, where, updates = (value.shape for value in node.present_inputs[:3])
        if data is None or where is None or updates is None or not isinstance(where[-1], int):
            return []
        wanted = (*where[:-1], *data[where[-1] :])
        return equal_shapes(updates, wanted) + [
            each for dim in data[: where[-1]] for each in at_most(1, dim)
        ]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Write the slices."""
        data, where, updates = (required(inputs, index) for index in range(3))
        return [_scatter(data, _tuple_positions(data, where), updates, attributes)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return elements and slices, and every reduction with a repeated index."""
        x = floats(4, 3, 2)
        rows = np.array([[2], [-4]], dtype=np.int64)
        pairs = np.array([[1, 0], [3, -1]], dtype=np.int64)
        twice = np.array([[1], [1]], dtype=np.int64)
        updates = floats(2, 3, 2, seed=1)
        reduced = [
            Sample((x, twice, updates), {"reduction": kind}, name=kind) for kind in REDUCTIONS
        ]
        return [
            Sample((x, rows, updates), {}, (1,), name="rows"),
            Sample((x, pairs, floats(2, 2, seed=1)), name="pairs"),
            *reduced,
        ]
