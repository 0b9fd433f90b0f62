"""TensorProto to numpy: every encoding, sizes checked, external data mapped instead of read."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from planish.errors import ModelError, UnsupportedTypeError
from planish.ir.dtypes import STRING, DType, dtype_by_onnx

Array = np.ndarray[Any, Any]

MAX_DENSE = 1 << 28  # elements that a sparse tensor may expand to

# The typed field that holds the elements of each type when there is no raw data, and the numpy
# type in which the field's numbers are the element's bits.
FIELDS: dict[str, tuple[str, Any]] = {
    "f32": ("float_data", np.float32),
    "f64": ("double_data", np.float64),
    "i64": ("int64_data", np.int64),
    "i32": ("int32_data", np.int32),
    "u32": ("uint64_data", np.uint32),
    "u64": ("uint64_data", np.uint64),
    "i16": ("int32_data", np.int16),
    "u16": ("int32_data", np.uint16),
    "i8": ("int32_data", np.int8),
    "u8": ("int32_data", np.uint8),
    "bool": ("int32_data", np.uint8),
    "f16": ("int32_data", np.uint16),
    "bf16": ("int32_data", np.uint16),
    "f8e4m3": ("int32_data", np.uint8),
    "f8e5m2": ("int32_data", np.uint8),
    "u4": ("int32_data", np.uint8),
    "i4": ("int32_data", np.uint8),
}


class TensorReader:
    """Turns the tensors of one model into arrays.

    Parameters
    ----------
    folder : Path or None
        Where external data may lie; None for a model that came as bytes.

    Attributes
    ----------
    weights : dict of str to array of bytes
        Raw data, by tensor name, that was cut out of the message (see onnx_weights.py).
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._maps: dict[str, Array] = {}
        self.weights: dict[str, Array] = {}

    def read(self, tensor: TensorProto, where: str) -> Array:
        """Return the contents of `tensor`; raise ModelError, naming `where`, if it is damaged."""
        dtype = element_type(tensor.data_type, where)
        shape = tuple(tensor.dims)
        if any(extent < 0 for extent in shape):
            raise ModelError(f"a tensor has a negative extent: {list(shape)}", where=where)
        count = math.prod(shape)
        if dtype is STRING:
            return _strings(tensor, shape, where)
        if tensor.data_location == TensorProto.EXTERNAL:
            flat = self._external(tensor, dtype, count, where)
        elif tensor.name in self.weights and not tensor.HasField("raw_data"):
            flat = _from_bytes(self.weights[tensor.name], dtype, count, where)
        elif tensor.HasField("raw_data"):
            flat = _from_bytes(np.frombuffer(tensor.raw_data, np.uint8), dtype, count, where)
        else:
            flat = _from_field(tensor, dtype, count, where)
        try:
            return flat.reshape(shape)
        except ValueError as error:  # an extent that no array can have
            raise ModelError(f"not a shape: {list(shape)}", where=where) from error

    def read_sparse(self, sparse: onnx.SparseTensorProto, where: str) -> Array:
        """Return the dense contents of `sparse`."""
        shape = tuple(sparse.dims)
        values = self.read(sparse.values, where)
        indices = self.read(sparse.indices, where)
        if any(extent < 0 for extent in shape) or math.prod(shape) > MAX_DENSE:
            raise ModelError(f"a sparse tensor has the shape {list(shape)}", where=where)
        dense = np.zeros(shape, values.dtype)
        try:
            positions = indices if indices.ndim == 1 else np.ravel_multi_index(indices.T, shape)
            dense.reshape(-1)[positions] = values
        except (ValueError, IndexError, TypeError) as error:
            raise ModelError(f"bad indices of a sparse tensor: {error}", where=where) from error
        return dense

    def _external(self, tensor: TensorProto, dtype: DType, count: int, where: str) -> Array:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        path = self._external_path(entries.get("location", ""), where)
        offset = _number(entries.get("offset", "0"), "offset", where)
        size = _packed_bytes(dtype, count)
        length = _number(entries.get("length", str(size)), "length", where)
        if length != size:
            raise ModelError(
                f"external data of {length} bytes for a tensor of {size} bytes", where=where
            )
        mapped = self._map(path, where)
        if offset + length > mapped.size:
            raise ModelError(
                f"{path} is too short: {mapped.size} bytes, needed {offset + length}",
                where=where,
                fix="copy the external data file again; it must belong to this model",
            )
        return _from_bytes(mapped[offset : offset + length], dtype, count, where)

    def _external_path(self, location: str, where: str) -> Path:
        if self._folder is None:
            raise ModelError(
                f"the tensor lies in an external file {location!r}, but the model came as bytes",
                where=where,
                fix="give the path of the .onnx file, or a ModelProto loaded with its data",
            )
        parts = Path(location).parts
        windows = location.startswith("\\") or location[1:2] == ":"
        if not location or os.path.isabs(location) or windows or ".." in parts:
            raise ModelError(
                f"external data path {location!r} is not inside the model's folder",
                where=where,
                fix="save the model with external data in its own folder",
            )
        return self._folder / location

    def _map(self, path: Path, where: str) -> Array:
        key = str(path)
        if key in self._maps:
            return self._maps[key]
        if not path.is_file():
            raise ModelError(
                f"external data file {path} is missing",
                where=where,
                fix="put it beside the .onnx file",
            )
        real, folder = path.resolve(), self._folder or path.parent
        if not real.is_relative_to(folder.resolve()) and real.parent != self._real_model_folder:
            raise ModelError(f"external data file {path} links out of the folder", where=where)
        if path.stat().st_size == 0:
            self._maps[key] = np.zeros(0, np.uint8)
        else:
            self._maps[key] = np.memmap(path, np.uint8, mode="r").view(np.ndarray)
        return self._maps[key]

    # download caches keep model and data as links into one folder of real files
    _real_model_folder: Path | None = None

    def follow(self, model: Path) -> TensorReader:
        """Allow links into the folder in which `model`, itself a link, really lies."""
        self._real_model_folder = model.resolve().parent
        return self


