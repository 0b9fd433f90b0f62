"""Images: resizing, cropping, and choosing boxes."""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.importers.tensorflow_builder import Builder, rule
from planish.importers.tensorflow_graph import TfNode
from planish.ir.dtypes import F32, I32
from planish.ir.graph import Value

END = (1 << 31) - 1
NOTHING = np.float32(-3.0e38)  # below every score


@rule("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic")
def resize(node: TfNode, builder: Builder) -> Value:
    """Interpolate height and width; all but nearest give float32."""
    x, target = builder.input(0), builder.i64(builder.input(1))
    nearest = node.op == "ResizeNearestNeighbor"
    if not nearest:
        x = builder.cast(x, F32)
    image = builder.transpose(x, (0, 3, 1, 2))
    batch_and_channels = _extents(builder, image, 0, 2)
    sizes = builder.concat([batch_and_channels, target])
    result = builder.emit("Resize", image, None, None, sizes, **_resize_attributes(builder))
    return builder.transpose(result, (0, 2, 3, 1))


def _resize_attributes(builder: Builder) -> dict[str, Any]:
    """Return the coordinates that TensorFlow's two flags mean."""
    corners = bool(builder.attribute("align_corners", False))
    half = bool(builder.attribute("half_pixel_centers", False))
    coordinates = "align_corners" if corners else "half_pixel" if half else "asymmetric"
    found: dict[str, Any] = {"coordinate_transformation_mode": coordinates}
    if builder.node.op == "ResizeBilinear":
        return {**found, "mode": "linear"}
    if builder.node.op == "ResizeBicubic":
        # with half pixels Keys' kernel without taps outside, else OpenCV's with clamped ones
        return {
            **found,
            "mode": "cubic",
            "cubic_coeff_a": -0.5 if half else -0.75,
            "exclude_outside": int(half),
        }
    return {**found, "mode": "nearest", "nearest_mode": _rounding(corners or half)}


def _rounding(rounds: bool) -> str:
    return "round_prefer_ceil" if rounds else "floor"


def _extents(builder: Builder, value: Value, first: int, stop: int) -> Value:
    numbers = [builder.constant(np.array([n], np.int64)) for n in (first, stop)]
    return builder.emit("Slice", builder.shape_of(value), *numbers)


@rule("CropAndResize")
def crop_and_resize(node: TfNode, builder: Builder) -> Value:
    """Sample every box on a grid; points outside the image get the extrapolation value."""
    image, boxes, owners = (builder.input(index) for index in range(3))
    crop = builder.integers(3, "the size of the crops")
    mode = str(builder.attribute("method", "bilinear"))
    turned = builder.transpose(builder.cast(image, F32), (0, 3, 1, 2))
    picked = builder.emit("Gather", turned, owners, axis=0)
    places = [_crop_places(builder, boxes, axis, crop[axis]) for axis in (0, 1)]
    inside = [_within(builder, place) for place in places]
    if mode == "nearest":
        places = [_snapped(builder, place, image, axis + 1) for axis, place in enumerate(places)]
    # [-1, 1] from the first pixel's centre to the last's: x = 2 p - 1
    two, one = builder.constant(np.float32(2)), builder.constant(np.float32(1))
    scaled = [builder.emit("Sub", builder.emit("Mul", place, two), one) for place in places]
    rows, columns = builder.unsqueeze(scaled[0], 2), builder.unsqueeze(scaled[1], 1)
    zero = builder.constant(np.float32(0))
    wide = [
        builder.emit("Add", rows, builder.emit("Mul", columns, zero)),
        builder.emit("Add", columns, builder.emit("Mul", rows, zero)),
    ]
    grid = builder.concat([builder.unsqueeze(wide[1], 3), builder.unsqueeze(wide[0], 3)], 3)
    sampled = builder.emit(
        "GridSample",
        picked,
        grid,
        mode="linear" if mode == "bilinear" else "nearest",
        padding_mode="border",
        align_corners=1,
    )
    both = builder.emit("And", builder.unsqueeze(inside[0], 2), builder.unsqueeze(inside[1], 1))
    other = builder.constant(np.float32(builder.attribute("extrapolation_value", 0.0)))
    result = builder.transpose(sampled, (0, 2, 3, 1))
    return builder.emit("Where", builder.unsqueeze(both, 3), result, other)


