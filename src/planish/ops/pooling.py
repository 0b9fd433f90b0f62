"""Pooling: one number from every window position, or from all of the spatial axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.declarations import REQUIRED
from planish.ir.dtypes import I64
from planish.ir.graph import Node
from planish.ir.requirement import Requirement, equal_shapes
from planish.ir.shape import Dim, Shape, product
from planish.ops.content import contents
from planish.ops.convolution import (
    WINDOW_ATTRIBUTES,
    Window,
    pad_spatial,
    tap,
    window_for,
    window_of,
)
from planish.ops.numeric import narrow, optional, plain, random_array, required, widen
from planish.ops.op import (
    Array,
    Attributes,
    Cost,
    Inferred,
    Inputs,
    Op,
    Sample,
    bytes_of,
    unknown_extent,
)

POOL_ATTRIBUTES = {**WINDOW_ATTRIBUTES, "kernel_shape": REQUIRED, "ceil_mode": 0}


def lowest(dtype: np.dtype[Any]) -> float:
    """Return the identity of max for `dtype`: minus infinity, or the smallest integer."""
    return -np.inf if dtype.kind not in "iu" else int(np.iinfo(dtype).min)


def pooled_shape(node: Node) -> Shape | None:
    """Return the output shape of a pooling node; raise ShapeError where no window fits."""
    x = node.present_inputs[0]
    if x.shape is None:
        return None
    spatial = window_of(node).output(x.shape[2:])
    if any(isinstance(dim, int) and dim < 0 for dim in spatial):
        raise ShapeError(f"the window is larger than the padded input: {x}", where=str(node))
    return (*x.shape[:2], *spatial)


def _taps_cost(node: Node) -> Cost:
    elements = product(node.outputs[0].shape or ())
    taps = int(np.prod(node.attributes["kernel_shape"]))
    return Cost(elements * taps, bytes_of(node))


def _geometry(x: Array, attributes: Attributes) -> tuple[Window, tuple[int, ...]]:
    window = window_for(attributes, x.shape[2:], attributes["kernel_shape"])
    return window, plain(window.output(x.shape[2:]))


def _pool_samples(**shared: object) -> list[Sample]:
    """Cases that every pooling operator with a sliding window has."""
    image = random_array(1, 2, 3, 9, 8)

    def case(name: str, x: Array = image, **attributes: object) -> Sample:
        return Sample((x,), {"kernel_shape": (3, 2), **shared, **attributes}, name=name)

    return [
        case("plain"),
        case("strides_pads", strides=(2, 2), pads=(1, 0, 1, 1)),
        case("ceil", strides=(2, 3), ceil_mode=1, pads=(1, 0, 1, 0)),
        case("ceil_drops_window", kernel_shape=(1, 1), strides=(3, 3), ceil_mode=1),
        case("dilations", dilations=(2, 3), pads=(1, 1, 1, 0)),
        case("same_upper", auto_pad="SAME_UPPER", strides=(2, 2)),
        case("same_lower", auto_pad="SAME_LOWER", strides=(2, 2)),
        case("valid", auto_pad="VALID", strides=(2, 1)),
        case("one_axis", random_array(2, 1, 2, 10), kernel_shape=(3,), strides=(2,), pads=(1, 1)),
        case("three_axes", random_array(3, 1, 2, 5, 4, 6), kernel_shape=(2, 3, 2)),
    ]


class MaxPool(Op):
    """Largest element of every window; padding never wins.

    The optional second output holds the winners' positions (first one on a tie), counted over the
    flattened input; with `storage_order` 1 the spatial part is counted column by column.
    """

    name = "MaxPool"
    attributes: ClassVar[Mapping[str, Any]] = {**POOL_ATTRIBUTES, "storage_order": 0}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return types of the maxima and of their positions."""
        shape = pooled_shape(node)
        return [Inferred(node.present_inputs[0].dtype, shape), Inferred(I64, shape)]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Keep a running maximum over the taps."""
        x = required(inputs, 0)
        window, counts = _geometry(x, attributes)
        padded = pad_spatial(x, window, lowest(x.dtype))
        best: Array | None = None
        for index, offset in enumerate(window.offsets()):
            values = tap(padded, window, offset, counts)
            if best is None:
                best, winner = values.copy(), np.zeros(values.shape, np.int64)
                continue
            better = values > best
            np.copyto(winner, index, where=better)
            np.maximum(best, values, out=best)
        if best is None:
            raise ValueError("the kernel has no taps")
        return [best, _positions(x.shape, window, winner, attributes["storage_order"])]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover the window forms, integers, and both orders of positions."""
        image = random_array(1, 2, 3, 6, 7)
        small = (random_array(2, 1, 2, 8, 8) * 40).astype(np.int8)
        attributes = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}
        return [
            *_pool_samples(),
            Sample((small,), {"kernel_shape": (2, 2), "pads": (1, 1, 0, 0)}, name="int8"),
            Sample((image,), attributes, outputs=2, name="positions"),
            Sample((image,), {**attributes, "storage_order": 1}, outputs=2, name="column_major"),
        ]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count one operation a tap."""
        return _taps_cost(node)


def _positions(shape: Shape, window: Window, winner: Array, storage_order: int) -> Array:
    """Return flat input positions for tap numbers `winner` [N,C,...]."""
    sizes = plain(shape)
    taps = np.array(list(window.offsets()), np.int64)
    pairs = window.padding.static or ()
    axes = len(pairs)
    order = range(axes) if storage_order else reversed(range(axes))
    flat = np.zeros(winner.shape, np.int64)
    step = 1
    for axis in order:
        starts = np.arange(winner.shape[2 + axis]) * window.strides[axis] - pairs[axis][0]
        starts = starts.reshape(-1, *(1,) * (axes - 1 - axis))
        flat += (starts + taps[winner, axis]) * step
        step *= sizes[2 + axis]
    planes = np.arange(sizes[0] * sizes[1]).reshape(sizes[0], sizes[1], *(1,) * axes)
    return flat + planes * step


class AveragePool(Op):
    """Mean of every window; padding counts in the divisor only with `count_include_pad`.

    What ceil mode adds behind the declared padding never counts.
    """

    name = "AveragePool"
    attributes: ClassVar[Mapping[str, Any]] = {
        **WINDOW_ATTRIBUTES,
        "kernel_shape": REQUIRED,
        "ceil_mode": 0,
        "count_include_pad": 0,
    }

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the type of the means."""
        return [Inferred(node.present_inputs[0].dtype, pooled_shape(node))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Divide the sum over taps by the number of taps that count."""
        x = required(inputs, 0)
        window, counts = _geometry(x, attributes)
        padded = pad_spatial(widen(x), window, 0)
        sums = sum(
            (tap(padded, window, offset, counts) for offset in window.offsets()),
            start=np.zeros((*x.shape[:2], *counts), padded.dtype),
        )
        divisor = average_divisor(
            window, x.shape[2:], counts, bool(attributes["count_include_pad"])
        )
        return [narrow(sums / divisor.astype(sums.dtype), x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover the window forms with and without counted padding."""
        return [*_pool_samples(), *_pool_samples(count_include_pad=1)]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count one operation a tap."""
        return _taps_cost(node)


def average_divisor(
    window: Window, extents: Sequence[int], counts: Sequence[int], include_padding: bool
) -> Array:
    """Return, for every window position, how many of its taps count in the average."""
    total = np.ones((), np.int64)
    for axis, (begin, end) in enumerate(window.padding.static or ()):
        starts = np.arange(counts[axis]) * window.strides[axis] - begin
        reached = starts[:, None] + np.arange(window.kernel[axis]) * window.dilations[axis]
        low, high = (-begin, extents[axis] + end) if include_padding else (0, extents[axis])
        counted = ((reached >= low) & (reached < high)).sum(axis=1)
        total = total[..., None] * counted
    return np.maximum(total, 1)


class LpPool(Op):
    """p-norm of every window: (sum of |x|^p)^(1/p)."""

    name = "LpPool"
    attributes: ClassVar[Mapping[str, Any]] = {**POOL_ATTRIBUTES, "p": 2}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the type of the norms."""
        return [Inferred(node.present_inputs[0].dtype, pooled_shape(node))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Sum powers over the taps."""
        x, p = required(inputs, 0), attributes["p"]
        window, counts = _geometry(x, attributes)
        padded = pad_spatial(np.abs(widen(x)) ** p, window, 0)
        sums = sum(
            (tap(padded, window, offset, counts) for offset in window.offsets()),
            start=np.zeros((*x.shape[:2], *counts), padded.dtype),
        )
        return [narrow(sums ** (1 / p), x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover the window forms and two norms."""
        return [*_pool_samples(), *_pool_samples(p=3)[:2]]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count one operation a tap."""
        return _taps_cost(node)


class _GlobalPool(Op):
    """Base of operators that reduce all spatial axes to one element."""

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the input's type with spatial extents 1."""
        x = node.present_inputs[0]
        if x.shape is None:
            return [Inferred(x.dtype, None)]
        return [Inferred(x.dtype, (*x.shape[:2], *(1,) * (len(x.shape) - 2)))]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover one to three spatial axes."""
        return [
            Sample((random_array(1, 2, 3, 5, 4),)),
            Sample((random_array(2, 1, 4, 7),)),
            Sample((random_array(3, 2, 2, 3, 2, 4),)),
        ]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count one operation an input element."""
        return Cost(product(node.present_inputs[0].shape or ()), bytes_of(node))


def _spatial(x: Array) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


class GlobalAveragePool(_GlobalPool):
    """Mean over all spatial axes, which keep extent 1."""

    name = "GlobalAveragePool"

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Take numpy's mean in float32 at least."""
        x = required(inputs, 0)
        return [narrow(widen(x).mean(axis=_spatial(x), keepdims=True), x)]


class GlobalMaxPool(_GlobalPool):
    """Maximum over all spatial axes, which keep extent 1."""

    name = "GlobalMaxPool"

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Take numpy's maximum."""
        x = required(inputs, 0)
        return [x.max(axis=_spatial(x), keepdims=True)]


class GlobalLpPool(_GlobalPool):
    """p-norm over all spatial axes, which keep extent 1."""

    name = "GlobalLpPool"
    attributes: ClassVar[Mapping[str, Any]] = {"p": 2}

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Sum powers."""
        x, p = required(inputs, 0), attributes["p"]
        sums = (np.abs(widen(x)) ** p).sum(axis=_spatial(x), keepdims=True)
        return [narrow(sums ** (1 / p), x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover two norms."""
        return [*super().samples(), Sample((random_array(4, 1, 2, 3, 3),), {"p": 3})]


class MaxUnpool(Op):
    """Inverse of MaxPool: put every element at its recorded position, zero elsewhere.

    Inputs x, positions (as MaxPool gives them), and optionally the output shape.
    """

    name = "MaxUnpool"
    attributes: ClassVar[Mapping[str, Any]] = {
        "kernel_shape": REQUIRED,
        "pads": None,
        "strides": None,
    }

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the output's type; from `output_shape` where it is given and known."""
        x = node.present_inputs[0]
        if x.shape is None:
            return [Inferred(x.dtype, None)]
        if node.input(2) is None:
            return [Inferred(x.dtype, _unpooled(x.shape, node.attributes))]
        sizes = contents(node.input(2))
        if sizes is None:
            sizes = tuple(unknown_extent(node, 0, axis) for axis in range(len(x.shape)))
        return [Inferred(x.dtype, sizes)]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that there is a position for every element."""
        x, positions = node.present_inputs[:2]
        if x.shape is None or positions.shape is None:
            return []
        return equal_shapes(positions.shape, x.shape)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Scatter; positions count over the extents that kernel, strides and pads imply.

        With an output shape, the result is the corner of a larger tensor of zeros.
        """
        x, positions, wanted = required(inputs, 0), required(inputs, 1), optional(inputs, 2)
        implied = plain(_unpooled(x.shape, attributes))
        small = np.zeros(implied, x.dtype)
        small.reshape(-1)[positions.reshape(-1)] = x.reshape(-1)
        if wanted is None:
            return [small]
        out = np.zeros(plain(wanted.tolist()), x.dtype)
        out[tuple(slice(0, extent) for extent in implied)] = small
        return [out]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover strides with and without an output shape."""
        image = random_array(1, 1, 1, 6, 6)
        window: dict[str, Any] = {"kernel_shape": (2, 2), "strides": (2, 2)}
        pool = {**MaxPool.attributes, **window}
        values, positions = MaxPool.reference((image,), pool)
        shape = np.array([1, 1, 7, 6], np.int64)
        return [
            Sample((values, positions), window),
            Sample((values, positions, shape), window, constant=(2,), name="output_shape"),
        ]


def _unpooled(shape: Shape, attributes: Attributes) -> tuple[Dim, ...]:
    axes = len(shape) - 2
    window = window_for(attributes, shape[2:], attributes["kernel_shape"])
    pairs = window.padding.pairs
    return (
        *shape[:2],
        *(
            (shape[2 + axis] - 1) * window.strides[axis]
            + window.reach[axis]
            - pairs[axis][0]
            - pairs[axis][1]
            for axis in range(axes)
        ),
    )
