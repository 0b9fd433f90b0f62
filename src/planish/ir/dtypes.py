"""Element types: one row each. Adding a dtype is adding a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class DType:
    """An element type.

    Attributes
    ----------
    name : str
        Name in the graph's text form ("f32").
    numpy : numpy.dtype
        Type of arrays that hold it.
    onnx : int
        ``onnx.TensorProto.DataType`` number.
    bits : int
        Size of one element in a packed tensor.
    kind : str
        "float", "int", "uint", "bool" or "string".
    """

    name: str
    numpy: np.dtype[Any]
    onnx: int
    bits: int
    kind: str

    @property
    def itemsize(self) -> int:
        """Bytes of one element as numpy holds it (four-bit types take one byte)."""
        return self.numpy.itemsize

    @property
    def is_float(self) -> bool:
        """Whether values are floating-point numbers."""
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        """Whether values are signed or unsigned integers."""
        return self.kind in ("int", "uint")

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"DType({self.name})"


F32 = DType("f32", np.dtype(np.float32), 1, 32, "float")
U8 = DType("u8", np.dtype(np.uint8), 2, 8, "uint")
I8 = DType("i8", np.dtype(np.int8), 3, 8, "int")
U16 = DType("u16", np.dtype(np.uint16), 4, 16, "uint")
I16 = DType("i16", np.dtype(np.int16), 5, 16, "int")
I32 = DType("i32", np.dtype(np.int32), 6, 32, "int")
I64 = DType("i64", np.dtype(np.int64), 7, 64, "int")
STRING = DType("string", np.dtype(object), 8, 64, "string")
BOOL = DType("bool", np.dtype(np.bool_), 9, 8, "bool")
F16 = DType("f16", np.dtype(np.float16), 10, 16, "float")
F64 = DType("f64", np.dtype(np.float64), 11, 64, "float")
U32 = DType("u32", np.dtype(np.uint32), 12, 32, "uint")
U64 = DType("u64", np.dtype(np.uint64), 13, 64, "uint")
BF16 = DType("bf16", np.dtype(ml_dtypes.bfloat16), 16, 16, "float")
F8E4M3 = DType("f8e4m3", np.dtype(ml_dtypes.float8_e4m3fn), 17, 8, "float")
F8E5M2 = DType("f8e5m2", np.dtype(ml_dtypes.float8_e5m2), 19, 8, "float")
U4 = DType("u4", np.dtype(ml_dtypes.uint4), 21, 4, "uint")
I4 = DType("i4", np.dtype(ml_dtypes.int4), 22, 4, "int")

DTYPES = (
    F32, U8, I8, U16, I16, I32, I64, STRING, BOOL, F16, F64, U32, U64, BF16, F8E4M3, F8E5M2, U4, I4,
)  # fmt: skip

_BY_NAME = {dtype.name: dtype for dtype in DTYPES}
_BY_ONNX = {dtype.onnx: dtype for dtype in DTYPES}
_BY_NUMPY = {dtype.numpy: dtype for dtype in DTYPES}


def dtype_by_name(name: str) -> DType:
    """Return the dtype whose text name is `name`; raise KeyError when there is none."""
    return _BY_NAME[name]


def dtype_by_onnx(number: int) -> DType:
    """Return the dtype of an ``onnx.TensorProto.DataType``; raise KeyError when there is none."""
    return _BY_ONNX[number]


def dtype_of(array: np.ndarray[Any, Any]) -> DType:
    """Return the dtype of `array`; raise KeyError when Planish has no such type."""
    if array.dtype.kind in "US":
        return STRING
    return _BY_NUMPY[array.dtype.newbyteorder("=")]
