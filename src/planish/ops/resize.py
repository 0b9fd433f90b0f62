"""Resize: interpolate a tensor onto another grid, axis by axis.

Every axis that changes is handled on its own: nearest picks one source element for each output,
linear and cubic multiply by a (mostly zero) matrix of weights. Coordinates are computed in
float32, as ONNX Runtime does, because nearest depends on how halves round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.graph import Node, Value
from planish.ir.shape import Dim, Shape, floordiv, product
from planish.ops.content import contents
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
    normalize_axis,
    unknown_extent,
)

FRACTION_LIMIT = 4096  # scales of symbolic extents are taken as fractions with smaller denominators


@dataclass(frozen=True)
class AxisMap:
    """How one axis is resized: extents, scale, and for crops the region (start, end) in [0, 1]."""

    axis: int
    source: int
    target: int
    scale: np.float32
    region: tuple[float, float] = (0.0, 1.0)


def coordinates(each: AxisMap, mode: str) -> Array:
    """Return, in float32, the source coordinate of every output position."""
    x = np.arange(each.target, dtype=np.float32)
    half, source, target = np.float32(0.5), np.float32(each.source), np.float32(each.target)
    match mode:
        case "half_pixel":
            return (x + half) / each.scale - half
        case "pytorch_half_pixel":
            return (x + half) / each.scale - half if each.target > 1 else np.zeros_like(x)
        case "half_pixel_symmetric":
            adjustment = target / (each.scale * source)
            offset = source / 2 * (1 - adjustment)
            return offset + (x + half) / each.scale - half
        case "align_corners":
            return x * (source - 1) / (target - 1) if each.target > 1 else np.zeros_like(x)
        case "asymmetric":
            return x / each.scale
        case "tf_crop_and_resize":
            start, end = (np.float32(bound) for bound in each.region)
            if each.target == 1:
                return np.full_like(x, half * (start + end) * (source - 1))
            return start * (source - 1) + x * (end - start) * (source - 1) / (target - 1)
    raise ShapeError(f"unknown coordinate_transformation_mode {mode!r}")


ROUNDING: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - np.float32(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def nearest_indices(each: AxisMap, attributes: Attributes) -> Array:
    """Return the source index of every output position."""
    x = coordinates(each, attributes["coordinate_transformation_mode"])
    picked = ROUNDING[attributes["nearest_mode"]](x).astype(np.int64)
    return np.asarray(np.clip(picked, 0, each.source - 1))


def cubic_kernel(distance: Array, a: float) -> Array:
    """Return the cubic convolution kernel (Keys 1981) with coefficient `a` at `distance`."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.asarray(np.where(d <= 1, near, np.where(d < 2, far, 0)))


def interpolation_matrix(each: AxisMap, attributes: Attributes) -> Array:
    """Return weights [target, source] of linear or cubic interpolation; rows sum to 1.

    Taps outside the axis fall on its edge, or vanish (rows rescaled) with `exclude_outside`.
    With `antialias`, the kernel is stretched by 1/scale where the axis shrinks.
    """
    x = coordinates(each, attributes["coordinate_transformation_mode"]).astype(np.float64)
    linear = attributes["mode"] == "linear"
    antialias = bool(attributes["antialias"]) and each.scale < 1
    stretch = float(each.scale) if antialias else 1.0
    support = (1 if linear else 2) / stretch
    if linear and not antialias:
        x = np.clip(x, 0, each.source - 1)
    first = np.floor(x - support).astype(np.int64) + 1
    taps = first[:, None] + np.arange(math.ceil(2 * support))
    distance = (taps - x[:, None]) * stretch
    weights = (
        np.maximum(1 - np.abs(distance), 0)
        if linear
        else cubic_kernel(distance, attributes["cubic_coeff_a"])
    )
    if attributes["exclude_outside"]:
        weights = np.where((taps >= 0) & (taps < each.source), weights, 0)
    weights = weights / weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((each.target, each.source))
    rows = np.broadcast_to(np.arange(each.target)[:, None], taps.shape)
    np.add.at(matrix, (rows, np.clip(taps, 0, each.source - 1)), weights)
    return matrix


def outside(each: AxisMap, attributes: Attributes) -> Array:
    """Return which output positions read beyond the axis (only a crop can)."""
    x = coordinates(each, attributes["coordinate_transformation_mode"])
    return np.asarray((x < 0) | (x > each.source - 1))