def element_type(number: int, where: str) -> DType:
    """Return the dtype of an ONNX element type; raise UnsupportedTypeError if there is none."""
    try:
        return dtype_by_onnx(number)
    except KeyError as error:
        known = TensorProto.DataType.DESCRIPTOR.values_by_number
        if number not in known or number == TensorProto.UNDEFINED:
            raise ModelError(f"no element type has the number {number}", where=where) from error
        raise UnsupportedTypeError(
            f"element type {known[number].name} is not supported",
            where=where,
            fix="convert the model to float32, float16, bfloat16 or an integer type",
        ) from error


def has_nan(array: Array) -> bool:
    """Return whether a floating-point array holds a NaN."""
    if array.dtype.kind in "iubO" or array.size == 0:
        return False
    with np.errstate(all="ignore"):
        # the sum is NaN if any element is, and also for infinities of both signs
        if array.dtype.kind == "f" and not np.isnan(np.sum(array)):
            return False
        return bool(np.isnan(array).any())


def _packed_bytes(dtype: DType, count: int) -> int:
    return (count * dtype.bits + 7) // 8


def _from_bytes(raw: Array, dtype: DType, count: int, where: str) -> Array:
    if raw.size != _packed_bytes(dtype, count):
        raise ModelError(
            f"a tensor of {count} {dtype} elements needs {_packed_bytes(dtype, count)} bytes, "
            f"got {raw.size}",
            where=where,
            fix="the file is damaged: export or download it again",
        )
    if dtype.bits == 4:
        return _unpack(raw, dtype, count)
    return raw.view(dtype.numpy)


def _unpack(raw: Array, dtype: DType, count: int) -> Array:
    """Return four-bit elements, the first in the low half of each byte."""
    nibbles = np.stack([raw & 15, raw >> 4], axis=-1).reshape(-1)[:count]
    if dtype.kind == "int":
        return ((nibbles ^ 8).astype(np.int8) - 8).astype(dtype.numpy)
    return nibbles.astype(dtype.numpy)


def _from_field(tensor: TensorProto, dtype: DType, count: int, where: str) -> Array:
    name, bits = FIELDS[dtype.name]
    elements = getattr(tensor, name)
    stored = (count + 1) // 2 if dtype.bits == 4 else count
    if len(elements) != stored:
        raise ModelError(
            f"a tensor of {count} {dtype} elements has {len(elements)} in {name}",
            where=where,
            fix="the file is damaged: export or download it again",
        )
    with np.errstate(all="ignore"):
        wide = np.array(elements, np.float64 if name == "double_data" else None)
        array = wide.astype(bits) if stored else np.zeros(0, bits)
    if dtype.bits == 4:
        return _unpack(array, dtype, count)
    return array.astype(bool) if dtype.name == "bool" else array.view(dtype.numpy)


def _strings(tensor: TensorProto, shape: tuple[int, ...], where: str) -> Array:
    if len(tensor.string_data) != math.prod(shape):
        raise ModelError(
            f"a tensor of {math.prod(shape)} strings has {len(tensor.string_data)}", where=where
        )
    array = np.empty(len(tensor.string_data), object)
    array[:] = [data.decode("utf-8", "replace") for data in tensor.string_data]
    return array.reshape(shape)


def _number(text: str, key: str, where: str) -> int:
    if not text.isdecimal():
        raise ModelError(f"external data has the {key} {text!r}", where=where)
    return int(text)
