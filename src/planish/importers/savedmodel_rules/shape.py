"""Shapes and what only moves elements: reshape, slice, join, repeat, pad."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planish.importers.savedmodel_rules.repeats import enlarged, note_tile
from planish.importers.tensorflow_builder import Builder, rule
from planish.importers.tensorflow_graph import TfNode
from planish.ir.dtypes import F32, I32, DType
from planish.ir.graph import Value

END = (1 << 31) - 1  # beyond every axis


def out_type(builder: Builder) -> DType:
    """Return the type that a node's shape results have."""
    return builder.dtype(builder.attribute("out_type", np.dtype(np.int32)))


@rule("Shape")
def shape(node: TfNode, builder: Builder) -> Value:
    """Return the extents."""
    return builder.cast(builder.shape_of(builder.input()), out_type(builder))


@rule("ShapeN")
def shape_n(node: TfNode, builder: Builder) -> list[Value]:
    """Return the extents of every operand."""
    return [builder.cast(builder.shape_of(x), out_type(builder)) for x in builder.inputs]


@rule("Size")
def size(node: TfNode, builder: Builder) -> Value:
    """Return the number of elements."""
    return builder.cast(builder.emit("Size", builder.input()), out_type(builder))


@rule("Rank")
def rank(node: TfNode, builder: Builder) -> Value:
    """Return the number of axes."""
    return builder.constant(np.array(builder.rank(builder.input()), np.int32))


@rule("Reshape")
def reshape(node: TfNode, builder: Builder) -> Value:
    """Give another shape; one extent may be -1."""
    x, target = builder.input(0), builder.i64(builder.input(1))
    result = builder.emit("Reshape", x, target, allowzero=_allow_zero(target))
    return enlarged(builder, x, result) or result


def _allow_zero(target: Value) -> int:
    """Return 1 where a 0 in the shape means an empty axis, as TensorFlow has it."""
    if not target.is_constant:
        return 0
    numbers = target.array.reshape(-1).tolist()
    return int(0 in numbers and -1 not in numbers)


@rule("Squeeze")
def squeeze(node: TfNode, builder: Builder) -> Value:
    """Drop axes of extent 1: the given ones, or all."""
    x, axes = builder.input(), builder.attribute("squeeze_dims") or builder.attribute("axis")
    if axes:
        return builder.squeeze(x, *(int(axis) for axis in axes))
    rank = builder.rank(x)
    return builder.squeeze(x, *(axis for axis in range(rank) if x.known_shape[axis] == 1))


@rule("ExpandDims")
def expand_dims(node: TfNode, builder: Builder) -> Value:
    """Insert an axis of extent 1."""
    return builder.unsqueeze(builder.input(0), builder.integer(1, "the axis"))


@rule("Transpose")
def transpose(node: TfNode, builder: Builder) -> Value:
    """Reorder axes."""
    return builder.transpose(builder.input(0), builder.integers(1, "the order of the axes"))


@rule("Pack")
def pack(node: TfNode, builder: Builder) -> Value:
    """Stack tensors along a new axis."""
    axis = int(builder.attribute("axis", 0))
    rows = [builder.unsqueeze(value, axis) for value in builder.inputs]
    return builder.concat(rows, axis)


@rule("Unpack")
def unpack(node: TfNode, builder: Builder) -> list[Value]:
    """Take the slices along an axis apart."""
    x, axis = builder.input(), int(builder.attribute("axis", 0))
    count = int(builder.attribute("num"))
    if count == 0:
        return []
    if count == 1:
        return [builder.squeeze(x, axis)]
    rank = builder.rank(x)
    sizes = builder.constant(np.ones(count, np.int64))
    parts = builder.emit_many("Split", count, x, sizes, axis=axis % rank)
    return [builder.squeeze(part, axis) for part in parts]


@rule("ConcatV2", "Concat")
def concat(node: TfNode, builder: Builder) -> Value:
    """Join tensors; those without elements along the axis are left out."""
    axis_at = len(builder.operands) - 1 if node.op == "ConcatV2" else 0
    axis = builder.integer(axis_at, "the axis")
    values = [builder.input(i) for i in range(len(builder.operands)) if i != axis_at]
    return builder.concat(values, axis)


@rule("ParallelConcat")
def parallel_concat(node: TfNode, builder: Builder) -> Value:
    """Join tensors along their first axes."""
    return builder.concat(builder.inputs, 0)


@rule("Split", "SplitV")
def split(node: TfNode, builder: Builder) -> list[Value]:
    """Cut along an axis into equal parts, or parts of the given extents (one may be -1)."""
    if node.op == "Split":
        axis, x, sizes = builder.integer(0, "the axis"), builder.input(1), None
    else:
        x, axis = builder.input(0), builder.integer(2, "the axis")
        sizes = builder.integers(1, "the extents of the parts")
    count = int(builder.attribute("num_split", 0 if sizes is None else len(sizes)))
    if count == 1:
        return [x]
    axis %= builder.rank(x)
    if sizes is None:
        return list(builder.emit_many("Split", count, x, axis=axis, num_outputs=count))
    if -1 in sizes:
        extent = x.known_shape[axis]
        if not isinstance(extent, int):
            return _slices(builder, x, axis, sizes)
        rest = extent - sum(each for each in sizes if each != -1)
        sizes = tuple(rest if each == -1 else each for each in sizes)
    operand = builder.constant(np.array(sizes, np.int64))
    return list(builder.emit_many("Split", count, x, operand, axis=axis))


