"""Reads a tensor bundle, the checkpoint format of TensorFlow 2: variables by their keys.

``PREFIX.index`` is a sorted string table: the empty key holds a BundleHeaderProto, every other one
a BundleEntryProto that says where in ``PREFIX.data-SHARD-of-SHARDS`` the tensor's bytes are. A
partitioned tensor has an entry that lists its slices; each slice is an entry of its own under a
binary key (name and extents in an order-preserving code). Arrays map the files: nothing is copied
unless it lies at an odd address or is spread over slices. Checksums are verified when a tensor is
read. (Format: ``tensorflow/core/util/tensor_bundle``, ``core/lib/strings/ordered_code``.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from planish.errors import ModelError
from planish.importers.crc32c import crc32c, unmasked
from planish.importers.leveldb_table import read_table, varint
from planish.importers.tensorflow_messages import parse
from planish.importers.tensorflow_types import (
    STRING,
    Array,
    element_type,
    static_shape_of,
    storage_type,
)

MAX_INDEX = 1 << 30  # bytes
MAX_SHARDS = 1 << 20
COPY_AGAIN = "copy the whole SavedModel folder again, with everything in variables/"
Slice = tuple[tuple[int, int], ...]  # start and length of every axis; length -1: the whole axis


class TensorBundle:
    """The tensors of one checkpoint.

    Parameters
    ----------
    prefix : Path
        The files' common name, ``variables/variables`` in a SavedModel.

    Raises
    ------
    ModelError
        When the index is missing or damaged.
    """

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        self._index = prefix.with_name(prefix.name + ".index")
        table = read_table(_read(self._index, MAX_INDEX), str(self._index))
        if b"" not in table:
            raise ModelError("the index has no header", where=str(self._index), fix=COPY_AGAIN)
        header = parse("BundleHeaderProto", table.pop(b""), str(self._index))
        if not 0 < header.num_shards <= MAX_SHARDS:
            raise ModelError(
                f"the index names {header.num_shards} shards",
                where=str(self._index),
                fix=COPY_AGAIN,
            )
        self._shards: int = header.num_shards
        self._swapped = header.endianness == 1
        self._table = table
        self._maps: dict[int, Array] = {}
        self._read: dict[str, Array] = {}

    @property
    def keys(self) -> list[str]:
        """The keys of whole tensors, sorted."""
        # a slice's key is binary and begins with a zero byte
        return sorted(key.decode("utf-8", "replace") for key in self._table if key[:1] != b"\0")

    def __contains__(self, key: str) -> bool:
        return key.encode() in self._table

    def dtype(self, key: str) -> int:
        """Return the DataType number of a tensor."""
        return int(self._entry(key.encode()).dtype)

    def read(self, key: str) -> Array:
        """Return a tensor, read-only; strings are `bytes` in an object array.

        Raises
        ------
        ModelError
            When there is no such tensor, a file is missing, or sizes or checksums do not fit.
        """
        if key not in self._read:
            entry = self._entry(key.encode())
            array = self._joined(key, entry) if entry.slices else self._tensor(key, entry)
            array.flags.writeable = False
            self._read[key] = array
        return self._read[key]

    def read_slice(self, key: str, extents: Slice) -> Array:
        """Return a part of a tensor."""
        whole = self.read(key)
        if len(extents) != whole.ndim:
            raise ModelError(
                f"a slice of {len(extents)} axes is asked of the variable {key!r}, which has "
                f"{whole.ndim}",
                where=str(self._index),
            )
        return whole[_places(extents, whole.shape, f"variable {key} in {self._index}")]

    def _entry(self, key: bytes) -> Any:
        if key not in self._table:
            raise ModelError(
                f"the checkpoint has no tensor {key.decode('utf-8', 'replace')!r}",
                where=str(self._index),
                fix=COPY_AGAIN,
            )
        return parse("BundleEntryProto", self._table[key], str(self._index))

    def _tensor(self, key: str, entry: Any) -> Array:
        where = f"variable {key!r} in {self._index}"
        shape = static_shape_of(entry.shape, where)
        data = self._bytes(entry, where)
        if entry.dtype == STRING:
            return _strings(data, shape, entry.crc32c, where)
        dtype = storage_type(entry.dtype, where)
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise ModelError(
                f"{len(data)} bytes are stored for a tensor of the type "
                f"{element_type(entry.dtype)} and the shape {shape}",
                where=where,
                fix=COPY_AGAIN,
            )
        if crc32c(data) != unmasked(entry.crc32c):
            raise _bad_checksum(where)
        if self._swapped:
            return data.view(dtype.newbyteorder(">")).astype(dtype).reshape(shape)
        if len(data) and data.ctypes.data % dtype.itemsize:
            data = data.copy()
        return data.view(dtype).reshape(shape)

    def _bytes(self, entry: Any, where: str) -> Array:
        shard = self._shard(entry.shard_id)
        if entry.offset < 0 or entry.size < 0 or entry.offset + entry.size > len(shard):
            raise ModelError(
                f"the tensor reaches to byte {entry.offset + entry.size} of a file of {len(shard)}",
                where=where,
                fix=COPY_AGAIN,
            )
        return shard[entry.offset : entry.offset + entry.size]

    def _shard(self, number: int) -> Array:
        if not 0 <= number < self._shards:
            raise ModelError(
                f"the index names shard {number} of {self._shards}",
                where=str(self._index),
                fix=COPY_AGAIN,
            )
        if number not in self._maps:
            name = f"{self._prefix.name}.data-{number:05d}-of-{self._shards:05d}"
            self._maps[number] = _mapped(self._prefix.with_name(name))
        return self._maps[number]

    def _joined(self, key: str, entry: Any) -> Array:
        """Return a partitioned tensor, put together from its slices."""
        where = f"variable {key!r} in {self._index}"
        shape = static_shape_of(entry.shape, where)
        dtype = storage_type(entry.dtype, where)
        pieces = [
            (extents, self._entry(_slice_key(key, extents)))
            for extents in (_extents(proto) for proto in entry.slices)
        ]
        stored = sum(piece.size for _, piece in pieces)
        if stored != math.prod(shape) * dtype.itemsize:
            raise ModelError(
                f"the slices hold {stored} bytes, the tensor has the shape {shape}",
                where=where,
                fix=COPY_AGAIN,
            )
        whole = np.empty(shape, dtype)
        for extents, piece in pieces:
            part = self._tensor(key, piece)
            place = _places(extents, shape, where)
            if whole[place].shape != part.shape or part.dtype != dtype:
                raise ModelError("a slice has another shape than it should", where=where)
            whole[place] = part
        return whole


def parse_slice(text: str, where: str) -> Slice | None:
    """Return what a restore operation's shape_and_slice says; None for the whole tensor.

    The text is the whole shape, then ``start,length`` of every axis or ``-``: "4 10 0,2:-".
    """
    if not text:
        return None
    extents = []
    for axis in text.split()[-1].split(":"):
        start, comma, length = axis.partition(",")
        if axis != "-" and not (start.isdecimal() and comma and length.isdecimal()):
            raise ModelError(f"cannot read the slice {text!r} of a variable", where=where)
        extents.append((0, -1) if axis == "-" else (int(start), int(length)))
    return tuple(extents)


def _read(path: Path, limit: int) -> bytes:
    try:
        if path.stat().st_size > limit:
            raise ModelError(f"the file is larger than {limit >> 20} MB", where=str(path))
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"the file cannot be read: {error.strerror}", where=str(path), fix=COPY_AGAIN
        ) from error


def _mapped(path: Path) -> Array:
    try:
        if path.stat().st_size == 0:
            return np.zeros(0, np.uint8)
        return np.memmap(path, np.uint8, mode="r").view(np.ndarray)
    except OSError as error:
        raise ModelError(
            f"a file of the variables cannot be read: {error.strerror}",
            where=str(path),
            fix=COPY_AGAIN,
        ) from error


def _bad_checksum(where: str) -> ModelError:
    return ModelError(
        "the checksum of the variable's bytes does not match", where=where, fix=COPY_AGAIN
    )


def _strings(data: Array, shape: Sequence[int], stored: int, where: str) -> Array:
    """Return a string tensor: lengths as varints, a checksum of the lengths, the bytes."""
    raw, count = data.tobytes(), math.prod(shape)
    if count > len(raw):
        raise ModelError(f"{len(raw)} bytes cannot hold {count} strings", where=where)
    lengths, place = [], 0
    try:
        for _ in range(count):
            length, place = varint(raw, place)
            lengths.append(length)
    except (ValueError, IndexError) as error:
        raise ModelError("the lengths of strings are damaged", where=where) from error
    sizes = b"".join(n.to_bytes(4 if n < 1 << 32 else 8, "little") for n in lengths)
    if place + 4 + sum(lengths) != len(raw):
        raise ModelError("strings have another length than stored", where=where, fix=COPY_AGAIN)
    if crc32c(raw[place:], crc32c(sizes)) != unmasked(stored):
        raise _bad_checksum(where)
    place += 4  # the checksum of the lengths, which the one above covers
    strings = np.empty(count, object)
    for position, length in enumerate(lengths):
        strings[position] = raw[place : place + length]
        place += length
    return strings.reshape(shape)


def _extents(proto: Any) -> Slice:
    # an extent without a length is the whole axis, and its length field is then absent
    return tuple((int(e.start), int(e.length) or -1) for e in proto.extent)


def _places(extents: Slice, shape: Sequence[int], where: str) -> tuple[slice, ...]:
    if len(extents) != len(shape):
        raise ModelError("a slice has another rank than its tensor", where=where)
    places = []
    for (start, length), size in zip(extents, shape, strict=True):
        end = size if length < 0 else start + length
        if not 0 <= start <= end <= size:
            raise ModelError(f"a slice reaches to {end} of {size}", where=where)
        places.append(slice(start, end))
    return tuple(places)


def _slice_key(name: str, extents: Slice) -> bytes:
    """Return the key under which a slice is stored."""
    key = _number(0) + _escaped(name.encode()) + _number(len(extents))
    for start, length in extents:
        key += _signed(start if length >= 0 else 0) + _signed(length)
    return key


def _number(value: int) -> bytes:
    data = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes([len(data)]) + data


def _escaped(text: bytes) -> bytes:
    escapes = {0: b"\0\xff", 255: b"\xff\0"}
    return b"".join(escapes.get(byte, bytes([byte])) for byte in text) + b"\0\1"


def _signed(value: int) -> bytes:
    """Return a signed number in the order-preserving code: n bytes hold 7 n - 1 bits and a sign.

    The first byte begins with n ones (inverted for negative numbers).
    """
    magnitude = ~value if value < 0 else value
    size = 1
    while magnitude >> (7 * size - 1):
        size += 1
    header = ((1 << size) - 1) << (8 * size - size)  # n leading ones
    bits = (magnitude | header) & ((1 << (8 * size)) - 1)
    if value < 0:
        bits ^= (1 << (8 * size)) - 1
    return bits.to_bytes(size, "big")
