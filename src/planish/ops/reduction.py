"""Reductions over axes: sums, means, extremes and norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from planish.ir.graph import Node
from planish.ir.shape import Dim, Shape, dim_max, dim_min, product
from planish.ops.content import contents, integers
from planish.ops.numeric import (
    narrow,
    optional,
    positive_array,
    random_array,
    required,
    widen,
)
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

Axes = tuple[int, ...]


def reduced_axes(node: Node) -> Axes | None:
    """Return the axes that a reduction node sums over, sorted; None where they are not known."""
    x, axes = node.present_inputs[0], node.input(1)
    rank = len(x.known_shape)
    given = integers(axes) if axes is not None else ()
    if given is None:
        return None
    if not given:
        return () if node.attributes["noop_with_empty_axes"] else tuple(range(rank))
    axes_in_range = {normalize_axis(axis, rank, node) for axis in given}
    return tuple(sorted(axes_in_range)) if rank else ()


def reduced_shape(shape: Shape, axes: Axes, keepdims: bool) -> Shape:
    """Return `shape` with `axes` of extent 1, or without them."""
    if keepdims:
        return tuple(1 if axis in axes else dim for axis, dim in enumerate(shape))
    return tuple(dim for axis, dim in enumerate(shape) if axis not in axes)


class _Reduction(Op):
    """Base of reductions: inputs data and (optionally) axes."""

    attributes: ClassVar[Mapping[str, Any]] = {"keepdims": 1, "noop_with_empty_axes": 0}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the reduced type; extents stay unknown where the axes are not constant."""
        x = node.present_inputs[0]
        if x.shape is None:
            return [Inferred(x.dtype, None)]
        axes, keepdims = reduced_axes(node), bool(node.attributes["keepdims"])
        if axes is not None:
            shape = reduced_shape(x.shape, axes, keepdims)
            return [Inferred(x.dtype, shape, cls._content(node, axes))]
        unknown = tuple(unknown_extent(node, 0, axis) for axis in range(len(x.shape)))
        return [Inferred(x.dtype, unknown if keepdims else None)]

    @classmethod
    def _content(cls, node: Node, axes: Axes) -> tuple[Dim, ...] | None:
        """Return the result's contents where the input is a vector of known extents."""
        x = node.present_inputs[0]
        known = contents(x) if x.dtype.is_integer and x.shape is not None else None
        if known is None or len(x.shape or ()) > 1:
            return None
        if not axes:
            return known
        combined = cls.combine_dims(known)
        return None if combined is None else (combined,)

    @classmethod
    def combine_dims(cls, dims: tuple[Dim, ...]) -> Dim | None:
        """Return the reduction of extents; None where it is not an extent itself."""
        return None

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Reduce in float32 at least."""
        x, given = required(inputs, 0), optional(inputs, 1)
        keepdims = bool(attributes["keepdims"])
        if given is not None and given.size:
            axes = tuple(sorted({int(axis) % max(x.ndim, 1) for axis in given.reshape(-1)}))
        elif attributes["noop_with_empty_axes"]:
            axes = ()
        else:
            axes = tuple(range(x.ndim))
        if x.ndim == 0:
            axes = ()
        return [narrow(cls.reduce(widen(x), axes, keepdims), x)]

    @classmethod
    def reduce(cls, x: Array, axes: Axes, keepdims: bool) -> Array:
        """Return the reduction of `x` over `axes`."""
        raise TypeError(f"{cls.name} does not define reduce")

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover axes from both ends, all axes, keepdims, and no axes at all."""
        return reduction_samples(random_array(1, 3, 4, 5))

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count one operation an input element."""
        elements = product(node.present_inputs[0].shape or ())
        return Cost(elements * cls.operations_per_element, bytes_of(node))


def reduction_samples(x: Array) -> list[Sample]:
    """Return cases for a reduction of `x`, of rank 3."""

    def case(name: str, axes: list[int] | None, **attributes: int) -> Sample:
        given = () if axes is None else (np.array(axes, np.int64),)
        return Sample((x, *given), attributes, constant=(1,) if given else (), name=name)

    return [
        case("all", None),
        case("all_flat", None, keepdims=0),
        case("last", [-1]),
        case("first", [0], keepdims=0),
        case("two", [2, 0]),
        case("two_flat", [1, -1], keepdims=0),
        case("noop", [], noop_with_empty_axes=1),
    ]


class ReduceSum(_Reduction):
    """Sum over axes."""

    name = "ReduceSum"

    @classmethod
    def combine_dims(cls, dims: tuple[Dim, ...]) -> Dim | None:
        """Return the sum of extents."""
        return sum(dims, start=0)

    @classmethod
    def reduce(cls, x: Array, axes: Axes, keepdims: bool) -> Array:
        """Sum; numpy adds pairwise."""
        return np.asarray(x.sum(axis=axes, keepdims=keepdims, dtype=x.dtype))


class ReduceMean(_Reduction):
    """Mean over axes; integers are truncated toward zero."""

    name = "ReduceMean"

    @classmethod
    def reduce(cls, x: Array, axes: Axes, keepdims: bool) -> Array:
        """Divide the sum by the number of elements."""
        if x.dtype.kind not in "iu":
            return np.asarray(x.mean(axis=axes, keepdims=keepdims, dtype=x.dtype))
        mean = x.mean(axis=axes, keepdims=keepdims, dtype=np.float64)
        return np.asarray(np.trunc(mean))


class ReduceMax(_Reduction):
    """Maximum over axes."""

    name = "ReduceMax"

    @classmethod
    def combine_dims(cls, dims: tuple[Dim, ...]) -> Dim | None:
        """Return the largest extent."""
        if not dims:
            return None
        largest = dims[0]
        for dim in dims[1:]:
            largest = dim_max(largest, dim)
        return largest

    @classmethod
    def reduce(cls, x: Array, axes: Axes, keepdims: bool) -> Array:
        """Take the maximum; of nothing it is the type's smallest value."""
        return np.asarray(x.max(axis=axes, keepdims=keepdims, initial=_smallest(x)))

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover booleans and bytes as well."""
        return [*super().samples(), *_narrow_samples()]


class ReduceMin(_Reduction):
    """Minimum over axes."""

    name = "ReduceMin"

    @classmethod
    def combine_dims(cls, dims: tuple[Dim, ...]) -> Dim | None:
        """Return the smallest extent."""
        if not dims:
            return None
        smallest = dims[0]
        for dim in dims[1:]:
            smallest = dim_min(smallest, dim)
        return smallest

    @classmethod
    def reduce(cls, x: Array, axes: Axes, keepdims: bool) -> Array:
        """Take the minimum; of nothing it is the type's largest value."""
        return np.asarray(x.min(axis=axes, keepdims=keepdims, initial=_largest(x)))

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover booleans and bytes as well."""
        return [*super().samples(), *_narrow_samples()]


def _smallest(x: Array) -> float:
    if x.dtype.kind == "b":
        return False
    return int(np.iinfo(x.dtype).min) if x.dtype.kind in "iu" else -np.inf


def _largest(x: Array) -> float:
    if x.dtype.kind == "b":
        return True
    return int(np.iinfo(x.dtype).max) if x.dtype.kind in "iu" else np.inf


def _narrow_samples() -> list[Sample]:
    flags = random_array(2, 3, 4) > 0
    small = (random_array(3, 3, 4) * 40).astype(np.int8)
    axes = np.array([1], np.int64)
    return [
        Sample((flags, axes), {}, (1,), name="bool"),
        Sample((small, axes), {"keepdims": 0}, (1,), name="int8"),
    ]


class ReduceProd(_Reduction):
    """Product over axes."""

    name = "ReduceProd"

    @classmethod
    def combine_dims(cls, dims: tuple[Dim, ...]) -> Dim | None:
        """Return the product of extents."""
        return product(dims)

    @classmethod
    def reduce(cls, x: Array, axes: Axes, keepdims: bool) -> Array:
        """Multiply."""
        return np.asarray(x.prod(axis=axes, keepdims=keepdims, dtype=x.dtype))


class ReduceL1(_Reduction):
    """Sum of magnitudes over axes."""

    name = "ReduceL1"
    operations_per_element = 2

    @classmethod
    def reduce(cls, x: Array, axes: Axes, keepdims: bool) -> Array:
        """Sum magnitudes."""
        return np.asarray(np.abs(x).sum(axis=axes, keepdims=keepdims, dtype=x.dtype))


class ReduceL2(_Reduction):
    """Square root of the sum of squares over axes."""

    name = "ReduceL2"
    operations_per_element = 2

    @classmethod
    def reduce(cls, x: Array, axes: Axes, keepdims: bool) -> Array:
        """Sum squares; integers in float64, truncated."""
        wide = x.astype(np.float64) if x.dtype.kind in "iu" else x
        return np.asarray(np.sqrt(np.square(wide).sum(axis=axes, keepdims=keepdims)))


class ReduceSumSquare(_Reduction):
    """Sum of squares over axes."""

    name = "ReduceSumSquare"
    operations_per_element = 2

    @classmethod
    def reduce(cls, x: Array, axes: Axes, keepdims: bool) -> Array:
        """Sum squares."""
        return np.asarray(np.square(x).sum(axis=axes, keepdims=keepdims, dtype=x.dtype))


class ReduceLogSum(_Reduction):
    """Logarithm of the sum over axes."""

    name = "ReduceLogSum"

    @classmethod
    def reduce(cls, x: Array, axes: Axes, keepdims: bool) -> Array:
        """Sum, then take the logarithm (minus infinity of 0, NaN below)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.log(x.sum(axis=axes, keepdims=keepdims)))

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover the reduction forms on positive numbers."""
        return reduction_samples(positive_array(1, 3, 4, 5))


class ReduceLogSumExp(_Reduction):
    """Logarithm of the sum of exponentials over axes, computed without overflow."""

    name = "ReduceLogSumExp"
    operations_per_element = 3

    @classmethod
    def reduce(cls, x: Array, axes: Axes, keepdims: bool) -> Array:
        """Subtract the maximum before exponentiating."""
        wide = x.astype(np.float64) if x.dtype.kind in "iu" else x
        top = np.asarray(wide.max(axis=axes, keepdims=True, initial=-np.inf))
        top = np.where(np.isfinite(top), top, 0).astype(wide.dtype)
        with np.errstate(divide="ignore"):
            sums = np.log(np.exp(wide - top).sum(axis=axes, keepdims=True)) + top
        return np.asarray(sums if keepdims else sums.squeeze(axes))