def _slices(builder: Builder, x: Value, axis: int, sizes: Sequence[int]) -> list[Value]:
    """Return parts of an open extent: in front of the open one from 0, behind it from the end."""
    hole = sizes.index(-1)
    bounds = [
        (sum(sizes[:i]), sum(sizes[: i + 1]))
        if i < hole
        else (-sum(sizes[i:]), -sum(sizes[i + 1 :]))
        for i in range(len(sizes))
    ]
    bounds[hole] = (sum(sizes[:hole]), -sum(sizes[hole + 1 :]))
    return [slice_axis(builder, x, axis, start, stop or END) for start, stop in bounds]


def slice_axis(
    builder: Builder, x: Value, axis: int, start: int, stop: int, step: int = 1
) -> Value:
    """Return elements start, start + step, ... before stop of one axis (ONNX's meaning)."""
    numbers = [builder.constant(np.array([n], np.int64)) for n in (start, stop, axis, step)]
    return builder.emit("Slice", x, *numbers)


@rule("Slice")
def slice_(node: TfNode, builder: Builder) -> Value:
    """Take `size` elements from `begin` on along every axis; size -1 means all that are left."""
    x, begin, size = builder.inputs
    starts, sizes = builder.i64(begin), builder.i64(size)
    rank = builder.rank(x)
    axes = builder.constant(np.arange(rank, dtype=np.int64))
    known_starts, known_sizes = builder.dims(starts), builder.dims(sizes)
    if known_sizes is not None and all(isinstance(each, int) for each in known_sizes):
        if known_starts is not None and all(isinstance(each, int) for each in known_starts):
            ends = [
                END if length == -1 else start + length
                for start, length in zip(known_starts, known_sizes, strict=True)
            ]
            return builder.emit("Slice", x, starts, builder.constant(np.array(ends)), axes)
        if all(length != -1 for length in known_sizes):
            return builder.emit("Slice", x, starts, builder.emit("Add", starts, sizes), axes)
    whole = builder.emit("Equal", sizes, builder.constant(np.array(-1, np.int64)))
    ends_value = builder.emit(
        "Where",
        whole,
        builder.constant(np.array(END, np.int64)),
        builder.emit("Add", starts, sizes),
    )
    return builder.emit("Slice", x, starts, ends_value, axes)


@rule("Tile")
def tile(node: TfNode, builder: Builder) -> Value:
    """Repeat along every axis."""
    x = builder.input(0)
    result = builder.emit("Tile", x, builder.i64(builder.input(1)))
    note_tile(builder, x, result)
    return result


@rule("BroadcastTo")
def broadcast_to(node: TfNode, builder: Builder) -> Value:
    """Repeat axes of extent 1 up to a shape."""
    return builder.emit("Expand", builder.input(0), builder.i64(builder.input(1)))


@rule("BroadcastArgs")
def broadcast_args(node: TfNode, builder: Builder) -> Value:
    """Return the shape that two shapes broadcast to."""
    left, right = (builder.i64(value) for value in builder.inputs)
    lengths = [value.known_shape[0] for value in (left, right)]
    if not all(isinstance(length, int) for length in lengths):
        builder.refuse("the ranks of the shapes are not known")
    longest = max(int(str(length)) for length in lengths)
    padded = [
        builder.concat([builder.constant(np.ones(longest - int(str(length)), np.int64)), value])
        if length != longest
        else value
        for value, length in zip((left, right), lengths, strict=True)
    ]
    one = builder.constant(np.array(1, np.int64))
    is_one = builder.emit("Equal", padded[0], one)
    result = builder.emit("Where", is_one, padded[1], padded[0])
    return builder.cast(result, builder.input(0).dtype)


@rule("Fill")
def fill(node: TfNode, builder: Builder) -> Value:
    """Fill a shape with one number."""
    target, number = builder.i64(builder.input(0)), builder.input(1)
    if number.is_constant:
        return builder.emit("ConstantOfShape", target, value=number.array.reshape(1))
    return builder.emit("Expand", number, target)


@rule("Range")
def range_(node: TfNode, builder: Builder) -> Value:
    """Count from start to limit."""
    return builder.emit("Range", *builder.inputs)


@rule("LinSpace")
def linspace(node: TfNode, builder: Builder) -> Value:
    """Return evenly spaced numbers, both ends included."""
    start, stop = builder.input(0), builder.input(1)
    count = builder.integer(2, "the number of points")
    steps = builder.constant(np.arange(count).astype(start.dtype.numpy))
    width = builder.emit("Sub", stop, start)
    step = builder.emit("Div", width, builder.scalar(max(count - 1, 1), start))
    return builder.emit("Add", start, builder.emit("Mul", steps, step))


