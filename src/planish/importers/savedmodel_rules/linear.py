"""Matrix products, batch norms, and the operations that TensorFlow fused itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from planish.importers.savedmodel_rules.windows import (
    channel_vector,
    channels_last,
    convolve,
    from_channels_first,
)
from planish.importers.tensorflow_builder import Builder, rule
from planish.importers.tensorflow_graph import TfNode
from planish.ir.dtypes import F32
from planish.ir.graph import Value


def _swapped(builder: Builder, value: Value, swap: bool) -> Value:
    """Return `value` with its last two axes swapped if asked for."""
    if not swap:
        return value
    rank = builder.rank(value)
    return builder.transpose(value, (*range(rank - 2), rank - 1, rank - 2))


@rule("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "SparseMatMul")
def matmul(node: TfNode, builder: Builder) -> Value:
    """Multiply matrices, either of them transposed."""
    a, b = builder.inputs
    names = ("adj_x", "adj_y") if node.op.startswith("Batch") else ("transpose_a", "transpose_b")
    left, right = (bool(builder.attribute(name, False)) for name in names)
    result = builder.emit("MatMul", _swapped(builder, a, left), _swapped(builder, b, right))
    wanted = builder.attribute("Tout")
    return result if wanted is None else builder.cast(result, builder.dtype(wanted))


@rule("Einsum")
def einsum(node: TfNode, builder: Builder) -> Value:
    """Contract as the equation says."""
    equation = str(builder.attribute("equation"))
    return builder.emit("Einsum", *builder.inputs, equation=equation)


@rule("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
def batch_norm(node: TfNode, builder: Builder) -> list[Value]:
    """Scale and shift every channel by its statistics: the given ones, or the batch's own.

    With constant statistics it is x * s + t, computed here in double precision.
    """
    x, scale, offset, mean, variance = builder.inputs[:5]
    epsilon = float(builder.attribute("epsilon", 1e-4))
    if builder.attribute("is_training", True):
        mean, variance = _batch_statistics(builder, x)
        if _is_row_norm(builder, x, scale, offset):
            y = _row_norm(builder, x, epsilon)
            return [y, mean, variance, mean, variance, variance]
    factor, shift = _scale_and_shift(builder, scale, offset, mean, variance, epsilon)
    rank = builder.rank(x)
    factor, shift = (
        builder.cast(channel_vector(builder, each, rank), x.dtype) for each in (factor, shift)
    )
    y = builder.emit("Add", builder.emit("Mul", x, factor), shift)
    return [y, mean, variance, mean, variance, variance][: 6 if node.op.endswith("V3") else 5]


def _is_row_norm(builder: Builder, x: Value, scale: Value, offset: Value) -> bool:
    """Whether rows are the channels of one image: Keras 2 computes LayerNormalization so."""
    plain = _is_filled(scale, 1) and _is_filled(offset, 0)
    if not plain or channels_last(builder) or builder.rank(x) != 4:
        return False
    return x.known_shape[0] == 1 and x.known_shape[3] == 1


def _is_filled(value: Value, number: float) -> bool:
    """Whether every element of `value` is `number`."""
    if value.is_constant:
        return bool((value.array == number).all())
    node = value.producer
    if node is None or node.op != "ConstantOfShape" or node.attributes["value"] is None:
        return False
    return bool((np.asarray(node.attributes["value"]) == number).all())


def _row_norm(builder: Builder, x: Value, epsilon: float) -> Value:
    """Return [1, rows, width, 1] with every row at mean 0 and variance 1."""
    width = x.known_shape[2]
    if not isinstance(width, int):
        builder.refuse("the length of the normalized rows is not known")
    rows = builder.squeeze(x, 0, 3)
    ones = builder.constant(np.ones(width, x.dtype.numpy))
    result = builder.emit("LayerNormalization", rows, ones, epsilon=epsilon, axis=-1)
    return builder.unsqueeze(result, 0, 3)


def _batch_statistics(builder: Builder, x: Value) -> tuple[Value, Value]:
    """Return mean and variance of every channel over batch and space."""
    rank = builder.rank(x)
    channel = rank - 1 if channels_last(builder) else 1
    axes = builder.constant(np.array([a for a in range(rank) if a != channel], np.int64))
    wide = builder.cast(x, F32)
    mean = builder.emit("ReduceMean", wide, axes, keepdims=0)
    centred = builder.emit("Sub", wide, channel_vector(builder, mean, rank))
    square = builder.emit("Mul", centred, centred)
    return mean, builder.emit("ReduceMean", square, axes, keepdims=0)


def _scale_and_shift(
    builder: Builder, scale: Value, offset: Value, mean: Value, variance: Value, epsilon: float
) -> tuple[Value, Value]:
    """Return s and t of x * s + t."""
    vectors = (scale, offset, mean, variance)
    if all(vector.is_constant for vector in vectors):
        gain, bias, centre, spread = (vector.array.astype(np.float64) for vector in vectors)
        factor = gain / np.sqrt(spread + epsilon)
        shift = bias - centre * factor
        return builder.constant(factor.astype(np.float32)), builder.constant(
            shift.astype(np.float32)
        )
    root = builder.emit("Sqrt", builder.emit("Add", variance, builder.scalar(epsilon, variance)))
    gain_value = builder.emit("Mul", scale, builder.emit("Reciprocal", root))
    moved = builder.emit("Mul", mean, gain_value)
    return gain_value, builder.emit("Sub", offset, moved)


# -- fused operations -----------------------------------------------------------------------------


def _activation(name: str) -> Callable[[Builder, Value], Value] | None:
    """Return what applies an activation that TensorFlow fuses, None for an unknown one."""
    if name in ("Relu", "Elu", "Tanh", "Sigmoid"):
        return lambda builder, x: builder.emit(name, x)
    if name == "Relu6":
        return lambda builder, x: builder.emit(
            "Clip", x, builder.scalar(0, x), builder.scalar(6, x)
        )
    if name == "LeakyRelu":
        return lambda builder, x: builder.emit(
            "LeakyRelu", x, alpha=float(builder.attribute("leakyrelu_alpha", 0.2))
        )
    if name in ("GeluExact", "GeluApproximate"):
        form = "none" if name == "GeluExact" else "tanh"
        return lambda builder, x: builder.emit("Gelu", x, approximate=form)
    if name in ("_FusedHardSwish", "HardSwish"):
        return lambda builder, x: builder.emit("HardSwish", x)
    if name in ("_MklSwish", "Swish"):
        return lambda builder, x: builder.emit("Swish", x)
    return None


def _epilogue(builder: Builder, x: Value, arguments: list[Value]) -> Value:
    """Apply the node's `fused_ops` to `x`, which has the node's layout."""
    for name in builder.attribute("fused_ops", []):
        activation = _activation(str(name))
        if activation is not None:
            x = activation(builder, x)
        elif name in ("BiasAdd", "Add"):
            bias = arguments.pop(0)
            rank = builder.rank(x)
            x = builder.emit(
                "Add", x, channel_vector(builder, bias, rank) if name == "BiasAdd" else bias
            )
        elif name == "FusedBatchNorm":
            scale, offset, mean, variance = (arguments.pop(0) for _ in range(4))
            epsilon = float(builder.attribute("epsilon", 1e-4))
            factor, shift = _scale_and_shift(builder, scale, offset, mean, variance, epsilon)
            rank = builder.rank(x)
            x = builder.emit("Mul", x, channel_vector(builder, factor, rank))
            x = builder.emit("Add", x, channel_vector(builder, shift, rank))
        else:
            builder.refuse(f"it fuses {name}")
    return x


@rule("_FusedConv2D", "_FusedConv3D")
def fused_convolution(node: TfNode, builder: Builder) -> Value:
    """Convolve, then what TensorFlow's optimizer appended."""
    x, weight, *arguments = builder.inputs
    y = from_channels_first(builder, convolve(builder, x, weight))
    return _epilogue(builder, y, arguments)


