"""Picking and placing elements by index."""

from __future__ import annotations

import numpy as np

from planish.importers.tensorflow_builder import Builder, rule
from planish.importers.tensorflow_graph import TfNode
from planish.ir.dtypes import I64
from planish.ir.graph import Value

SCATTER = {
    "TensorScatterUpdate": "none",
    "TensorScatterAdd": "add",
    "TensorScatterMax": "max",
    "TensorScatterMin": "min",
}


@rule("Gather", "GatherV2", "ResourceGather")
def gather(node: TfNode, builder: Builder) -> Value:
    """Pick slices along an axis, separately for each of the batch axes."""
    x, indices = builder.input(0), builder.input(1)
    axis = builder.integer(2, "the axis") if len(builder.operands) > 2 else 0
    axis %= builder.rank(x)
    batch = int(builder.attribute("batch_dims", 0)) % (builder.rank(indices) + 1)
    if batch == 0:
        return builder.emit("Gather", x, indices, axis=axis)
    rank, extra = builder.rank(x), builder.rank(indices) - batch
    moved = (*range(batch), axis, *(a for a in range(batch, rank) if a != axis))
    places = builder.unsqueeze(builder.cast(indices, I64), builder.rank(indices))
    found = builder.emit("GatherND", builder.transpose(x, moved), places, batch_dims=batch)
    # batch axes, the indices' own, then those in front of the axis and those behind
    front = axis - batch
    order = (
        *range(batch),
        *range(batch + extra, batch + extra + front),
        *range(batch, batch + extra),
        *range(batch + extra + front, builder.rank(found)),
    )
    return builder.transpose(found, order)


@rule("GatherNd", "ResourceGatherNd")
def gather_nd(node: TfNode, builder: Builder) -> Value:
    """Pick slices at rows of indices."""
    x, indices = builder.inputs
    return builder.emit("GatherND", x, builder.cast(indices, I64))


@rule("ScatterNd")
def scatter_nd(node: TfNode, builder: Builder) -> Value:
    """Add slices into zeros at rows of indices."""
    indices, updates, shape = builder.inputs
    zero = np.zeros(1, updates.dtype.numpy)
    zeros = builder.emit("ConstantOfShape", builder.i64(shape), value=zero)
    return builder.emit("ScatterND", zeros, builder.cast(indices, I64), updates, reduction="add")


@rule(*SCATTER)
def tensor_scatter(node: TfNode, builder: Builder) -> Value:
    """Put (or add, ...) slices into a tensor at rows of indices."""
    x, indices, updates = builder.inputs
    places = builder.cast(indices, I64)
    return builder.emit("ScatterND", x, places, updates, reduction=SCATTER[node.op])


@rule("TensorScatterSub")
def tensor_scatter_sub(node: TfNode, builder: Builder) -> Value:
    """Subtract slices from a tensor at rows of indices."""
    x, indices, updates = builder.inputs
    negative = builder.emit("Neg", updates)
    return builder.emit("ScatterND", x, builder.cast(indices, I64), negative, reduction="add")


@rule("OneHot")
def one_hot(node: TfNode, builder: Builder) -> Value:
    """Compare indices with 0 .. depth - 1; one that is outside, or negative, has no 1."""
    indices, depth, on, off = builder.inputs
    axis = int(builder.attribute("axis", -1))
    rank = builder.rank(indices)
    axis = axis % (rank + 1)
    zero, one = (builder.constant(np.array(n, indices.dtype.numpy)) for n in (0, 1))
    limit = builder.cast(depth, indices.dtype)
    if limit.shape != ():
        limit = builder.reshape(limit)
    numbers = builder.emit("Range", zero, limit, one)
    if rank > axis:
        numbers = builder.reshape(numbers, -1, *(1,) * (rank - axis))
    hot = builder.emit("Equal", builder.unsqueeze(indices, axis), numbers)
    return builder.emit("Where", hot, on, off)


@rule("MatrixDiagPart", "MatrixDiagPartV2", "MatrixDiagPartV3", "DiagPart")
def diagonal(node: TfNode, builder: Builder) -> Value:
    """Return the main diagonals of square matrices."""
    x = builder.input(0)
    if node.op != "DiagPart" and len(builder.operands) > 1 and builder.integers(1, "k") != (0,):
        builder.refuse("only the main diagonal is converted")
    size, rank = x.known_shape[-1], builder.rank(x)
    if not isinstance(size, int) or x.known_shape[-2] != size or rank < 2:
        builder.refuse("the matrices are not square")
    if node.op == "DiagPart" and rank != 2:
        builder.refuse("the tensor is no matrix")
    eye = builder.constant(np.eye(size, dtype=x.dtype.numpy))
    axis = builder.constant(np.array([-1], np.int64))
    return builder.emit("ReduceSum", builder.emit("Mul", x, eye), axis, keepdims=0)


@rule("Unique", "UniqueV2", "UniqueWithCounts")
def unique(node: TfNode, builder: Builder) -> list[Value]:
    """Return distinct elements in the order of their first occurrence, and where they went."""
    if node.op == "UniqueV2" and builder.integers(1, "the axis") not in ((), (0,)):
        builder.refuse("only vectors are converted")
    values, _, inverse, counts = builder.emit_many("Unique", 4, builder.input(0), sorted=0)
    index = builder.dtype(builder.attribute("out_idx", np.dtype(np.int32)))
    found = [values, builder.cast(inverse, index)]
    return [*found, builder.cast(counts, index)] if node.op.endswith("Counts") else found


@rule("MatrixDiag", "MatrixDiagV2", "MatrixDiagV3", "MatrixSetDiag", "MatrixSetDiagV3", "Diag")
def set_diagonal(node: TfNode, builder: Builder) -> Value:
    """Put numbers on the main diagonals of square matrices, zeros or a given tensor around."""
    values = builder.input(1 if "Set" in node.op else 0)
    offsets = {"MatrixDiagV2": 1, "MatrixDiagV3": 1, "MatrixSetDiagV3": 2}
    if node.op in offsets and builder.integers(offsets[node.op], "the diagonal") != (0,):
        builder.refuse("only the main diagonal is converted")
    size, rank = values.known_shape[-1], builder.rank(values)
    if not isinstance(size, int):
        builder.refuse("the size of the matrices is not known")
    if node.op == "Diag" and rank != 1:
        builder.refuse("the tensor is no vector")
    eye = builder.constant(np.eye(size, dtype=np.bool_))
    if "Set" in node.op:
        around = builder.input(0)
        if around.known_shape[-2:] != (size, size):
            builder.refuse("the matrices are not square")
    else:
        around = builder.scalar(0, values)
    return builder.emit("Where", eye, builder.unsqueeze(values, rank), around)


@rule("LowerBound", "UpperBound")
def bound(node: TfNode, builder: Builder) -> Value:
    """Return how many numbers of a sorted row are below (or not above) each value."""
    rows, values = builder.unsqueeze(builder.input(0), 1), builder.unsqueeze(builder.input(1), 2)
    passed = builder.emit("Less" if node.op == "LowerBound" else "LessOrEqual", rows, values)
    index = builder.dtype(builder.attribute("out_type", np.dtype(np.int32)))
    axis = builder.constant(np.array([2], np.int64))
    return builder.emit("ReduceSum", builder.cast(passed, index), axis, keepdims=0)