def resize_axis(x: Array, each: AxisMap, attributes: Attributes) -> Array:
    """Return `x` with one axis resized."""
    if attributes["mode"] == "nearest":
        return np.take(x, nearest_indices(each, attributes), axis=each.axis)
    kind = np.float64 if x.dtype == np.float64 else np.float32
    matrix = interpolation_matrix(each, attributes).astype(kind)
    moved = np.moveaxis(x, each.axis, -1)
    return np.moveaxis(np.matmul(moved.astype(kind), matrix.T), -1, each.axis)


# -- extents -------------------------------------------------------------------------------------


def scaled_extent(dim: Dim, scale: float) -> Dim:
    """Return floor(dim * scale), with the product in float32 for numbers as ONNX Runtime does."""
    if isinstance(dim, int):
        return int(np.float32(dim) * np.float32(scale))
    fraction = Fraction(float(scale)).limit_denominator(FRACTION_LIMIT)
    if np.float32(float(fraction)) != np.float32(scale):
        fraction = Fraction(float(scale))
    return floordiv(dim * fraction.numerator, fraction.denominator)


def resized_axes(attributes: Attributes, rank: int) -> tuple[int, ...]:
    """Return the axes that scales, sizes and roi speak of."""
    axes = attributes["axes"]
    return tuple(range(rank)) if axes is None else tuple(axis % rank for axis in axes)


def aspect_scale(extents: Sequence[int], sizes: Sequence[int], policy: str) -> float | None:
    """Return the one scale that keeps the aspect ratio; None for the policy "stretch"."""
    if policy == "stretch":
        return None
    ratios = [
        float(np.float32(size) / np.float32(extent))
        for size, extent in zip(sizes, extents, strict=True)
    ]
    return min(ratios) if policy == "not_larger" else max(ratios)


def axis_maps(x: Array, inputs: Inputs, attributes: Attributes) -> list[AxisMap]:
    """Return how each axis is resized, from the roi, scales and sizes inputs."""
    roi, scales, sizes = (optional(inputs, index) for index in (1, 2, 3))
    axes = resized_axes(attributes, x.ndim)
    extents = [x.shape[axis] for axis in axes]
    if scales is not None and scales.size:
        factors = [np.float32(scale) for scale in scales]
        pairs = zip(extents, factors, strict=True)
        targets = list(plain(scaled_extent(extent, float(f)) for extent, f in pairs))
    elif sizes is not None and sizes.size:
        targets = [int(size) for size in sizes]
        factors = [np.float32(t) / np.float32(e) for t, e in zip(targets, extents, strict=True)]
        kept = aspect_scale(extents, targets, attributes["keep_aspect_ratio_policy"])
        if kept is not None:
            factors = [np.float32(kept)] * len(axes)
            targets = [math.floor(np.float32(kept) * extent + 0.5) for extent in extents]
    else:
        raise ValueError("Resize needs scales or sizes")
    regions = [(0.0, 1.0)] * len(axes)
    if attributes["coordinate_transformation_mode"] == "tf_crop_and_resize" and roi is not None:
        count = len(axes)
        regions = [(float(roi[index]), float(roi[index + count])) for index in range(count)]
    return [AxisMap(*each) for each in zip(axes, extents, targets, factors, regions, strict=True)]


def _target_shape(node: Node, shape: Shape) -> Shape:
    """Return the output's shape as far as scales or sizes are known."""
    axes = resized_axes(node.attributes, len(shape))
    result = list(shape)
    scales, sizes = node.input(2), node.input(3)
    if scales is not None and scales.constant is not None and scales.array.size:
        for axis, scale in zip(axes, scales.array.reshape(-1), strict=True):
            result[axis] = scaled_extent(shape[axis], float(scale))
        return tuple(result)
    wanted = _sizes(node, sizes, [shape[axis] for axis in axes])
    for index, axis in enumerate(axes):
        result[axis] = unknown_extent(node, 0, axis) if wanted is None else wanted[index]
    return tuple(result)


def _sizes(node: Node, sizes: Value | None, extents: list[Dim]) -> list[Dim] | None:
    known = contents(sizes)
    if known is None:
        return None
    policy = node.attributes["keep_aspect_ratio_policy"]
    if policy == "stretch":
        return list(known)
    numbers = [dim for dim in known if isinstance(dim, int)]
    sources = [dim for dim in extents if isinstance(dim, int)]
    if len(numbers) != len(known) or len(sources) != len(extents):
        return None
    kept = aspect_scale(sources, numbers, policy)
    return [math.floor(np.float32(kept) * extent + 0.5) for extent in sources]


