"""Convolutions and matrix products of quantized tensors, accumulated exactly.

The references accumulate integers in float64: products of eight-bit numbers are exact there up to
2**37 terms. Requantization multiplies the sum by ``x_scale * w_scale / y_scale`` in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.dtypes import F32, I32, DType, dtype_of
from planish.ir.graph import Node, Value
from planish.ir.requirement import Requirement, equal
from planish.ir.shape import Shape, product
from planish.ops.convolution import WINDOW_ATTRIBUTES, convolve, window_for
from planish.ops.matmul import matmul_shape, product_requirements
from planish.ops.numeric import optional, required
from planish.ops.op import Array, Attributes, Cost, Inferred, Inputs, Op, Sample, bytes_of
from planish.ops.quantize import saturate
from planish.ops.sample_data import f32, floats, whole

CONVOLUTION_ATTRIBUTES = {**WINDOW_ATTRIBUTES, "group": 1}


def unsigned(*shape: int, seed: int = 0) -> Array:
    """Return random u8 numbers."""
    return whole(*shape, low=0, high=256, dtype=np.uint8, seed=seed)


def signed(*shape: int, seed: int = 0) -> Array:
    """Return random i8 numbers in [-127, 127]."""
    return whole(*shape, low=-127, high=128, dtype=np.int8, seed=seed)


def scalar(number: float, dtype: Any = np.uint8) -> Array:
    """Return a zero point, or (in float32) a scale."""
    return np.array(number, dtype=dtype)


def shifted(q: Array, zero_point: Array | None) -> Array:
    """Return q - zero_point in float64; the zero point broadcasts."""
    return q.astype(np.float64) - (0.0 if zero_point is None else zero_point.astype(np.float64))


def per_output_channel(parameter: Array | None, rank: int) -> Array | None:
    """Return a weight's scales or zero points, shaped to broadcast against the weight."""
    if parameter is None or parameter.size == 1:
        return None if parameter is None else parameter.reshape(())
    return parameter.reshape(-1, *(1,) * (rank - 1))


def requantize(total: Array, multiplier: Array, zero_point: Array) -> Array:
    """Return saturate(round(total * multiplier) + zero_point) in the zero point's type."""
    scaled = np.rint(total.astype(np.float32) * multiplier.astype(np.float32))
    offset = zero_point.reshape(()).astype(np.float64)
    return saturate(scaled.astype(np.float64) + offset, dtype_of(zero_point))


def convolution_shape(node: Node, x: Value, weight: Value) -> Shape | None:
    """Return the output shape of a quantized convolution whose weight has known extents."""
    if x.shape is None or weight.shape is None:
        return None
    kernel = tuple(dim for dim in weight.shape[2:] if isinstance(dim, int))
    if len(kernel) != len(x.shape) - 2:
        raise ShapeError(f"weight {weight} does not fit input {x}", where=str(node))
    channels, expected = x.shape[1], weight.shape[1] * node.attributes["group"]
    if isinstance(channels, int) and isinstance(expected, int) and channels != expected:
        raise ShapeError(f"input has {channels} channels, expected {expected}", where=str(node))
    window = window_for(node.attributes, x.shape[2:], kernel)
    return (x.shape[0], weight.shape[0], *window.output(x.shape[2:]))


def convolve_exactly(
    x: Array, weight: Array, zeros: tuple[Array | None, Array | None], attributes: Attributes
) -> Array:
    """Return the integer sums of a convolution in float64; padding has the value zero."""
    window = window_for(attributes, x.shape[2:], weight.shape[2:])
    weight_zero = per_output_channel(zeros[1], weight.ndim)
    x_zero = None if zeros[0] is None else zeros[0].reshape(())
    return convolve(shifted(x, x_zero), shifted(weight, weight_zero), window, attributes["group"])


def multiply_exactly(a: Array, b: Array, zeros: tuple[Array | None, Array | None]) -> Array:
    """Return the integer sums of a matrix product in float64.

    One zero point for all of an operand, one for each row of A, or one for each column of B.
    """
    a_zero, b_zero = zeros
    if a_zero is not None and a_zero.ndim == 1 and a_zero.size > 1:
        a_zero = a_zero[:, None]
    a_zero = a_zero.reshape(()) if a_zero is not None and a_zero.size == 1 else a_zero
    b_zero = b_zero.reshape(()) if b_zero is not None and b_zero.size == 1 else b_zero
    return np.asarray(np.matmul(shifted(a, a_zero), shifted(b, b_zero)))