def _crop_places(builder: Builder, boxes: Value, axis: int, count: int) -> Value:
    """Return where rows (axis 0) or columns of each crop lie, 0 to 1 over the image."""
    low, high = (_column(builder, boxes, column) for column in (axis, axis + 2))
    if count == 1:
        middle = builder.emit("Add", low, high)
        return builder.emit("Mul", middle, builder.constant(np.float32(0.5)))
    steps = builder.constant((np.arange(count) / (count - 1)).astype(np.float32))
    return builder.emit("Add", low, builder.emit("Mul", builder.emit("Sub", high, low), steps))


def _snapped(builder: Builder, place: Value, image: Value, axis: int) -> Value:
    """Return places on the nearest pixels, halves rounded up as TensorFlow does."""
    extent = builder.cast(_extents(builder, image, axis, axis + 1), F32)
    one = builder.constant(np.float32(1))
    last = builder.emit("Max", builder.emit("Sub", extent, one), one)
    pixel = builder.emit("Mul", place, last)
    rounded = builder.emit("Floor", builder.emit("Add", pixel, builder.scalar(0.5, pixel)))
    return builder.emit("Div", rounded, last)


def _within(builder: Builder, place: Value) -> Value:
    low = builder.emit("GreaterOrEqual", place, builder.constant(np.float32(0)))
    return builder.emit(
        "And", low, builder.emit("LessOrEqual", place, builder.constant(np.float32(1)))
    )


def _column(builder: Builder, matrix: Value, column: int) -> Value:
    """Return a column of a matrix as [rows, 1]."""
    numbers = [builder.constant(np.array([n], np.int64)) for n in (column, column + 1, 1)]
    return builder.emit("Slice", matrix, *numbers)


# -- boxes ----------------------------------------------------------------------------------------


@rule(
    "NonMaxSuppression", "NonMaxSuppressionV2", "NonMaxSuppressionV3", "NonMaxSuppressionV4",
    "NonMaxSuppressionV5",
)  # fmt: skip
def non_max_suppression(node: TfNode, builder: Builder) -> list[Value]:
    """Pick boxes by score; those that overlap a picked one too much are dropped."""
    boxes, scores, count = (builder.input(index) for index in range(3))
    overlap, least = _thresholds(node, builder)
    picked = builder.emit(
        "NonMaxSuppression",
        builder.unsqueeze(builder.cast(boxes, F32), 0),
        builder.unsqueeze(builder.cast(scores, F32), 0, 1),
        builder.reshape(builder.i64(count), 1),
        overlap,
        least,
    )
    numbers = [builder.constant(np.array([n], np.int64)) for n in (2, 3, 1)]
    found = builder.reshape(builder.emit("Slice", picked, *numbers), -1)
    total = builder.emit("Size", found)
    results = [builder.cast(found, I32)]
    if builder.attribute("pad_to_max_output_size", False):
        results = [_padded(builder, results[0], total, count)]
    if node.op.endswith("V5"):
        results.append(_picked_scores(builder, scores, found, total, count))
    if node.op.endswith(("V4", "V5")):
        results.append(builder.cast(total, I32))
    return results


def _thresholds(node: TfNode, builder: Builder) -> tuple[Value, Value | None]:
    """Return the overlap above which boxes are dropped, and the score they need."""
    if node.op == "NonMaxSuppression":
        overlap = builder.constant(np.array([builder.attribute("iou_threshold", 0.5)], np.float32))
        return overlap, None
    overlap = builder.reshape(builder.cast(builder.input(3), F32), 1)
    if node.op.endswith("V2"):
        return overlap, None
    if node.op.endswith("V5"):
        sigma = builder.input(5)
        if not sigma.is_constant or float(sigma.array.item()) != 0:
            builder.refuse("soft suppression (sigma above 0) is not converted")
    return overlap, builder.reshape(builder.cast(builder.input(4), F32), 1)


def _padded(builder: Builder, values: Value, total: Value, count: Value) -> Value:
    """Return `values` with zeros behind, `count` elements in all."""
    missing = builder.emit("Sub", builder.reshape(builder.i64(count), 1), builder.reshape(total, 1))
    zeros = builder.emit("ConstantOfShape", missing, value=np.zeros(1, values.dtype.numpy))
    return builder.concat([values, zeros])


def _picked_scores(
    builder: Builder, scores: Value, found: Value, total: Value, count: Value
) -> Value:
    result = builder.emit("Gather", scores, found, axis=0)
    if builder.attribute("pad_to_max_output_size", False):
        return _padded(builder, result, total, count)
    return result


