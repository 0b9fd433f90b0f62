"""Large weights stay in the file: they are cut out of the protobuf message and mapped.

Parsing a model copies its weights twice (the file's bytes, the message's fields). This scanner
walks the three levels ModelProto.graph.initializer of the wire format, keeps everything but the
`raw_data` of large initializers, and remembers where those lie.
Wire format: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_NAME, TENSOR_RAW = 7, 5, 8, 9  # field numbers of onnx.proto
SMALL = 1 << 16  # bytes; smaller weights stay in the message
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


@dataclass(frozen=True)
class Field:
    """One field of a message: number, wire type, and where tag, payload and end lie."""

    number: int
    kind: int
    tag: int
    start: int
    end: int


def split_weights(
    data: np.ndarray[tuple[int], np.dtype[np.uint8]],
) -> tuple[bytes, dict[str, slice]]:
    """Return the message without large weights, and where in `data` each of them lies, by name.

    Raises
    ------
    ValueError
        When the wire format is damaged, or names repeat: parse the message as a whole then.
    """
    view = data.data
    weights: dict[str, slice] = {}
    parts: list[bytes] = []
    for field in _fields(view, 0, len(view)):
        if (field.number, field.kind) == (MODEL_GRAPH, BYTES):
            graph = b"".join(_graph_parts(view, field, weights))
            parts += [_tag(MODEL_GRAPH), _varint(len(graph)), graph]
        else:
            parts.append(bytes(view[field.tag : field.end]))
    return b"".join(parts), weights


def _graph_parts(view: memoryview, graph: Field, weights: dict[str, slice]) -> Iterator[bytes]:
    names: set[bytes] = set()
    kept_from = graph.start
    for field in _fields(view, graph.start, graph.end):
        if (field.number, field.kind) != (GRAPH_INITIALIZER, BYTES):
            continue
        inner = list(_fields(view, field.start, field.end))
        name = next((f for f in reversed(inner) if f.number == TENSOR_NAME), None)
        label = bytes(view[name.start : name.end]) if name else b""
        if label in names:
            raise ValueError("an initializer occurs twice")
        names.add(label)
        raw = [f for f in inner if (f.number, f.kind) == (TENSOR_RAW, BYTES)]
        if len(raw) != 1 or raw[0].end - raw[0].start < SMALL:
            continue
        weights[label.decode("utf-8")] = slice(raw[0].start, raw[0].end)
        yield bytes(view[kept_from : field.tag])
        tensor = b"".join(bytes(view[f.tag : f.end]) for f in inner if f is not raw[0])
        yield _tag(GRAPH_INITIALIZER) + _varint(len(tensor)) + tensor
        kept_from = field.end
    yield bytes(view[kept_from : graph.end])


def _fields(view: memoryview, at: int, end: int) -> Iterator[Field]:
    while at < end:
        tag = at
        key, at = _read_varint(view, at, end)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            start = at
            _, at = _read_varint(view, at, end)
        elif kind == BYTES:
            length, start = _read_varint(view, at, end)
            at = start + length
        elif kind in (FIXED32, FIXED64):
            start, at = at, at + (4 if kind == FIXED32 else 8)
        else:
            raise ValueError(f"wire type {kind}")
        if at > end:
            raise ValueError("a field goes beyond its message")
        yield Field(number, kind, tag, start, at)


def _read_varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a number goes beyond its message")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag(number: int) -> bytes:
    return _varint(number << 3 | BYTES)
