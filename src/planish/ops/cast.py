"""Conversions between element types, and operators that only pass their input on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.dtypes import (
    BF16,
    BOOL,
    F8E4M3,
    F8E5M2,
    F16,
    F32,
    F64,
    I4,
    I8,
    I32,
    I64,
    STRING,
    U4,
    U8,
    DType,
    dtype_by_onnx,
    dtype_of,
)
from planish.ir.graph import Node
from planish.ir.requirement import Requirement
from planish.ir.shape import Dim
from planish.ops.content import bounds, ranges_of
from planish.ops.elementwise import Pointwise
from planish.ops.numeric import required
from planish.ops.op import REQUIRED, Array, Attributes, Inferred, Inputs, Op, Sample
from planish.ops.sample_data import f32, floats, truths, whole

LARGEST = {F8E4M3: 448.0, F8E5M2: 57344.0}  # the largest finite numbers


def dtype_attribute(value: int | DType) -> DType:
    """Return the dtype that an attribute names: ONNX's number, or the dtype itself."""
    return value if isinstance(value, DType) else dtype_by_onnx(int(value))


def cast_array(array: Array, dtype: DType, saturate: bool = True) -> Array:
    """Return `array` converted as ONNX Cast does.

    Floats become integers by truncation. Narrow floats round to nearest, ties to even; eight-bit
    floats clip to the largest finite number where `saturate` is set.
    """
    if dtype is STRING:
        return _to_strings(array)
    if dtype_of(array) is STRING:
        return _from_strings(array, dtype)
    if dtype in (F8E4M3, F8E5M2) and saturate:
        return _saturated(array, dtype)
    with np.errstate(all="ignore"):
        if dtype is BOOL:
            return np.asarray(array != np.zeros((), array.dtype))
        if dtype.is_integer and dtype_of(array).is_float:
            # by way of 64 bits, so that what does not fit wraps around as it does on x86
            array = array.astype(np.float64).astype(np.int64)
        if dtype in (I4, U4):
            return _low_bits(array, dtype)
        return array.astype(dtype.numpy)


def _saturated(array: Array, dtype: DType) -> Array:
    limit = LARGEST[dtype]
    wide = array.astype(np.float32)
    return np.where(np.isnan(wide), wide, np.clip(wide, -limit, limit)).astype(dtype.numpy)


def _low_bits(array: Array, dtype: DType) -> Array:
    low = array.astype(np.int64) & 15
    signed = np.where(low >= 8, low - 16, low) if dtype is I4 else low
    return signed.astype(np.int8).astype(dtype.numpy)


def _to_strings(array: Array) -> Array:
    if dtype_of(array).is_float:
        words = [_float_text(float(item)) for item in array.reshape(-1)]
    else:
        words = [
            str(int(item)) if item.dtype != np.bool_ else str(item) for item in array.reshape(-1)
        ]
    return np.array(words, dtype=object).reshape(array.shape)


def _float_text(number: float) -> str:
    if not np.isfinite(number):
        return "NaN" if np.isnan(number) else "INF" if number > 0 else "-INF"
    return np.format_float_positional(np.float32(number), trim="-")


def _from_strings(array: Array, dtype: DType) -> Array:
    parse = float if dtype.is_float else int
    numbers = [parse(str(word)) for word in array.reshape(-1)]
    return np.array(numbers).reshape(array.shape).astype(dtype.numpy)


def _cast_symbolic(dim: Dim, dtype: DType, node: Node) -> Dim | None:
    """Return one converted element; a truth value only where the extent's sign is known."""
    if dtype is not BOOL:
        return dim
    low, high = bounds(dim, ranges_of(node))
    return 1 if low > 0 or high < 0 else 0 if dim == 0 else None