@rule("CombinedNonMaxSuppression")
def combined_non_max_suppression(node: TfNode, builder: Builder) -> list[Value]:
    """Suppress each class on its own, then keep the best of all classes of every image.

    Picked scores are scattered into a full table whose other entries are below every score; the
    largest of its rows are the result, zeros where too few are left.
    """
    boxes, scores = builder.input(0), builder.input(1)
    each, total = (builder.integer(index, "the number of boxes") for index in (2, 3))
    images, count, owners, _ = boxes.known_shape
    classes = scores.known_shape[2]
    if not isinstance(images, int) or not isinstance(count, int) or not isinstance(classes, int):
        builder.refuse("the numbers of images, boxes and classes have to be known")
    shared = owners == 1
    by_class = builder.transpose(scores, (0, 2, 1))  # [images, classes, count]
    own = builder.transpose(boxes, (0, 2, 1, 3))  # [images, 1 or classes, count, 4]
    batches, rows = (images, classes) if shared else (images * classes, 1)
    picked = builder.emit(
        "NonMaxSuppression",
        builder.reshape(own, batches, count, 4),
        builder.reshape(by_class, batches, rows, count),
        builder.constant(np.array([each], np.int64)),
        builder.reshape(builder.input(4), 1),
        builder.reshape(builder.input(5), 1),
    )
    table = builder.reshape(by_class, batches, rows, count)
    nothing = builder.constant(np.full((batches, rows, count), NOTHING, np.float32))
    kept = builder.emit("ScatterND", nothing, picked, builder.emit("GatherND", table, picked))
    size = total
    if builder.attribute("pad_per_class", False):
        size = min(total, each * classes)
    available = min(size, classes * count)
    flat = builder.reshape(kept, images, classes * count)
    best, at = builder.emit_many("TopK", 2, flat, builder.constant(np.array([available])), axis=1)
    return _combined_results(builder, own, best, at, count, size, available, shared)


def _combined_results(
    builder: Builder,
    own: Value,
    best: Value,
    at: Value,
    count: int,
    size: int,
    available: int,
    shared: bool,
) -> list[Value]:
    """Return boxes, scores, classes and the number of valid rows."""
    number = builder.constant(np.array(count, np.int64))
    klass = builder.emit("Div", at, number)
    row = builder.emit("Mod", at, number, fmod=0) if shared else at
    images = best.known_shape[0]
    flat = builder.reshape(own, int(str(images)), -1, 4)
    chosen = builder.emit("GatherND", flat, builder.unsqueeze(row, 2), batch_dims=1)
    if builder.attribute("clip_boxes", True):
        zero, one = builder.constant(np.float32(0)), builder.constant(np.float32(1))
        chosen = builder.emit("Clip", chosen, zero, one)
    valid = builder.emit("Greater", best, builder.constant(NOTHING))
    mask = builder.cast(valid, F32)
    axis = builder.constant(np.array([1], np.int64))
    results = [
        builder.emit("Mul", chosen, builder.unsqueeze(mask, 2)),
        builder.emit("Where", valid, best, builder.constant(np.float32(0))),
        builder.emit("Mul", builder.cast(klass, F32), mask),
    ]
    if size > available:
        results = [_pad_rows(builder, each, size - available) for each in results]
    counts = builder.emit("ReduceSum", builder.cast(valid, I32), axis, keepdims=0)
    return [*results, counts]


def _pad_rows(builder: Builder, value: Value, rows: int) -> Value:
    rank = builder.rank(value)
    widths = np.zeros(2 * rank, np.int64)
    widths[rank + 1] = rows
    return builder.emit("Pad", value, builder.constant(widths))


@rule("AdjustContrastv2")
def adjust_contrast(node: TfNode, builder: Builder) -> Value:
    """Move every pixel away from the mean of its channel."""
    x, factor = builder.inputs
    rank = builder.rank(x)
    axes = builder.constant(np.array([rank - 3, rank - 2], np.int64))
    mean = builder.emit("ReduceMean", x, axes, keepdims=1)
    return builder.emit("Add", builder.emit("Mul", builder.emit("Sub", x, mean), factor), mean)


@rule("RGBToHSV", "HSVToRGB", "AdjustHue", "AdjustSaturation", "ResizeArea", "DecodeJpeg",
      "DecodePng", "DecodeImage")  # fmt: skip
def colours(node: TfNode, builder: Builder) -> Value:
    """Refuse what belongs into the preprocessing."""
    builder.refuse("it has no operator here; do it before the model, on the images")
