"""ONNX Runtime's quantized versions of float operators: dequantize, compute, quantize.

Their inputs come in triples (tensor, scale, zero point); an absent zero point is zero. The
references compute in float32 on the dequantized tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.declarations import REQUIRED
from planish.ir.dtypes import dtype_of
from planish.ir.graph import Node
from planish.ir.shape import Shape
from planish.ops.activation import sigmoid
from planish.ops.convolution import WINDOW_ATTRIBUTES, window_for
from planish.ops.numeric import optional, required
from planish.ops.op import (
    Array,
    Attributes,
    Inferred,
    Inputs,
    Op,
    Sample,
    broadcast,
    normalize_axis,
)
from planish.ops.pooling import AveragePool
from planish.ops.quantize import dequantize, quantize
from planish.ops.quantized_linear import scalar, signed, unsigned
from planish.ops.sample_data import f32
from planish.ops.softmax import softmax


def real(inputs: Inputs, index: int) -> Array:
    """Return the triple that starts at `index` as float32."""
    zero = optional(inputs, index + 2)
    scale = required(inputs, index + 1).reshape(())
    return dequantize(required(inputs, index), scale, None if zero is None else zero.reshape(()))


def quantized(result: Array, inputs: Inputs, index: int) -> Array:
    """Return `result` quantized by the scale at `index` and the zero point after it."""
    zero = optional(inputs, index + 1)
    dtype = dtype_of(required(inputs, 0) if zero is None else zero)
    offset = None if zero is None else zero.reshape(())
    return quantize(result, required(inputs, index).reshape(()), offset, dtype)


class _QuantizedBinary(Op):
    """Base: two triples and the output's scale and zero point (inputs 0, 3 and 6)."""

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the broadcast of both tensors."""
        a, b = node.inputs[0], node.inputs[3]
        if a is None or b is None:
            raise ShapeError(f"{cls.name} needs two tensors", where=str(node))
        if a.shape is None or b.shape is None:
            return [Inferred(a.dtype, None)]
        return [Inferred(a.dtype, broadcast([a.shape, b.shape], str(node)))]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return u8 and i8, equal and broadcast shapes."""
        a, b = (
            (unsigned(2, 3, 4), f32(0.02), scalar(120)),
            (unsigned(4, seed=1), f32(0.03), scalar(9)),
        )
        i8 = scalar(-3, np.int8)
        left, right = (signed(2, 3), f32(0.02), i8), (signed(2, 3, seed=1), f32(0.05), i8)
        return [
            Sample((*a, *b, f32(0.04), scalar(110)), {}, (1, 2, 4, 5, 6, 7), name="u8"),
            Sample((*left, *right, f32(0.06), i8), {}, (1, 2, 4, 5, 6, 7), name="i8"),
        ]


class QLinearAdd(_QuantizedBinary):
    """Sum of two quantized tensors, quantized."""

    name = "com.microsoft.QLinearAdd"

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Add in float32."""
        return [quantized(real(inputs, 0) + real(inputs, 3), inputs, 6)]


class QLinearMul(_QuantizedBinary):
    """Product of two quantized tensors, quantized."""

    name = "com.microsoft.QLinearMul"

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Multiply in float32."""
        return [quantized(real(inputs, 0) * real(inputs, 3), inputs, 6)]