@rule("ReverseV2")
def reverse(node: TfNode, builder: Builder) -> Value:
    """Turn axes around."""
    x, axes = builder.input(0), builder.integers(1, "the axes")
    if not axes:
        return x
    count = len(axes)
    numbers = ([-1] * count, [-END] * count, list(axes), [-1] * count)
    return builder.emit("Slice", x, *(builder.constant(np.array(n, np.int64)) for n in numbers))


@rule("ReverseSequence")
def reverse_sequence(node: TfNode, builder: Builder) -> Value:
    """Turn the first elements of every sequence around."""
    x, lengths = builder.input(0), builder.i64(builder.input(1))
    time, batch = int(builder.attribute("seq_dim")), int(builder.attribute("batch_dim", 0))
    if {time, batch} != {0, 1}:
        builder.refuse(f"the sequences lie along axes {batch} and {time}")
    return builder.emit("ReverseSequence", x, lengths, time_axis=time, batch_axis=batch)


@rule("Roll")
def roll(node: TfNode, builder: Builder) -> Value:
    """Shift elements along axes; those that fall off come in at the other end."""
    x, shifts = builder.input(0), builder.integers(1, "the shifts")
    for shift, axis in zip(shifts, builder.integers(2, "the axes"), strict=True):
        extent = x.known_shape[axis]
        cut = -shift % extent if isinstance(extent, int) else -shift
        if cut:
            parts = [slice_axis(builder, x, axis, *pair) for pair in ((cut, END), (0, cut))]
            x = builder.concat(parts, axis)
    return x


@rule("Pad", "PadV2", "MirrorPad")
def pad(node: TfNode, builder: Builder) -> Value:
    """Add elements around: zeros, a number, or a reflection."""
    x, widths = builder.input(0), builder.i64(builder.input(1))
    pads = builder.reshape(builder.transpose(widths, (1, 0)), -1)
    if node.op == "PadV2":
        return builder.emit("Pad", x, pads, builder.input(2))
    if node.op == "Pad":
        return builder.emit("Pad", x, pads)
    if builder.attribute("mode") == "REFLECT":
        return builder.emit("Pad", x, pads, mode="reflect")
    return _symmetric(builder, x, builder.integers(1, "the widths of the padding"))


def _symmetric(builder: Builder, x: Value, widths: Sequence[int]) -> Value:
    """Reflect with the edge repeated, one axis after the other."""
    for axis, (before, after) in enumerate(zip(widths[::2], widths[1::2], strict=True)):
        parts = [x]
        if before:
            parts.insert(0, slice_axis(builder, x, axis, before - 1, -END, -1))
        if after:
            parts.append(slice_axis(builder, x, axis, -1, -after - 1, -1))
        x = builder.concat(parts, axis)
    return x


@rule("DataFormatVecPermute", "DataFormatDimMap")
def data_format(node: TfNode, builder: Builder) -> Value:
    """Reorder one number an axis, or map axis numbers, between data formats."""
    source = str(builder.attribute("src_format", "NHWC"))
    target = str(builder.attribute("dst_format", "NCHW"))
    x = builder.input()
    if node.op == "DataFormatDimMap":
        table = builder.constant(np.array([target.index(c) for c in source], x.dtype.numpy))
        return builder.emit("Gather", table, x, axis=0)
    if x.known_shape[0] != len(source):  # only the spatial axes are given
        source, target = (text.replace("N", "").replace("C", "") for text in (source, target))
    order = builder.constant(np.array([source.index(c) for c in target], np.int64))
    return builder.emit("Gather", x, order, axis=0)


@rule("MatrixBandPart")
def matrix_band_part(node: TfNode, builder: Builder) -> Value:
    """Keep diagonals near the main one; a negative number keeps all on that side."""
    x = builder.input(0)
    low, high = builder.integer(1, "the band"), builder.integer(2, "the band")
    if low >= 0:
        x = builder.emit("Trilu", x, builder.constant(np.array(-low, np.int64)), upper=1)
    if high >= 0:
        x = builder.emit("Trilu", x, builder.constant(np.array(high, np.int64)), upper=0)
    return x


@rule("InvertPermutation")
def invert_permutation(node: TfNode, builder: Builder) -> Value:
    """Return the inverse of a permutation that is known."""
    order = builder.integers(0, "the permutation")
    return builder.constant(np.argsort(order).astype(builder.input().dtype.numpy))


@rule("Where")
def where(node: TfNode, builder: Builder) -> Value:
    """Return the positions of elements that are not zero, one row each."""
    return builder.transpose(builder.emit("NonZero", builder.input()), (1, 0))


@rule("Bucketize")
def bucketize(node: TfNode, builder: Builder) -> Value:
    """Return how many boundaries are not larger than each element."""
    x = builder.input()
    edges = builder.constant(np.array(builder.attribute("boundaries"), np.float32))
    wide = builder.unsqueeze(builder.cast(x, F32), builder.rank(x))
    passed = builder.cast(builder.emit("GreaterOrEqual", wide, edges), I32)
    axis = builder.constant(np.array([-1], np.int64))
    return builder.emit("ReduceSum", passed, axis, keepdims=0)
