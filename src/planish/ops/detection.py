"""Operators of object detectors: regions of interest and non-maximum suppression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.declarations import REQUIRED
from planish.ir.dtypes import I64
from planish.ir.graph import Node
from planish.ir.requirement import Requirement, equal
from planish.ir.shape import product
from planish.ops.numeric import narrow, optional, random_array, required, widen
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


class RoiAlign(Op):
    """Pool regions of a feature map to a fixed size, sampling between pixels (Mask R-CNN).

    Inputs x [N,C,H,W], rois [R,4] (x1, y1, x2, y2), batch_indices [R] -> [R,C,height,width].
    """

    name = "RoiAlign"
    attributes: ClassVar[Mapping[str, Any]] = {
        "coordinate_transformation_mode": "half_pixel",
        "mode": "avg",
        "output_height": 1,
        "output_width": 1,
        "sampling_ratio": 0,
        "spatial_scale": 1.0,
    }

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the type of the pooled regions."""
        x, rois = node.present_inputs[:2]
        if x.shape is None or rois.shape is None:
            return [Inferred(x.dtype, None)]
        size = node.attributes["output_height"], node.attributes["output_width"]
        return [Inferred(x.dtype, (rois.shape[0], x.shape[1], *size))]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that there is a batch index for every region."""
        rois, batch = node.present_inputs[1].shape, node.present_inputs[2].shape
        return equal(rois[0], batch[0]) if rois and batch else []

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Interpolate separably, then average (or take the largest weighted neighbour)."""
        x, rois, batch = (required(inputs, index) for index in range(3))
        size = attributes["output_height"], attributes["output_width"]
        out = np.zeros((len(rois), x.shape[1], *size), widen(x).dtype)
        scaled = widen(rois) * widen(rois).dtype.type(attributes["spatial_scale"])
        for index, (roi, image) in enumerate(zip(scaled, batch, strict=True)):
            out[index] = _pool_region(widen(x)[int(image)], roi, size, attributes)
        return [narrow(out, x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover modes, coordinates, adaptive and fixed sampling, and regions at the border."""
        x = np.abs(random_array(1, 2, 3, 10, 12))
        rois = np.array(
            [[0, 0, 9, 9], [1.5, 2, 6, 7.5], [-2, -1, 3, 4], [8, 8, 14, 12]], np.float32
        )
        batch = np.array([0, 1, 0, 1], np.int64)
        size = {"output_height": 3, "output_width": 4}
        output = {"coordinate_transformation_mode": "output_half_pixel"}
        fixed = {"sampling_ratio": 2, "spatial_scale": 0.5}
        return [
            Sample((x, rois, batch), size),
            Sample((x, rois, batch), {**size, **fixed}, name="fixed"),
            Sample((x, rois, batch), {**size, **output}, name="output_half_pixel"),
            Sample((x, rois, batch), {**size, "mode": "max", "sampling_ratio": 2}, name="max"),
        ]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count four samples of four neighbours an output element."""
        samples = max(node.attributes["sampling_ratio"], 2) ** 2
        return Cost(product(node.outputs[0].shape or ()) * samples * 8, bytes_of(node))


def _axis_weights(
    start: float, length: float, bins: int, samples: int, extent: int
) -> tuple[Array, Array, Array]:
    """Return lower neighbours, upper neighbours and the upper one's weight, [bins * samples].

    Samples further than one pixel outside have NaN weights.
    """
    step = length / bins
    offsets = (np.arange(samples) + 0.5) / samples
    points = start + (np.arange(bins)[:, None] + offsets) * step
    flat = points.reshape(-1)
    inside = np.clip(flat, 0, None)
    low = np.minimum(inside.astype(np.int64), extent - 1)
    high = np.minimum(low + 1, extent - 1)
    weight = np.where(low >= extent - 1, 0.0, inside - low)
    return low, high, np.where((flat < -1) | (flat > extent), np.nan, weight)


def _pool_region(image: Array, roi: Array, size: tuple[int, int], attributes: Attributes) -> Array:
    half_pixel = attributes["coordinate_transformation_mode"] == "half_pixel"
    shift = 0.5 if half_pixel else 0.0
    x1, y1, x2, y2 = (float(edge) - shift for edge in roi)
    width, height = x2 - x1, y2 - y1
    if not half_pixel:
        width, height = max(width, 1.0), max(height, 1.0)
    ratio = attributes["sampling_ratio"]
    rows = ratio or max(int(np.ceil(height / size[0])), 1)
    columns = ratio or max(int(np.ceil(width / size[1])), 1)
    low_y, high_y, weight_y = _axis_weights(y1, height, size[0], rows, image.shape[1])
    low_x, high_x, weight_x = _axis_weights(x1, width, size[1], columns, image.shape[2])
    neighbours = []
    for at_y, share_y in ((low_y, 1 - weight_y), (high_y, weight_y)):
        for at_x, share_x in ((low_x, 1 - weight_x), (high_x, weight_x)):
            values = image[:, at_y[:, None], at_x] * np.nan_to_num(share_y[:, None] * share_x)
            neighbours.append(values.reshape(image.shape[0], size[0], rows, size[1], columns))
    if attributes["mode"] == "max":
        return np.asarray(np.max(neighbours, axis=0).max(axis=(2, 4)))
    return np.asarray(np.sum(neighbours, axis=0).mean(axis=(2, 4)))


class MaxRoiPool(Op):
    """Largest element of each cell of regions of interest (Fast R-CNN).

    Inputs x [N,C,H,W], rois [R,5] (batch index, x1, y1, x2, y2) -> [R,C,*pooled_shape].
    """

    name = "MaxRoiPool"
    attributes: ClassVar[Mapping[str, Any]] = {"pooled_shape": REQUIRED, "spatial_scale": 1.0}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the type of the pooled regions."""
        x, rois = node.present_inputs
        if x.shape is None or rois.shape is None:
            return [Inferred(x.dtype, None)]
        return [Inferred(x.dtype, (rois.shape[0], x.shape[1], *node.attributes["pooled_shape"]))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Take the maximum of each cell; an empty cell gives zero."""
        x, rois = required(inputs, 0), required(inputs, 1)
        bins = tuple(attributes["pooled_shape"])
        out = np.zeros((len(rois), x.shape[1], *bins), x.dtype)
        for index, roi in enumerate(rois):
            image = x[int(roi[0])]
            corners = np.floor(widen(roi[1:]) * attributes["spatial_scale"] + 0.5).astype(int)
            ranges = [
                _cells(int(corners[1]), int(corners[3]), bins[0], image.shape[1]),
                _cells(int(corners[0]), int(corners[2]), bins[1], image.shape[2]),
            ]
            for row, (top, bottom) in enumerate(ranges[0]):
                for column, (left, right) in enumerate(ranges[1]):
                    cell = image[:, top:bottom, left:right]
                    if cell.size:
                        out[index, :, row, column] = cell.max(axis=(1, 2))
        return [out]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover scales and regions at the border."""
        x = random_array(1, 2, 3, 8, 9)
        rois = np.array([[0, 0, 0, 7, 7], [1, 2, 1, 6, 5], [0, 4, 4, 12, 12]], np.float32)
        return [
            Sample((x, rois), {"pooled_shape": (2, 3)}),
            Sample((x, rois), {"pooled_shape": (3, 2), "spatial_scale": 0.5}, name="scaled"),
        ]


def _cells(start: int, end: int, bins: int, extent: int) -> list[tuple[int, int]]:
    """Return (first, last + 1) pixel of every bin of [start, end], clipped to the image."""
    step = max(end - start + 1, 1) / bins
    return [
        (
            min(max(int(np.floor(index * step)) + start, 0), extent),
            min(max(int(np.ceil((index + 1) * step)) + start, 0), extent),
        )
        for index in range(bins)
    ]


class NonMaxSuppression(Op):
    """Pick boxes by score, dropping those that overlap a picked one of the same class too much.

    Inputs boxes [N,B,4], scores [N,C,B], and optionally max_output_boxes_per_class,
    iou_threshold, score_threshold -> [K,3]: batch, class, box.
    """

    name = "NonMaxSuppression"
    attributes: ClassVar[Mapping[str, Any]] = {"center_point_box": 0}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return [K,3], K decided by the data."""
        boxes = node.present_inputs[0]
        coordinates = boxes.shape[-1] if boxes.shape else 4
        if isinstance(coordinates, int) and coordinates != 4:
            raise ShapeError(f"boxes need 4 coordinates, got {boxes}", where=str(node))
        return [Inferred(I64, (unknown_extent(node, 0, 0), 3))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Go through boxes by falling score (ties: lower index first)."""
        boxes, scores = widen(required(inputs, 0)), widen(required(inputs, 1))
        limit, overlap, least = (optional(inputs, index) for index in (2, 3, 4))
        most = 0 if limit is None else int(limit.reshape(-1)[0])
        threshold = 0.0 if overlap is None else float(overlap.reshape(-1)[0])
        picked = []
        for batch, (corners, by_class) in enumerate(zip(boxes, scores, strict=True)):
            edges = _edges(corners, bool(attributes["center_point_box"]))
            for label, row in enumerate(by_class):
                candidates = np.arange(len(row))
                if least is not None:
                    candidates = candidates[row > least.reshape(-1)[0]]
                order = candidates[np.argsort(-row[candidates], kind="stable")]
                kept = _suppress(edges, order, most, threshold)
                picked += [(batch, label, box) for box in kept]
        return [np.array(picked, np.int64).reshape(-1, 3)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover both box formats, limits, both thresholds and flipped corners."""
        generator = np.random.default_rng(1)
        corner = generator.random((2, 12, 2)) * 6
        boxes = np.concatenate([corner, corner + 1 + generator.random((2, 12, 2)) * 4], axis=2)
        boxes = boxes.astype(np.float32)
        scores = generator.random((2, 3, 12)).astype(np.float32)
        limit, overlap = np.array([4], np.int64), np.array([0.3], np.float32)
        least = np.array([0.4], np.float32)
        flipped = boxes[..., [2, 3, 0, 1]].copy()
        centred = {"center_point_box": 1}
        constant = (2, 3, 4)
        return [
            Sample((boxes, scores, limit, overlap, least), {}, constant),
            Sample((boxes, scores, limit, overlap), {}, (2, 3), name="no_score"),
            Sample((flipped, scores, limit, overlap, least), {}, constant, name="flipped"),
            Sample((boxes, scores, limit, overlap, least), centred, constant, name="centred"),
            Sample((boxes, scores), {}, name="no_limit"),
        ]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count one pass over the scores; the rest depends on the data."""
        inputs = [
            product(value.shape or ()) * value.dtype.itemsize for value in node.present_inputs
        ]
        return Cost(product(node.present_inputs[1].shape or ()), sum(inputs, start=0))


def _edges(boxes: Array, centred: bool) -> Array:
    """Return boxes [B,4] as y1, x1, y2, x2 with the smaller edges first."""
    if centred:
        centre, half = boxes[:, [1, 0]], boxes[:, [3, 2]] / 2
        return np.concatenate([centre - half, centre + half], axis=1)
    first, second = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=1)


def _suppress(edges: Array, order: Array, most: int, threshold: float) -> list[int]:
    kept: list[int] = []
    while len(order) and len(kept) < most:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        order = order[_overlaps(edges[best], edges[order]) <= threshold]
    return kept


def _overlaps(box: Array, others: Array) -> Array:
    """Return intersection over union of one box with others."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return np.asarray(np.where(union > 0, shared / np.where(union > 0, union, 1), 0))