@rule("FusedConv2DBiasActivation")
def fused_convolution_bias(node: TfNode, builder: Builder) -> Value:
    """Convolve, add a scaled other tensor and a bias, apply an activation."""
    x, weight, bias, side, scale, side_scale = builder.inputs
    if str(builder.attribute("filter_format", "HWIO")) != "HWIO":
        builder.refuse(f"the filter format is {builder.attribute('filter_format')}")
    y = from_channels_first(builder, convolve(builder, x, weight))
    if not _is_number(scale, 1):
        y = builder.emit("Mul", y, scale)
    if not _is_number(side_scale, 0):
        y = builder.emit("Add", y, builder.emit("Mul", side, side_scale))
    y = builder.emit("Add", y, channel_vector(builder, bias, builder.rank(y)))
    mode = str(builder.attribute("activation_mode", "Relu"))
    if mode == "None":
        return y
    activation = _activation(mode)
    if activation is None:
        builder.refuse(f"the activation is {mode}")
    return activation(builder, y)


@rule("_FusedMatMul")
def fused_matmul(node: TfNode, builder: Builder) -> Value:
    """Multiply matrices, then what TensorFlow's optimizer appended."""
    a, b, *arguments = builder.inputs
    left, right = (bool(builder.attribute(f"transpose_{name}", False)) for name in "ab")
    y = builder.emit("MatMul", _swapped(builder, a, left), _swapped(builder, b, right))
    return _epilogue(builder, y, arguments)


@rule("_FusedBatchNormEx")
def fused_batch_norm_ex(node: TfNode, builder: Builder) -> list[Value]:
    """Normalise, add a side input, apply an activation."""
    y, *rest = batch_norm(node, builder)
    if len(builder.inputs) > 5:
        y = builder.emit("Add", y, builder.input(5))
    mode = str(builder.attribute("activation_mode", "Identity"))
    if mode != "Identity":
        y = builder.emit(mode, y)
    return [y, *rest]


def _is_number(value: Value, number: float) -> bool:
    return value.is_constant and value.array.size == 1 and float(value.array.item()) == number