class Cast(Pointwise):
    """The input converted to element type `to`."""

    name = "Cast"
    attributes: ClassVar[Mapping[str, Any]] = {
        "to": REQUIRED,
        "saturate": 1,
        "round_mode": "up",
    }

    @classmethod
    def result_type(cls, node: Node) -> DType:
        """Return the type that the attribute names."""
        return dtype_attribute(node.attributes["to"])

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return the extent itself, or its truth value."""
        return _cast_symbolic(operands[0], cls.result_type(node), node)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Convert."""
        return [cls.compute([required(inputs, 0)], attributes)]

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Convert."""
        return cast_array(
            arrays[0], dtype_attribute(attributes["to"]), bool(attributes["saturate"])
        )

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return every kind of conversion that models have."""
        x = floats(2, 3)
        edge = f32([0.0, 1e9, -1e9, np.nan, 300.0, 0.3, -57345.0])
        words = np.array(["1", "-2", "30"], dtype=object)
        wanted = [(x, d) for d in (F64, F16, BF16, I32, I64, I8, BOOL, F8E4M3, F8E5M2)]
        wanted += [(x.astype(BF16.numpy), F32), (x.astype(np.float16), F32)]
        wanted += [(whole(2, 3), d) for d in (F32, I32, BOOL, STRING)]
        wanted += [(truths(2, 3), d) for d in (F32, I64)]
        wanted += [(whole(2, 3, low=-8, high=8, dtype=np.int8), I4)]
        wanted += [(whole(2, 3, low=0, high=16, dtype=np.uint8), U4)]
        wanted += [(whole(2, 3, low=0, high=256, dtype=np.uint8), F32), (words, I64), (words, F32)]
        samples = [
            Sample((array,), {"to": dtype.onnx}, name=f"{dtype_of(array)}_{dtype}")
            for array, dtype in wanted
        ]
        return [
            *samples,
            Sample((edge,), {"to": F8E4M3.onnx}, name="saturate_f8e4m3"),
            Sample((edge,), {"to": F8E5M2.onnx}, name="saturate_f8e5m2"),
            Sample((edge,), {"to": F8E4M3.onnx, "saturate": 0}, name="overflow_f8e4m3"),
            Sample((f32([0.0, 0.2, 1.9, 255.0]),), {"to": U8.onnx}, name="f32_u8"),
        ]


class CastLike(Pointwise):
    """The first input converted to the element type of the second, whose contents are unused."""

    name = "CastLike"
    attributes: ClassVar[Mapping[str, Any]] = {"saturate": 1, "round_mode": "up"}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the first input's shape with the second input's type."""
        value, like = node.present_inputs
        content = value.content
        if content is not None and like.dtype.bits < 32:
            content = None
        return [Inferred(like.dtype, value.shape, content)]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return nothing: only the type of the second input counts."""
        return []

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Convert."""
        return [cls.compute([required(inputs, 0), required(inputs, 1)], attributes)]

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Convert."""
        return cast_array(arrays[0], dtype_of(arrays[1]), bool(attributes["saturate"]))

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return a widening, a narrowing, and a truncation."""
        return [
            Sample((whole(2, 3), f32([1.0])), name="i64_f32"),
            Sample((floats(2, 3), np.ones(1, np.float16)), name="f32_f16"),
            Sample((floats(2, 3), np.ones(4, np.int32)), {}, (1,), name="f32_i32"),
        ]


class Identity(Op):
    """The input itself."""

    name = "Identity"
    view = True
    pointwise = True
    operations_per_element = 0

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the input's type, contents included."""
        value = node.present_inputs[0]
        return [Inferred(value.dtype, value.shape, value.content)]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Return the input."""
        return [required(inputs, 0)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return a tensor, a scalar, integers and strings."""
        words = np.array(["a", "b"], dtype=object)
        return [
            Sample((floats(2, 3),)),
            Sample((floats(),), name="scalar"),
            Sample((whole(3),), name="i64"),
            Sample((words,), name="string"),
        ]


class Dropout(Op):
    """The input itself (inference), and a mask that is true everywhere."""

    name = "Dropout"
    attributes: ClassVar[Mapping[str, Any]] = {"seed": None}
    view = True
    operations_per_element = 0

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the input's type; refuse training mode."""
        value, training = node.present_inputs[0], node.input(2)
        if training is not None and training.is_constant and bool(training.array.any()):
            raise ShapeError(
                "Dropout is in training mode",
                where=str(node),
                fix="export the model for inference (model.eval() before torch.onnx.export)",
            )
        return [Inferred(value.dtype, value.shape, value.content), Inferred(BOOL, value.shape)]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Return the input and the mask."""
        x = required(inputs, 0)
        return [x, np.ones(x.shape, dtype=np.bool_)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return one and two outputs, with and without the optional inputs."""
        ratio, training = f32(0.3), np.array(False)
        return [
            Sample((floats(2, 3),)),
            Sample((floats(2, 3), ratio), {}, (1,), outputs=2, name="mask"),
            Sample((floats(2, 3), ratio, training), {}, (1, 2), name="training_false"),
        ]
