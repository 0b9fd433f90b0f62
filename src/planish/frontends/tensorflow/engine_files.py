"""Engines to the asset ``trt-serialized-engine.<name>`` of a SavedModel, and back.

TF-TRT's format: a TFRecord file, one record for each engine, each a ``TRTEngineInstance``::

    repeated TensorShapeProto input_shapes = 1;  # the shapes that the engine is tuned for
    bytes serialized_engine = 2;                 # here: a .plan file (engine/FORMAT.md)
    string resource = 1000;                      # here: the name of the resource they belong to

A record is ``length (8 bytes), CRC-32C of it, data, CRC-32C of the data``, checksums rotated. The
messages are read and written here and not by protobuf, which copies and stops at 2 GB.
"""

from __future__ import annotations

import mmap
import os
import secrets
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from planish.errors import EngineFileError
from planish.frontends.tensorflow.engine_cache import Shapes
from planish.importers.crc32c import crc32c, unmasked

_SHAPES, _ENGINE, _RESOURCE = 1, 2, 1000  # fields of TRTEngineInstance
_HEAD = struct.Struct("<QI")
_TAIL = struct.Struct("<I")
_MASK = 0xFFFFFFFF
_VARINT, _BYTES = 0, 2  # wire types
_SKIPPED = {1: 8, 5: 4}  # wire types of fixed size


@dataclass(frozen=True)
class EngineRecord:
    """One engine in a file.

    Attributes
    ----------
    data : bytes or memoryview
        A ``.plan`` file; read from a file, a view of its memory map.
    shapes : tuple of shapes
        Of all inputs: those that it is tuned for.
    resource : str
        "" in a file that TensorFlow wrote.
    """

    data: bytes | memoryview
    shapes: Shapes
    resource: str


def write_records(path: str | Path, records: Sequence[EngineRecord]) -> None:
    """Write a file; an empty one for no records. It is whole or not there.

    Raises
    ------
    EngineFileError
        When it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            for record in records:
                for piece in _framed(_message(record)):
                    file.write(piece)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EngineFileError(
            f"cannot write the engines: {error.strerror or error}",
            where=str(path),
            fix="give a folder that you may write to, with enough space",
        ) from error


def read_records(path: str | Path) -> list[EngineRecord]:
    """Return the records of a file.

    Raises
    ------
    EngineFileError
        When it is missing, cut off, or a checksum is wrong.
    """
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return []
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise EngineFileError(
            f"cannot read the engines: {error.strerror or error}", where=str(path)
        ) from error
    return [_record(message, str(path)) for message in _messages(data, str(path))]


# -- records -------------------------------------------------------------------------------------


def _framed(message: bytes) -> Iterator[bytes]:
    length = struct.pack("<Q", len(message))
    yield length + _TAIL.pack(_masked(crc32c(length)))
    yield message
    yield _TAIL.pack(_masked(crc32c(message)))


def _masked(checksum: int) -> int:
    rotated = (checksum >> 15 | checksum << 17) & _MASK
    return (rotated + 0xA282EAD8) & _MASK


def _messages(data: memoryview, where: str) -> Iterator[memoryview]:
    position = 0
    while position < len(data):
        if position + _HEAD.size > len(data):
            raise _damaged("it is cut off", where)
        length, checksum = _HEAD.unpack_from(data, position)
        if unmasked(checksum) != crc32c(bytes(data[position : position + 8])):
            raise _damaged("the length of a record does not match its checksum", where)
        start = position + _HEAD.size
        position = start + length + _TAIL.size
        if position > len(data):
            raise _damaged("it is cut off", where)
        message = data[start : start + length]
        (checksum,) = _TAIL.unpack_from(data, start + length)
        if unmasked(checksum) != crc32c(np.frombuffer(message, np.uint8)):
            raise _damaged("a record does not match its checksum", where)
        yield message


# -- messages ------------------------------------------------------------------------------------


def _message(record: EngineRecord) -> bytes:
    shapes = [b"".join(_field(2, _number(1, extent)) for extent in s) for s in record.shapes]
    pieces = [_field(_SHAPES, shape) for shape in shapes]
    pieces += [_field(_ENGINE, record.data), _field(_RESOURCE, record.resource.encode())]
    return b"".join(pieces)


def _field(number: int, data: bytes | memoryview) -> bytes:
    return b"".join((_varint(number << 3 | _BYTES), _varint(len(data)), data))


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _record(message: memoryview, where: str) -> EngineRecord:
    shapes, data, resource = [], memoryview(b""), ""
    for number, value in _fields(message, where):
        if number == _SHAPES and isinstance(value, memoryview):
            shapes.append(_shape(value, where))
        if number == _ENGINE and isinstance(value, memoryview):
            data = value
        if number == _RESOURCE and isinstance(value, memoryview):
            resource = bytes(value).decode(errors="replace")
    return EngineRecord(data, tuple(shapes), resource)


def _shape(message: memoryview, where: str) -> tuple[int, ...]:
    extents = []
    for number, value in _fields(message, where):
        if number != 2 or not isinstance(value, memoryview):
            continue
        sizes = [size for field, size in _fields(value, where) if field == 1]
        extents.append(sizes[-1] if sizes and isinstance(sizes[-1], int) else 0)
    return tuple(extents)


def _fields(message: memoryview, where: str) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of every field; a value is a number or bytes."""
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position, where)
        kind = tag & 7
        value, position = (
            _read_varint(message, position, where) if kind in (0, 2) else (0, position)
        )
        if kind == _VARINT:
            yield tag >> 3, value
            continue
        size = value if kind == _BYTES else _SKIPPED.get(kind, -1)
        if size < 0 or position + size > len(message):
            raise _damaged("a record is no TRTEngineInstance", where)
        if kind == _BYTES:
            yield tag >> 3, message[position : position + size]
        position += size


def _read_varint(message: memoryview, position: int, where: str) -> tuple[int, int]:
    value = 0
    for place in range(10):
        if position + place >= len(message):
            break
        byte = message[position + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, position + place + 1
    raise _damaged("a record is no TRTEngineInstance", where)


def _damaged(what: str, where: str) -> EngineFileError:
    return EngineFileError(
        f"the file of engines is damaged: {what}",
        where=where,
        fix="copy the SavedModel again, or convert the model again",
    )