class _QuantizedConvolution(Op):
    """Base: `weight_index` says where the weight is."""

    weight_index: ClassVar[int] = 1

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that the weight has the input's channels."""
        x, weight = node.inputs[0], node.inputs[cls.weight_index]
        if x is None or weight is None or x.shape is None or weight.shape is None:
            return []
        return equal(x.shape[1], weight.shape[1] * node.attributes["group"])

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Return two operations a tap of the kernel."""
        weight = node.inputs[cls.weight_index]
        taps = product(((None if weight is None else weight.shape) or ())[1:])
        return Cost(product(node.outputs[0].shape or ()) * taps * 2, bytes_of(node))


class ConvInteger(_QuantizedConvolution):
    """Convolution of (x - x_zero_point) with (w - w_zero_point), as i32 sums.

    Inputs: x, weight, optional zero points (the weight's may be one for each output channel).
    """

    name = "ConvInteger"
    attributes: ClassVar[Mapping[str, Any]] = CONVOLUTION_ATTRIBUTES

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return i32 in the convolution's shape."""
        x, weight = node.present_inputs[:2]
        return [Inferred(I32, convolution_shape(node, x, weight))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Accumulate exactly."""
        x, weight = required(inputs, 0), required(inputs, 1)
        zeros = optional(inputs, 2), optional(inputs, 3)
        total = convolve_exactly(x, weight, zeros, attributes)
        return [total.astype(np.int64).astype(np.int32)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return with and without zero points, with padding, strides and groups."""
        x, weight = unsigned(2, 4, 6, 5), unsigned(6, 4, 3, 3, seed=1)
        padded = {"pads": (1, 1, 1, 1), "strides": (2, 1)}
        return [
            Sample((x, weight), {}, (1,), name="plain"),
            Sample((x, weight, scalar(7), scalar(3)), padded, (1, 2, 3), name="zero_points"),
            Sample((x, unsigned(4, 2, 3, 3), scalar(9)), {"group": 2}, (1, 2), name="group"),
        ]


class QLinearConv(_QuantizedConvolution):
    """Convolution of quantized tensors, requantized.

    Inputs: x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, optional i32
    bias (in steps of x_scale * w_scale). The weight's parameters may be per output channel.
    """

    name = "QLinearConv"
    attributes: ClassVar[Mapping[str, Any]] = CONVOLUTION_ATTRIBUTES
    weight_index = 3

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the output zero point's type in the convolution's shape."""
        values = node.present_inputs
        return [Inferred(values[7].dtype, convolution_shape(node, values[0], values[3]))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Accumulate exactly, add the bias, requantize."""
        x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (
            required(inputs, index) for index in range(8)
        )
        total = convolve_exactly(x, w, (x_zero, w_zero), attributes)
        channels = (-1, *(1,) * (x.ndim - 2))
        bias = optional(inputs, 8)
        if bias is not None:
            total = total + bias.astype(np.float64).reshape(channels)
        multiplier = x_scale.reshape(()) * w_scale.reshape(channels) / y_scale.reshape(())
        return [requantize(total, multiplier, y_zero)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return u8 and i8, per channel scales, a bias, padding, groups and depthwise."""
        scales = floats(6, low=0.001, high=0.01, seed=2)
        x, xs, xz = unsigned(2, 4, 6, 5), f32(0.02), scalar(120)
        y = f32(0.05), scalar(100)
        w8 = (signed(6, 4, 3, 3), scales, np.zeros(6, np.int8))
        wu = (unsigned(6, 4, 3, 3, seed=1), f32(0.004), scalar(118))
        bias = whole(6, low=-900, high=900, dtype=np.int32)
        padded = {"pads": (1, 1, 1, 1), "strides": (2, 1)}
        xi = (signed(1, 6, 5, 5), xs, scalar(-3, np.int8))
        depthwise = (
            signed(6, 1, 3, 3),
            scales,
            np.zeros(6, np.int8),
            f32(0.02),
            scalar(5, np.int8),
        )
        constant = tuple(range(1, 9))
        return [
            Sample((x, xs, xz, *wu, *y), {}, constant[:-1], name="u8"),
            Sample((x, xs, xz, *w8, *y, bias), padded, constant, name="per_channel"),
            Sample((*xi, *depthwise), {"group": 6}, constant[:-1], name="depthwise_i8"),
            Sample((x, xs, xz, *w8, *y), {"auto_pad": "SAME_UPPER"}, constant[:-1], name="same"),
        ]


class MatMulInteger(Op):
    """Matrix product of (a - a_zero_point) and (b - b_zero_point), as i32 sums."""

    name = "MatMulInteger"

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return i32 in the product's shape."""
        a, b = node.present_inputs[:2]
        return [Inferred(I32, _product_shape(a, b, node))]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that inner extents are equal and batches broadcast."""
        a, b = node.present_inputs[:2]
        return product_requirements(a.shape, b.shape)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Accumulate exactly."""
        zeros = optional(inputs, 2), optional(inputs, 3)
        total = multiply_exactly(required(inputs, 0), required(inputs, 1), zeros)
        return [total.astype(np.int64).astype(np.int32)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return with and without zero points, batches, and one zero point a column."""
        a, b = unsigned(3, 5), signed(5, 4)
        columns = whole(4, low=-5, high=5, dtype=np.int8)
        return [
            Sample((a, b), {}, (1,), name="plain"),
            Sample((a, b, scalar(7), scalar(2, np.int8)), {}, (1, 3), name="zero_points"),
            Sample((unsigned(2, 3, 5), b, scalar(9), columns), {}, (1, 3), name="per_column"),
        ]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Return two operations a product."""
        return _product_cost(node, 0)


def _product_shape(a: Value, b: Value, node: Node) -> Shape | None:
    if a.shape is None or b.shape is None:
        return None
    return matmul_shape(a.shape, b.shape, str(node))


def _product_cost(node: Node, first: int) -> Cost:
    a = node.inputs[first]
    inner = ((None if a is None else a.shape) or (1,))[-1]
    return Cost(product(node.outputs[0].shape or ()) * inner * 2, bytes_of(node))


class QLinearMatMul(Op):
    """Matrix product of quantized tensors, requantized.

    Inputs: a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point.
    """

    name = "QLinearMatMul"

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the output zero point's type in the product's shape."""
        values = node.present_inputs
        return [Inferred(values[7].dtype, _product_shape(values[0], values[3], node))]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that inner extents are equal and batches broadcast."""
        values = node.present_inputs
        return product_requirements(values[0].shape, values[3].shape)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Accumulate exactly, requantize."""
        a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (
            required(inputs, index) for index in range(8)
        )
        total = multiply_exactly(a, b, (a_zero, b_zero))
        rows = a_scale.reshape(-1, 1) if a_scale.size > 1 and a_scale.ndim == 1 else a_scale
        scale = (rows * b_scale).astype(np.float32) / y_scale
        return [requantize(total, scale.reshape(()) if scale.size == 1 else scale, y_zero)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return u8 and i8 operands, batches, and one scale a column."""
        a, scale, zero = unsigned(3, 8), f32(0.02), scalar(120)
        b = (signed(8, 4), f32(0.01), scalar(0, np.int8))
        columns = (signed(8, 4), floats(4, low=0.005, high=0.02), np.zeros(4, np.int8))
        y = f32(0.05), scalar(100)
        batch = unsigned(2, 3, 8)
        i8 = (signed(3, 8, seed=3), scale, scalar(4, np.int8), *b, f32(0.1), scalar(-2, np.int8))
        constant = (1, 2, 3, 4, 5, 6, 7)
        return [
            Sample((a, scale, zero, *b, *y), {}, constant, name="u8"),
            Sample(i8, {}, constant, name="i8"),
            Sample((batch, scale, zero, *columns, *y), {}, constant, name="per_column"),
        ]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Return two operations a product."""
        return _product_cost(node, 0)


class QGemm(Op):
    """alpha * A @ B + C of quantized matrices, requantized, or float32 without an output scale.

    Inputs: A, a_scale, a_zero_point, B, b_scale, b_zero_point, optional i32 C (in steps of
    alpha * a_scale * b_scale), optional y_scale and y_zero_point.
    """

    name = "com.microsoft.QGemm"
    attributes: ClassVar[Mapping[str, Any]] = {"alpha": 1.0, "transA": 0, "transB": 0}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the product's shape in the output zero point's type, or float32."""
        a, b = node.inputs[0], node.inputs[3]
        zero = node.input(8)
        dtype: DType = F32 if zero is None else zero.dtype
        if a is None or b is None or a.shape is None or b.shape is None:
            return [Inferred(dtype, None)]
        left = a.shape[::-1] if node.attributes["transA"] else a.shape
        right = b.shape[::-1] if node.attributes["transB"] else b.shape
        return [Inferred(dtype, matmul_shape(left, right, str(node)))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Accumulate exactly, add C, scale."""
        a, a_scale, a_zero, b, b_scale, b_zero = (required(inputs, index) for index in range(6))
        left = a.T if attributes["transA"] else a
        right = b.T if attributes["transB"] else b
        total = multiply_exactly(left, right, (a_zero, b_zero))
        addend, y_scale, y_zero = (optional(inputs, index) for index in (6, 7, 8))
        if addend is not None:
            total = total + addend.astype(np.float64)
        scale = np.float32(attributes["alpha"]) * a_scale.reshape(()) * b_scale
        scale = scale.reshape(()) if scale.size == 1 else scale
        if y_scale is None or y_zero is None:
            return [np.asarray(total.astype(np.float32) * scale, dtype=np.float32)]
        return [requantize(total, scale / y_scale.reshape(()), y_zero)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return with and without C and output scale, transposed, and one scale a column."""
        a = unsigned(3, 8), f32(0.02), scalar(120)
        b = signed(8, 4), f32(0.01), scalar(0, np.int8)
        turned = signed(4, 8), floats(4, low=0.005, high=0.02), np.zeros(4, np.int8)
        c, y = whole(4, low=-900, high=900, dtype=np.int32), (f32(0.05), scalar(100))
        constant = (1, 2, 3, 4, 5, 6, 7, 8)
        return [
            Sample((*a, *b, None, *y), {}, (1, 2, 3, 4, 5, 7, 8), name="plain"),
            Sample((*a, *turned, c, *y), {"transB": 1}, constant, name="bias"),
            Sample((*a, *b, c), {}, constant[:-2], name="float_output"),
        ]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Return two operations a product."""
        return _product_cost(node, 3 if node.attributes["transB"] else 0)