class _QuantizedUnary(Op):
    """Base: one triple, then the output's scale and zero point (inputs 0 and 3)."""

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the input's type."""
        value = node.present_inputs[0]
        return [Inferred(value.dtype, value.shape)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return u8 and i8."""
        i8 = scalar(-128, np.int8)
        x = unsigned(2, 3, 4), f32(0.05), scalar(128)
        y = signed(3, 7), f32(0.05), scalar(4, np.int8)
        return [
            Sample((*x, f32(1 / 256), scalar(0)), {}, (1, 2, 3, 4), name="u8"),
            Sample((*y, f32(1 / 256), i8), {}, (1, 2, 3, 4), name="i8"),
        ]


class QLinearSigmoid(_QuantizedUnary):
    """Sigmoid of a quantized tensor, quantized."""

    name = "com.microsoft.QLinearSigmoid"
    operations_per_element = 20

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Compute in float32."""
        return [quantized(sigmoid(real(inputs, 0)), inputs, 3)]


class QLinearLeakyRelu(_QuantizedUnary):
    """LeakyRelu of a quantized tensor, quantized."""

    name = "com.microsoft.QLinearLeakyRelu"
    attributes: ClassVar[Mapping[str, Any]] = {"alpha": 0.01}

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Compute in float32."""
        x = real(inputs, 0)
        alpha = np.float32(attributes["alpha"])
        return [quantized(np.where(x >= 0, x, x * alpha), inputs, 3)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return another slope."""
        x = unsigned(2, 3, 4), f32(0.05), scalar(128)
        y = f32(0.06), scalar(40)
        return [*super().samples(), Sample((*x, *y), {"alpha": 0.2}, (1, 2, 3, 4), name="alpha")]


class QLinearSoftmax(_QuantizedUnary):
    """Softmax of a quantized tensor, quantized.

    Before `opset` 13, `axis` begins the part that is normalised as a whole.
    """

    name = "com.microsoft.QLinearSoftmax"
    attributes: ClassVar[Mapping[str, Any]] = {"opset": REQUIRED, "axis": -1}
    operations_per_element = 20

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Compute in float32."""
        x, axis = real(inputs, 0), attributes["axis"]
        if attributes["opset"] >= 13:
            return [quantized(softmax(x, axis), inputs, 3)]
        rows = int(np.prod(x.shape[: axis % x.ndim]))
        return [quantized(softmax(x.reshape(rows, -1), 1).reshape(x.shape), inputs, 3)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return both meanings of the axis."""
        x, y = (unsigned(2, 3, 4), f32(0.02), scalar(128)), (f32(1 / 256), scalar(0))
        return [
            Sample((*x, *y), {"opset": 13}, (1, 2, 3, 4), name="last"),
            Sample((*x, *y), {"opset": 13, "axis": 1}, (1, 2, 3, 4), name="middle"),
            Sample((*x, *y), {"opset": 12, "axis": 1}, (1, 2, 3, 4), name="flattened"),
        ]


def _channels_first(x: Array) -> Array:
    return np.moveaxis(x, -1, 1)


def _channels_last(x: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def _spatial_first(shape: Shape, last: bool) -> Shape:
    """Return a shape as batch, channels, spatial..."""
    return (shape[0], shape[-1], *shape[1:-1]) if last else shape


def _given_order(shape: Shape, last: bool) -> Shape:
    return (shape[0], *shape[2:], shape[1]) if last else shape


class QLinearAveragePool(Op):
    """AveragePool of a quantized tensor, quantized; `channels_last` for N, spatial..., C."""

    name = "com.microsoft.QLinearAveragePool"
    attributes: ClassVar[Mapping[str, Any]] = {
        **{key: value for key, value in WINDOW_ATTRIBUTES.items() if key != "dilations"},
        "kernel_shape": REQUIRED,
        "ceil_mode": 0,
        "count_include_pad": 0,
        "channels_last": 0,
    }
    operations_per_element = 9

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the pooled shape."""
        value, last = node.present_inputs[0], bool(node.attributes["channels_last"])
        if value.shape is None:
            return [Inferred(value.dtype, None)]
        batch, channels, *spatial = _spatial_first(value.shape, last)
        window = window_for(node.attributes, spatial, node.attributes["kernel_shape"])
        return [
            Inferred(value.dtype, _given_order((batch, channels, *window.output(spatial)), last))
        ]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Pool in float32."""
        x = real(inputs, 0)
        last = bool(attributes["channels_last"])
        (pooled,) = AveragePool.reference([_channels_first(x) if last else x], attributes)
        return [quantized(_channels_last(pooled) if last else pooled, inputs, 3)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return windows with padding and strides, in both axis orders."""
        x = unsigned(2, 3, 6, 6), f32(0.05), scalar(128)
        x_last = unsigned(2, 6, 6, 3), *x[1:]
        y, constant = (f32(0.04), scalar(120)), (1, 2, 3, 4)
        window = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}
        return [
            Sample((*x, *y), {"kernel_shape": (2, 2)}, constant, name="plain"),
            Sample((*x, *y), window, constant, name="padded"),
            Sample((*x, *y), {**window, "count_include_pad": 1}, constant, name="count_padding"),
            Sample((*x_last, *y), {**window, "channels_last": 1}, constant, name="channels_last"),
        ]


class QLinearGlobalAveragePool(Op):
    """Mean over all spatial axes of a quantized tensor, quantized."""

    name = "com.microsoft.QLinearGlobalAveragePool"
    attributes: ClassVar[Mapping[str, Any]] = {"channels_last": 0}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return spatial extents of 1."""
        value, last = node.present_inputs[0], bool(node.attributes["channels_last"])
        if value.shape is None:
            return [Inferred(value.dtype, None)]
        batch, channels, *spatial = _spatial_first(value.shape, last)
        return [Inferred(value.dtype, _given_order((batch, channels, *(1 for _ in spatial)), last))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Average in float32."""
        x = real(inputs, 0)
        axes = tuple(range(1, x.ndim - 1) if attributes["channels_last"] else range(2, x.ndim))
        return [quantized(x.mean(axis=axes, keepdims=True, dtype=np.float32), inputs, 3)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return both axis orders."""
        x = unsigned(2, 3, 6, 6), f32(0.05), scalar(128)
        y, constant = (f32(0.01), scalar(120)), (1, 2, 3, 4)
        return [
            Sample((*x, *y), {}, constant),
            Sample((*x, *y), {"channels_last": 1}, constant, name="channels_last"),
        ]


class QLinearConcat(Op):
    """Quantized tensors requantized to one scale and joined along `axis`.

    Inputs: y_scale, y_zero_point, then one triple for each tensor.
    """

    name = "com.microsoft.QLinearConcat"
    attributes: ClassVar[Mapping[str, Any]] = {"axis": REQUIRED}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the common shape with the extents along `axis` added."""
        zero = node.inputs[1]
        tensors = [value for value in node.inputs[2::3] if value is not None]
        dtype = tensors[0].dtype if zero is None else zero.dtype
        shapes = [value.shape for value in tensors if value.shape is not None]
        if len(shapes) < len(tensors):
            return [Inferred(dtype, None)]
        axis = normalize_axis(node.attributes["axis"], len(shapes[0]), node)
        total = sum((shape[axis] for shape in shapes[1:]), start=shapes[0][axis])
        return [Inferred(dtype, (*shapes[0][:axis], total, *shapes[0][axis + 1 :]))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Join in float32, quantize once."""
        parts: Sequence[Array] = [real(inputs, index) for index in range(2, len(inputs), 3)]
        return [quantized(np.concatenate(parts, axis=attributes["axis"]), inputs, 0)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return two tensors of different scales."""
        a, b = (unsigned(2, 3), f32(0.02), scalar(120)), (unsigned(2, 4), f32(0.03), scalar(9))
        constant = (0, 1, 3, 4, 6, 7)
        return [
            Sample((f32(0.03), scalar(100), *a, *b), {"axis": 1}, constant),
            Sample((f32(0.02), scalar(120), *a, *a), {"axis": 0}, constant, name="rows"),
        ]
