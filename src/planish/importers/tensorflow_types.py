"""TensorFlow's element types, shapes, tensors and attributes, decoded."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from planish.errors import ModelError
from planish.importers.tensorflow_graph import TfShape, TfType

Array = np.ndarray[Any, Any]

REFERENCE = 100  # added to the number of a type for a reference (TensorFlow 1) to such a tensor
MAX_REPEATED = 1 << 31  # bytes of a tensor that the file holds as fewer values than elements

# DataType numbers of tensorflow/core/framework/types.proto
TYPES: dict[int, TfType] = {
    1: np.dtype(np.float32), 2: np.dtype(np.float64), 3: np.dtype(np.int32), 4: np.dtype(np.uint8),
    5: np.dtype(np.int16), 6: np.dtype(np.int8), 7: "string", 8: np.dtype(np.complex64),
    9: np.dtype(np.int64), 10: np.dtype(np.bool_), 11: "qint8", 12: "quint8", 13: "qint32",
    14: np.dtype(ml_dtypes.bfloat16), 15: "qint16", 16: "quint16", 17: np.dtype(np.uint16),
    18: np.dtype(np.complex128), 19: np.dtype(np.float16), 20: "resource", 21: "variant",
    22: np.dtype(np.uint32), 23: np.dtype(np.uint64), 24: np.dtype(ml_dtypes.float8_e5m2),
    25: np.dtype(ml_dtypes.float8_e4m3fn), 26: np.dtype(ml_dtypes.float8_e4m3fnuz),
    27: np.dtype(ml_dtypes.float8_e4m3b11fnuz), 28: np.dtype(ml_dtypes.float8_e5m2fnuz),
    29: np.dtype(ml_dtypes.int4), 30: np.dtype(ml_dtypes.uint4),
}  # fmt: skip
STRING = 7

# how quantized types are stored
_STORAGE: dict[int, np.dtype[Any]] = {
    11: np.dtype(np.int8), 12: np.dtype(np.uint8), 13: np.dtype(np.int32), 15: np.dtype(np.int16),
    16: np.dtype(np.uint16),
}  # fmt: skip
_VALUE_FIELDS = {
    1: "float_val", 2: "double_val", 3: "int_val", 4: "int_val", 5: "int_val", 6: "int_val",
    7: "string_val", 8: "scomplex_val", 9: "int64_val", 10: "bool_val", 11: "int_val",
    12: "int_val", 13: "int_val", 14: "half_val", 15: "int_val", 16: "int_val", 17: "int_val",
    18: "dcomplex_val", 19: "half_val", 22: "uint32_val", 23: "uint64_val", 24: "float8_val",
    25: "float8_val", 26: "float8_val", 27: "float8_val", 28: "float8_val", 29: "int_val",
    30: "int_val",
}  # fmt: skip


def element_type(number: int) -> TfType:
    """Return the type of a DataType number; an unknown one by its number, as text."""
    return TYPES.get(number % REFERENCE if number > REFERENCE else number, f"type {number}")


def storage_type(number: int, where: str) -> np.dtype[Any]:
    """Return the numpy type that holds elements of a DataType; raise ModelError without one."""
    dtype = element_type(number)
    if number % REFERENCE in _STORAGE:
        return _STORAGE[number % REFERENCE]
    if isinstance(dtype, str):
        raise ModelError(f"tensors of the type {dtype} cannot be read", where=where)
    return dtype


def shape_of(proto: Any) -> TfShape:
    """Return a TensorShapeProto as a tuple; unknown extents are None."""
    if proto.unknown_rank:
        return None
    return tuple(int(dim.size) if dim.size >= 0 else None for dim in proto.dim)


def static_shape_of(proto: Any, where: str) -> tuple[int, ...]:
    """Return the shape of a tensor that exists; raise ModelError when extents are missing."""
    shape = shape_of(proto)
    if shape is None or None in shape or len(shape) > 64:
        raise ModelError(f"a tensor has the shape {shape}", where=where)
    return tuple(extent for extent in shape if extent is not None)


def tensor_of(proto: Any, where: str) -> Array:
    """Return a TensorProto as a read-only array; strings as `bytes` in an object array.

    Values that the file leaves out repeat the last one that it holds; such an array may be a
    broadcast view.
    """
    shape = static_shape_of(proto.tensor_shape, where)
    count = math.prod(shape)
    number = proto.dtype % REFERENCE
    if number != STRING and proto.tensor_content:
        dtype = storage_type(number, where)
        if len(proto.tensor_content) != count * dtype.itemsize:
            raise ModelError(
                f"a tensor of {count} elements holds {len(proto.tensor_content)} bytes, "
                f"expected {count * dtype.itemsize}",
                where=where,
            )
        return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
    values = _listed(proto, number, where)
    if len(values) > count:
        raise ModelError(f"a tensor of {count} elements holds {len(values)}", where=where)
    return _repeated(values, shape, count, where)


def _listed(proto: Any, number: int, where: str) -> Array:
    """Return the values that a TensorProto lists one by one."""
    if number not in _VALUE_FIELDS:
        raise ModelError(f"tensors of the type {element_type(number)} cannot be read", where=where)
    listed = getattr(proto, _VALUE_FIELDS[number])
    if number == STRING:
        strings = np.empty(len(listed), object)
        strings[:] = list(listed)
        return strings
    dtype = storage_type(number, where)
    if isinstance(listed, bytes):
        return np.frombuffer(listed, dtype)
    if dtype.kind == "c":
        parts = np.array(listed, dtype.type(0).real.dtype)
        return parts[: len(parts) // 2 * 2].view(dtype)
    if _VALUE_FIELDS[number] == "half_val":  # the bits of the numbers
        return np.array(listed, np.int64).astype(np.uint16).view(dtype)
    wide = np.array(listed, None if listed else dtype)
    return wide.astype(dtype)


def _repeated(values: Array, shape: tuple[int, ...], count: int, where: str) -> Array:
    if len(values) == count:
        return values.reshape(shape)
    if count * values.itemsize > MAX_REPEATED:
        raise ModelError(
            f"a constant of {count} elements is stored as {len(values)} values: it is larger than "
            f"{MAX_REPEATED >> 30} GB",
            where=where,
        )
    if len(values) == 0:
        values = np.array([b""], object) if values.dtype == object else np.zeros(1, values.dtype)
    if len(values) == 1:
        return np.broadcast_to(values, shape) if shape else values.reshape(())
    filled = np.empty(count, values.dtype)
    filled[: len(values)] = values
    filled[len(values) :] = values[-1]
    return filled.reshape(shape)


def attribute_of(proto: Any, where: str, function: Callable[[Any], Any]) -> Any:
    """Return an AttrValue as Python values.

    Parameters
    ----------
    proto : AttrValue
    where : str
        The node, for messages.
    function : callable
        Turns a NameAttrList into what stands for a function.
    """
    kind = proto.WhichOneof("kind")
    if kind is None:
        return None
    value = getattr(proto, kind)
    if kind == "list":
        return _list_of(value, where, function)
    return _scalar_of(kind, value, where, function)


def _scalar_of(kind: str, value: Any, where: str, function: Callable[[Any], Any]) -> Any:
    if kind == "s":
        return text_of(value)
    if kind == "type":
        return element_type(value)
    if kind == "shape":
        return shape_of(value)
    if kind == "tensor":
        return tensor_of(value, where)
    if kind == "func":
        return function(value)
    return value


def _list_of(proto: Any, where: str, function: Callable[[Any], Any]) -> list[Any]:
    for kind in ("s", "i", "f", "b", "type", "shape", "tensor", "func"):
        values = getattr(proto, kind)
        if values:
            return [_scalar_of(kind, value, where, function) for value in values]
    return []


def text_of(data: bytes) -> str | bytes:
    """Return `data` as text where it is text."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
