"""Symbolic contents of small tensors, and what is known about the size of extents.

Exporters compute shapes with ordinary operators (Shape -> Gather -> Mul -> Concat -> Reshape). Each
operator's `infer` carries such values along as *contents*: one `Dim` an element, in row-major
order. An element is always an integer, whatever the tensor's dtype (booleans are 0 and 1, floats
are whole numbers); where one element has no exact form, the whole contents are None.

Data-movement operators compute contents with numpy on arrays of objects (`content_array`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from planish.ir.graph import Node, Value
from planish.ir.shape import Atom, Dim, dim_max, dim_min, mod, product, static_shape

Array = np.ndarray[Any, Any]
Ranges = Mapping[str, tuple[int, int, int]]

MAX_CONTENT = 64  # larger tensors are data, not shapes
NO_RANGES: Ranges = {}


def contents(value: Value | None) -> tuple[Dim, ...] | None:
    """Return the elements of `value` in row-major order, or None where they are not known."""
    if value is None:
        return None
    if value.constant is None:
        return value.content
    array = value.constant.array
    if array.size > MAX_CONTENT or not _is_number(array):
        return None
    if array.dtype.kind in "iub" or value.dtype.is_integer:
        return tuple(int(item) for item in array.reshape(-1))
    items = array.reshape(-1).astype(np.float64)
    if not np.isfinite(items).all() or (items != np.floor(items)).any():
        return None
    return tuple(int(item) for item in items)


def content_array(value: Value | None) -> Array | None:
    """Return `contents` as an array of objects in the value's shape, or None."""
    found = contents(value)
    if value is None or found is None or value.shape is None:
        return None
    shape = static_shape(value.shape)
    if shape is None or math.prod(shape) != len(found):
        return None
    return object_array(found).reshape(shape)


def object_array(items: Iterable[Any]) -> Array:
    """Return a one-dimensional array of objects (numpy never looks inside `items`)."""
    listed = list(items)
    array = np.empty(len(listed), dtype=object)
    for index, item in enumerate(listed):
        array[index] = item
    return array


def to_content(array: Array | None) -> tuple[Dim, ...] | None:
    """Return the elements of an array of objects, or None when it is too large or has a None."""
    if array is None or array.size > MAX_CONTENT:
        return None
    items = tuple(array.reshape(-1).tolist())
    return None if any(item is None for item in items) else items


def integers(value: Value | None) -> tuple[int, ...] | None:
    """Return the elements of an integer tensor as numbers, of any size, or None if not all known.

    This is how operators read axes, sizes, repeats, and the like.
    """
    if value is None:
        return None
    if value.constant is not None:
        return tuple(int(item) for item in value.constant.array.reshape(-1).tolist())
    if value.content is None:
        return None
    numbers = tuple(item for item in value.content if isinstance(item, int))
    return numbers if len(numbers) == len(value.content) else None


def _is_number(array: Array) -> bool:
    return array.dtype.kind in "iubf" or array.dtype.kind == "V"


# -- what is known about extents ------------------------------------------------------------------


def ranges_of(node: Node) -> Ranges:
    """Return (min, opt, max) of symbols as far as the node's graph declares them."""
    return NO_RANGES if node.graph is None else node.graph.ranges


def bounds(dim: Dim, ranges: Ranges = NO_RANGES) -> tuple[float, float]:
    """Return a lower and an upper bound of `dim`; infinite where there is none.

    A symbol without a declared range is at least 1; one that only data decides ("?...") at least 0.
    """
    if isinstance(dim, int):
        return dim, dim
    low = high = 0.0
    for monomial, coefficient in dim.terms:
        factor_low = factor_high = 1.0
        for atom in monomial:
            atom_low, atom_high = _atom_bounds(atom, ranges)
            corners = [
                _times(a, b) for a in (factor_low, factor_high) for b in (atom_low, atom_high)
            ]
            factor_low, factor_high = min(corners), max(corners)
        ends = (_times(coefficient, factor_low), _times(coefficient, factor_high))
        low, high = low + min(ends), high + max(ends)
    return low, high


def _atom_bounds(atom: Atom, ranges: Ranges) -> tuple[float, float]:
    if not atom.arguments:
        if atom.name in ranges:
            return ranges[atom.name][0], ranges[atom.name][2]
        return (0 if atom.name.startswith("?") else 1), math.inf
    (a_low, a_high), (b_low, b_high) = (bounds(each, ranges) for each in atom.arguments)
    if atom.name == "max":
        return max(a_low, b_low), max(a_high, b_high)
    if atom.name == "min":
        return min(a_low, b_low), min(a_high, b_high)
    if b_low <= 0:
        return -math.inf, math.inf
    if atom.name == "mod":
        return 0, min(b_high - 1, a_high) if a_low >= 0 else b_high - 1
    return _floor(a_low, b_high if a_low >= 0 else b_low), _floor(
        a_high, b_low if a_high >= 0 else b_high
    )


def _times(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b


def _floor(a: float, b: float) -> float:
    if math.isinf(a):
        return a
    return 0 if math.isinf(b) and a >= 0 else -1 if math.isinf(b) else math.floor(a / b)


def at_least(a: Dim, b: Dim, ranges: Ranges = NO_RANGES) -> bool:
    """Whether a >= b for every value of the symbols; False also when that is not known."""
    return bounds(a - b, ranges)[0] >= 0


def smaller(a: Dim, b: Dim, ranges: Ranges = NO_RANGES) -> Dim:
    """Return min(a, b), as one of the two where bounds decide."""
    if at_least(a, b, ranges):
        return b
    return a if at_least(b, a, ranges) else dim_min(a, b)


def larger(a: Dim, b: Dim, ranges: Ranges = NO_RANGES) -> Dim:
    """Return max(a, b), as one of the two where bounds decide."""
    if at_least(a, b, ranges):
        return a
    return b if at_least(b, a, ranges) else dim_max(a, b)


def equal(a: Dim, b: Dim, ranges: Ranges = NO_RANGES) -> bool | None:
    """Whether a == b, or None where that depends on the symbols."""
    if a == b:
        return True
    low, high = bounds(a - b, ranges)
    return False if low > 0 or high < 0 else None


def less(a: Dim, b: Dim, ranges: Ranges = NO_RANGES) -> bool | None:
    """Whether a < b, or None where that depends on the symbols."""
    low, high = bounds(b - a, ranges)
    return True if low > 0 else False if high <= 0 else None


def divide_products(dividend: Iterable[Dim], divisor: Iterable[Dim]) -> Dim:
    """Return product(dividend) / product(divisor), cancelling factor by factor where possible.

    Equal factors cancel before anything is multiplied out, so that ``N*(H+1)/(H+1)`` is ``N``.
    """
    above, below = list(dividend), []
    for factor in divisor:
        index = next((i for i, each in enumerate(above) if mod(each, factor) == 0), None)
        if index is None:
            below.append(factor)
        else:
            above[index] = above[index] // factor
    return product(above) // product(below)
