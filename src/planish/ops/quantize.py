"""Affine quantization: q = saturate(round(x / scale) + zero_point), and back.

Rounding is to nearest, halves to even. Scale and zero point are one number, one for each position
along `axis`, or one for each block of `block_size` along it. ``com.microsoft.QuantizeLinear`` and
``DequantizeLinear`` are imported as these operators.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.dtypes import (
    F8E4M3,
    F8E5M2,
    F16,
    F32,
    I4,
    I8,
    I16,
    I32,
    U4,
    U8,
    U16,
    DType,
    dtype_of,
)
from planish.ir.graph import Node
from planish.ir.requirement import Requirement, equal
from planish.ir.shape import ceildiv
from planish.ops.cast import cast_array, dtype_attribute
from planish.ops.numeric import optional, required
from planish.ops.op import Array, Attributes, Inferred, Inputs, Op, Sample, normalize_axis
from planish.ops.sample_data import f32, floats, whole

LIMITS: dict[DType, tuple[int, int]] = {
    U8: (0, 255),
    I8: (-128, 127),
    U16: (0, 65535),
    I16: (-32768, 32767),
    U4: (0, 15),
    I4: (-8, 7),
    I32: (-(2**31), 2**31 - 1),
}


def spread(parameter: Array, shape: tuple[int, ...], axis: int, block: int = 0) -> Array:
    """Return scales or zero points so that they broadcast against a tensor of `shape`."""
    if parameter.size == 1:
        return parameter.reshape(())
    axis = axis % len(shape)
    if block:
        repeated = np.repeat(parameter, block, axis=axis)
        return np.take(repeated, np.arange(shape[axis]), axis=axis)
    return parameter.reshape(-1, *(1,) * (len(shape) - axis - 1))


def saturate(values: Array, dtype: DType) -> Array:
    """Return whole numbers in floats clipped to the range of integer type `dtype`."""
    low, high = LIMITS[dtype]
    clipped = np.clip(values.astype(np.float64), low, high)
    return np.asarray(clipped.astype(np.int64).astype(dtype.numpy))


def quantize(x: Array, scale: Array, zero_point: Array | None, dtype: DType) -> Array:
    """Return `x` in `dtype`; `scale` and `zero_point` broadcast against it.

    The division runs in float32, as kernels do. Eight-bit floats are only divided and rounded.
    """
    with np.errstate(all="ignore"):
        scaled = x.astype(np.float32) / scale.astype(np.float32)
        if dtype.is_float:
            return cast_array(scaled, dtype)
        offset = 0.0 if zero_point is None else zero_point.astype(np.float64)
        return saturate(np.rint(scaled).astype(np.float64) + offset, dtype)


def dequantize(q: Array, scale: Array, zero_point: Array | None) -> Array:
    """Return (q - zero_point) * scale in float32; the difference is exact."""
    wide = np.float32 if dtype_of(q).is_float else np.int64
    offset = np.zeros((), wide) if zero_point is None else zero_point.astype(wide)
    difference = np.subtract(q.astype(wide), offset)
    return np.asarray(difference.astype(np.float32) * scale.astype(np.float32))


def check_parameters(node: Node, scale_index: int = 1) -> None:
    """Raise ShapeError where scale and zero point cannot belong to the tensor (input 0)."""
    value, scale = node.present_inputs[0], node.inputs[scale_index]
    zero_point = node.input(scale_index + 1)
    if scale is None or value.shape is None or scale.shape is None:
        return
    if zero_point is not None and zero_point.shape not in (None, scale.shape):
        single = all(dim == 1 for shape in (scale.shape, zero_point.shape) for dim in shape or ())
        if not single:
            raise ShapeError(
                f"scale {scale} and zero point {zero_point} have different shapes", where=str(node)
            )
    axis, block = node.attributes["axis"], node.attributes.get("block_size", 0)
    if len(scale.shape) == 0 or scale.shape == (1,):
        return
    axis = normalize_axis(axis, len(value.shape), node)
    expected = value.shape[axis]
    if block:
        expected = ceildiv(expected, block)
        given = scale.shape[axis] if len(scale.shape) == len(value.shape) else None
    else:
        given = scale.shape[0] if len(scale.shape) == 1 else None
    clash = isinstance(given, int) and isinstance(expected, int) and given != expected
    if given is None or clash:
        raise ShapeError(
            f"scale {scale} does not fit axis {axis} of {value} (block_size={block})",
            where=str(node),
        )


def parameter_requirements(node: Node) -> list[Requirement]:
    """Return that there is a scale for every position along the axis."""
    value, scale = node.present_inputs[:2]
    if value.shape is None or scale.shape is None or len(scale.shape) != 1 or scale.shape == (1,):
        return []
    return equal(scale.shape[0], value.shape[int(node.attributes["axis"])])


class QuantizeLinear(Op):
    """saturate(round(x / scale) + zero_point), halves to even.

    Inputs: x, scale, optional zero point. The output has the zero point's type, else
    `output_dtype`, else u8. Blocked scales have the rank of x.
    """

    name = "QuantizeLinear"
    attributes: ClassVar[Mapping[str, Any]] = {
        "axis": 1,
        "block_size": 0,
        "output_dtype": 0,
        "precision": 0,
        "saturate": 1,
    }
    pointwise = True
    operations_per_element = 4

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return x's shape in the quantized type."""
        check_parameters(node)
        zero_point, wanted = node.input(2), node.attributes["output_dtype"]
        dtype = dtype_attribute(wanted) if wanted else U8
        if zero_point is not None:
            dtype = zero_point.dtype
        return [Inferred(dtype, node.present_inputs[0].shape)]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that there is a scale for every position along the axis."""
        return parameter_requirements(node)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Quantize."""
        x, scale, zero_point = required(inputs, 0), required(inputs, 1), optional(inputs, 2)
        wanted = attributes["output_dtype"]
        dtype = dtype_attribute(wanted) if wanted else U8
        arrangement = (x.shape, attributes["axis"], attributes["block_size"])
        if zero_point is None:
            return [quantize(x, spread(scale, *arrangement), None, dtype)]
        offset = spread(zero_point, *arrangement)
        return [quantize(x, spread(scale, *arrangement), offset, dtype_of(zero_point))]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return every quantized type, per axis and blocked scales, halves, and saturation."""
        x = floats(2, 3, 4, low=-30, high=30)
        scale, axis_scale = f32(0.25), f32([0.1, 0.2, 0.4])
        zeros = np.array([3, 7, 0], dtype=np.int8)
        halves = np.arange(-5, 5, 0.5, dtype=np.float32)
        blocked = floats(2, 2, 4, low=0.1, high=1)
        samples = [
            Sample((x, scale, np.array(zero, dtype=dtype.numpy)), {}, (1, 2), name=dtype.name)
            for dtype, zero in ((U8, 128), (I8, -3), (U16, 99), (I16, -7), (U4, 7), (I4, -1))
        ]
        f8 = np.zeros((), F8E4M3.numpy)
        return [
            *samples,
            Sample((x, scale), {}, (1,), name="no_zero_point"),
            Sample((x, scale), {"output_dtype": I8.onnx}, (1,), name="output_dtype"),
            Sample((x, axis_scale, zeros), {}, (1, 2), name="per_axis"),
            Sample((floats(2, 4, 3), axis_scale, zeros), {"axis": -1}, (1, 2), name="last_axis"),
            Sample((x, blocked), {"block_size": 2, "output_dtype": I8.onnx}, (1,), name="blocked"),
            Sample((halves, f32(1.0), np.array(1, np.uint8)), {}, (1, 2), name="halves"),
            Sample((x, f32(0.05), f8), {}, (1, 2), name="f8e4m3"),
            Sample((x, f32(0.05), np.zeros((), F8E5M2.numpy)), {}, (1, 2), name="f8e5m2"),
            Sample((x, scale, np.array(10, np.uint8)), name="dynamic"),
        ]


class DequantizeLinear(Op):
    """(x - zero_point) * scale, in the scale's type or `output_dtype`.

    Inputs: x (quantized, or i32 without a zero point), scale, optional zero point.
    """

    name = "DequantizeLinear"
    attributes: ClassVar[Mapping[str, Any]] = {"axis": 1, "block_size": 0, "output_dtype": 0}
    pointwise = True
    operations_per_element = 2

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return x's shape in the scale's type."""
        check_parameters(node)
        value, scale = node.present_inputs[:2]
        wanted = node.attributes["output_dtype"]
        return [Inferred(dtype_attribute(wanted) if wanted else scale.dtype, value.shape)]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that there is a scale for every position along the axis."""
        return parameter_requirements(node)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Dequantize in float32, then round to the output's type."""
        x, scale, zero_point = required(inputs, 0), required(inputs, 1), optional(inputs, 2)
        arrangement = (x.shape, attributes["axis"], attributes["block_size"])
        offset = None if zero_point is None else spread(zero_point, *arrangement)
        wanted = attributes["output_dtype"]
        dtype = dtype_attribute(wanted) if wanted else dtype_of(scale)
        return [dequantize(x, spread(scale, *arrangement), offset).astype(dtype.numpy)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return every quantized type, per axis and blocked scales, and float16."""
        scale, axis_scale = f32(0.25), f32([0.1, 0.2, 0.4])
        bytes_ = whole(2, 3, 4, low=-128, high=128, dtype=np.int8)
        small = whole(2, 3, 4, low=0, high=8, dtype=np.int8)
        zeros = np.array([3, 7, 0], dtype=np.int8)
        samples = [
            Sample(
                (small.astype(dtype.numpy), scale, np.array(zero, dtype=dtype.numpy)),
                {},
                (1, 2),
                name=dtype.name,
            )
            for dtype, zero in ((U8, 128), (I8, -3), (U16, 99), (I16, -7), (U4, 7), (I4, -1))
        ]
        f8 = floats(2, 3).astype(F8E4M3.numpy)
        blocked = floats(2, 2, 4, low=0.1, high=1)
        return [
            *samples,
            Sample((whole(2, 3, dtype=np.int32), scale), {}, (1,), name="i32"),
            Sample((bytes_, axis_scale, zeros), {}, (1, 2), name="per_axis"),
            Sample((bytes_, axis_scale), {"axis": -2}, (1,), name="no_zero_point"),
            Sample((bytes_, blocked), {"block_size": 2}, (1,), name="blocked"),
            Sample((f8, scale), {}, (1,), name="f8e4m3"),
            Sample((bytes_, scale.astype(F16.numpy)), {}, (1,), name="f16"),
            Sample((bytes_, scale, np.array(1, np.int8)), {}, (0, 1, 2), name="constant"),
        ]


class DynamicQuantizeLinear(Op):
    """x in u8 with a scale and a zero point from its own range (which always contains 0)."""

    name = "DynamicQuantizeLinear"
    operations_per_element = 8

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the quantized tensor, the scale and the zero point."""
        return [Inferred(U8, node.present_inputs[0].shape), Inferred(F32, ()), Inferred(U8, ())]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Find the range, then quantize."""
        x = required(inputs, 0).astype(np.float32)
        low, high = np.minimum(x.min(initial=0), 0), np.maximum(x.max(initial=0), 0)
        scale = np.float32((high - low) / np.float32(255))
        scale = scale if scale > 0 else np.float32(1)
        zero_point = saturate(np.rint(np.asarray(-low / scale)), U8)
        return [quantize(x, np.asarray(scale), zero_point, U8), np.asarray(scale), zero_point]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return both signs, one sign, and zeros."""
        return [
            Sample((floats(3, 4),), {}, outputs=3),
            Sample((floats(3, 4, low=1, high=5),), {}, outputs=3, name="positive"),
            Sample((floats(2, 3, 4, low=-5, high=-1),), {}, outputs=3, name="negative"),
            Sample((np.zeros(4, np.float32),), {}, outputs=3, name="zeros"),
        ]