class Resize(Op):
    """Resize axes of x by scales or to sizes: nearest, linear or cubic interpolation.

    Inputs x, roi (for tf_crop_and_resize: starts, then ends, as fractions), scales, sizes.
    """

    name = "Resize"
    attributes: ClassVar[Mapping[str, Any]] = {
        "antialias": 0,
        "axes": None,
        "coordinate_transformation_mode": "half_pixel",
        "cubic_coeff_a": -0.75,
        "exclude_outside": 0,
        "extrapolation_value": 0.0,
        "keep_aspect_ratio_policy": "stretch",
        "mode": "nearest",
        "nearest_mode": "round_prefer_floor",
    }
    operations_per_element = 4

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the output's type; raise ShapeError for an unknown mode."""
        x = node.present_inputs[0]
        if node.attributes["mode"] not in ("nearest", "linear", "cubic"):
            raise ShapeError(f"unknown mode {node.attributes['mode']!r}", where=str(node))
        if x.shape is None:
            return [Inferred(x.dtype, None)]
        for axis in node.attributes["axes"] or ():
            normalize_axis(axis, len(x.shape), node)
        return [Inferred(x.dtype, _target_shape(node, x.shape))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Resize one axis after the other, the most shrinking first."""
        x = required(inputs, 0)
        maps = axis_maps(x, inputs, attributes)
        crop = attributes["coordinate_transformation_mode"] == "tf_crop_and_resize"
        changing = [each for each in maps if crop or each.scale != 1 or each.source != each.target]
        out = widen(x)
        for each in sorted(changing, key=lambda each: each.target / max(each.source, 1)):
            out = resize_axis(out, each, attributes)
        if crop:
            out = out.copy()
            for each in maps:
                index: list[Any] = [slice(None)] * out.ndim
                index[each.axis] = outside(each, attributes)
                out[tuple(index)] = attributes["extrapolation_value"]
        return [narrow(out, x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover modes, coordinates, rounding, scales, sizes, axes, policies and crops."""
        return _resize_samples()

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count the taps of each output element."""
        taps = {"nearest": 1, "linear": 8, "cubic": 32}[node.attributes["mode"]]
        return Cost(product(node.outputs[0].shape or ()) * taps, bytes_of(node))


def _resize_samples() -> list[Sample]:
    image = random_array(1, 1, 2, 5, 6)

    def by_scale(name: str, scale: tuple[float, float], **attributes: object) -> Sample:
        scales = np.array([1, 1, *scale], np.float32)
        return Sample((image, None, scales), attributes, (2,), name=name)

    def by_size(name: str, *sizes: int, **attributes: object) -> Sample:
        extents = np.array(sizes, np.int64)
        return Sample((image, None, None, extents), attributes, (3,), name=name)

    up, down, mixed = (2.0, 3.0), (0.6, 0.5), (1.7, 0.8)
    cases = [by_scale(f"nearest_{mode}", mixed, nearest_mode=mode) for mode in sorted(ROUNDING)]
    for mode in (
        "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
    ):  # fmt: skip
        shared = {"coordinate_transformation_mode": mode}
        cases += [
            by_scale(f"nearest_{mode}", up, **shared),
            by_scale(f"linear_{mode}", mixed, mode="linear", **shared),
            by_scale(f"cubic_{mode}", mixed, mode="cubic", **shared),
            by_size(f"linear_down_{mode}", 1, 2, 1, 4, mode="linear", **shared),
        ]
    roi = np.array([0, 0, 0.4, 0.6, 1, 1, 0.6, 1.2], np.float32)
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 10.0}
    sizes = np.array([1, 2, 3, 4], np.int64)
    axes = {"axes": (2, 3), "mode": "linear"}
    return [
        *cases,
        by_scale("cubic_down", down, mode="cubic"),
        by_scale("cubic_exclude", mixed, mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5),
        by_scale("linear_antialias", down, mode="linear", antialias=1),
        by_scale("cubic_antialias", down, mode="cubic", antialias=1),
        by_scale("antialias_exclude", down, mode="linear", antialias=1, exclude_outside=1),
        by_size("nearest_sizes", 1, 2, 8, 3),
        by_size("not_larger", 7, 9, keep_aspect_ratio_policy="not_larger", **axes),
        by_size("not_smaller", 7, 9, keep_aspect_ratio_policy="not_smaller", **axes),
        Sample((image, roi, None, sizes), {**crop, "mode": "linear"}, (1, 3), name="crop"),
        Sample((image, roi, None, sizes), {**crop, "mode": "cubic"}, (1, 3), name="crop_cubic"),
        Sample((image, roi, None, sizes), crop, (1, 3), name="crop_nearest"),
    ]
