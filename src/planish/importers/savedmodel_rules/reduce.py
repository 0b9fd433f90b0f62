"""Reductions over axes, positions of extremes, running sums, softmax."""

from __future__ import annotations

import numpy as np

from planish.importers.tensorflow_builder import Builder, rule
from planish.importers.tensorflow_graph import TfNode
from planish.ir.dtypes import BOOL, I32, U8
from planish.ir.graph import Value

REDUCTIONS = {
    "Mean": "ReduceMean", "Sum": "ReduceSum", "Prod": "ReduceProd", "Max": "ReduceMax",
    "Min": "ReduceMin", "EuclideanNorm": "ReduceL2",
}  # fmt: skip


@rule(*REDUCTIONS)
def reduction(node: TfNode, builder: Builder) -> Value:
    """Reduce over constant axes; over none, nothing changes."""
    return reduce(builder, REDUCTIONS[node.op], builder.input(0))


@rule("All", "Any")
def logical(node: TfNode, builder: Builder) -> Value:
    """Take the smallest or largest of truth values as bytes."""
    x = builder.cast(builder.input(0), U8)
    return builder.cast(reduce(builder, "ReduceMin" if node.op == "All" else "ReduceMax", x), BOOL)


def reduce(builder: Builder, op: str, x: Value) -> Value:
    """Emit a reduction of `x` over the node's axes (input 1)."""
    axes = builder.integers(1, "the axes")
    keep = int(bool(builder.attribute("keep_dims", builder.attribute("keepdims", False))))
    if not axes:
        return builder.emit("Abs", x) if op == "ReduceL2" else x
    rank = builder.rank(x)
    sorted_axes = sorted({axis % rank if rank else axis for axis in axes})
    if op == "ReduceMean" and x.dtype.is_integer:
        builder.refuse("the mean of integers rounds; cast them to float first")
    operand = builder.constant(np.array(sorted_axes, np.int64))
    return builder.emit(op, x, operand, keepdims=keep)


@rule("L2Loss")
def l2_loss(node: TfNode, builder: Builder) -> Value:
    """Return half the sum of squares."""
    x = builder.input()
    total = builder.emit("ReduceSumSquare", x, keepdims=0)
    return builder.emit("Mul", total, builder.scalar(0.5, x))


@rule("ArgMax", "ArgMin")
def arg_extreme(node: TfNode, builder: Builder) -> Value:
    """Return the position of the first extreme along an axis."""
    x, axis = builder.input(0), builder.integer(1, "the axis")
    default = np.dtype(np.int64)
    target = builder.dtype(builder.attribute("output_type", default), "the result")
    if x.dtype is BOOL:
        x = builder.cast(x, U8)
    found = builder.emit(node.op, x, axis=axis, keepdims=0)
    return builder.cast(found, target)


@rule("Cumsum", "Cumprod")
def cumulative(node: TfNode, builder: Builder) -> Value:
    """Add up (or multiply) along an axis."""
    axis = builder.constant(np.array(builder.integer(1, "the axis"), np.int64))
    return builder.emit(
        "CumSum" if node.op == "Cumsum" else "CumProd",
        builder.input(0),
        axis,
        exclusive=int(bool(builder.attribute("exclusive", False))),
        reverse=int(bool(builder.attribute("reverse", False))),
    )


@rule("Softmax", "LogSoftmax")
def softmax(node: TfNode, builder: Builder) -> Value:
    """Normalise exponentials along the last axis."""
    return builder.emit(node.op, builder.input(), axis=-1)


@rule("TopKV2", "TopK")
def top_k(node: TfNode, builder: Builder) -> list[Value]:
    """Return the k largest of every row, in order, and their positions."""
    x = builder.input(0)
    if node.op == "TopK":
        count = builder.constant(np.array([builder.attribute("k")], np.int64))
    else:
        count = builder.reshape(builder.i64(builder.input(1)), 1)
    values, positions = builder.emit_many("TopK", 2, x, count, axis=-1, largest=1, sorted=1)
    wanted = builder.dtype(builder.attribute("index_type", np.dtype(np.int32)), "the positions")
    return [values, builder.cast(positions, wanted)]


@rule("SegmentSum", "UnsortedSegmentSum")
def segment_sum(node: TfNode, builder: Builder) -> Value:
    """Add rows into the segments that a vector names; their number must be known."""
    data, segments = builder.input(0), builder.i64(builder.input(1))
    if builder.rank(segments) != 1:
        builder.refuse("segment ids of rank above 1 are not converted")
    if node.op == "UnsortedSegmentSum":
        count = builder.reshape(builder.i64(builder.input(2)), 1)
    else:
        ids = builder.integers(1, "the segment ids")
        count = builder.constant(np.array([max(ids, default=-1) + 1], np.int64))
    shape = builder.shape_of(data)
    tail = builder.emit(
        "Slice", shape, *(builder.constant(np.array([n], np.int64)) for n in (1, 2**31 - 1))
    )
    target = builder.concat([count, tail])
    zeros = builder.emit("ConstantOfShape", target, value=np.zeros(1, data.dtype.numpy))
    return builder.emit("ScatterND", zeros, builder.unsqueeze(segments, 1), data, reduction="add")


@rule("InTopKV2")
def in_top_k(node: TfNode, builder: Builder) -> Value:
    """Whether fewer than k scores of a row are larger than the target's."""
    scores, targets = builder.input(0), builder.i64(builder.input(1))
    own = builder.emit("GatherElements", scores, builder.unsqueeze(targets, 1), axis=1)
    larger = builder.cast(builder.emit("Greater", scores, own), I32)
    axis = builder.constant(np.array([1], np.int64))
    count = builder.emit("ReduceSum", larger, axis, keepdims=0)
    limit = builder.cast(builder.input(2), I32)
    return builder.emit("Less", count, limit)


@rule("DenseBincount", "Bincount")
def bincount(node: TfNode, builder: Builder) -> Value:
    """Count how often 0 .. size - 1 occur in every row, with weights if there are any."""
    x, weights = builder.input(0), builder.input(2)
    size = builder.integer(1, "the number of bins")
    if node.op == "Bincount" and builder.rank(x) != 1:
        x = builder.reshape(x, -1)
    rank = builder.rank(x)
    numbers = builder.constant(np.arange(size).astype(x.dtype.numpy))
    hits = builder.emit("Equal", builder.unsqueeze(x, rank), numbers)
    axis = builder.constant(np.array([rank - 1], np.int64))
    if builder.attribute("binary_output", False):
        found = builder.emit("ReduceMax", builder.cast(hits, U8), axis, keepdims=0)
        return builder.cast(found, weights.dtype)
    counted = builder.cast(hits, weights.dtype)
    if weights.known_shape != (0,) and 0 not in weights.known_shape:
        if builder.rank(weights) != rank:
            weights = builder.reshape(weights, -1)
        counted = builder.emit("Mul", counted, builder.unsqueeze(weights, rank))
    return builder.emit("ReduceSum", counted, axis, keepdims=0)
