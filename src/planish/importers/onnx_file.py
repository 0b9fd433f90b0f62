"""Reads the bytes of an ONNX model into a ModelProto and checks what holds for the whole model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from planish.errors import ModelError
from planish.importers.onnx_tensor import TensorReader
from planish.importers.onnx_weights import split_weights
from planish.ir.graph import OPSET

OLDEST_OPSET = 7
LARGE_FILE = 1 << 20  # bytes; of larger files the weights are mapped, not read
EXPORT_AGAIN = "the file is damaged or not an ONNX model: export or download it again"


@dataclass(frozen=True)
class OnnxModel:
    """A parsed model.

    Attributes
    ----------
    proto : onnx.ModelProto
    label : str
        The path, or a word for models that came as bytes; used in messages.
    tensors : TensorReader
        Reads the model's tensors.
    opsets : dict of str to int
        Domain ("" for ONNX itself) to the opset version that the model imports.
    """

    proto: onnx.ModelProto
    label: str
    tensors: TensorReader
    opsets: dict[str, int]


def open_model(model: str | Path | bytes | onnx.ModelProto) -> OnnxModel:
    """Return the parsed model; raise ModelError where it is missing, damaged or out of range."""
    if isinstance(model, onnx.ModelProto):
        return _checked(model, "ModelProto", TensorReader(None))
    if isinstance(model, bytes | bytearray | memoryview):
        return _checked(_parse(bytes(model), "bytes"), "bytes", TensorReader(None))
    path = Path(model)
    reader = TensorReader(path.parent).follow(path)
    return _checked(_parse_file(path, reader), str(path), reader)


def _parse_file(path: Path, reader: TensorReader) -> onnx.ModelProto:
    try:
        if path.stat().st_size < LARGE_FILE:
            return _parse(path.read_bytes(), str(path))
        data = np.memmap(path, np.uint8, mode="r").view(np.ndarray)
    except OSError as error:
        raise ModelError(f"the model cannot be read: {error.strerror}", where=str(path)) from error
    try:
        message, weights = split_weights(data)
    except ValueError:  # protobuf's own parser has the last word on what is wrong
        return _parse(data.tobytes(), str(path))
    reader.weights = {name: data[place] for name, place in weights.items()}
    return _parse(message, str(path))


def _parse(data: bytes, label: str) -> onnx.ModelProto:
    if not data:
        raise ModelError("the model is empty", where=label, fix=EXPORT_AGAIN)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(
            f"the model cannot be parsed: {error}", where=label, fix=EXPORT_AGAIN
        ) from error
    return proto


def _checked(proto: onnx.ModelProto, label: str, reader: TensorReader) -> OnnxModel:
    if not proto.HasField("graph"):
        raise ModelError("the model holds no graph", where=label, fix=EXPORT_AGAIN)
    for text in _texts(proto):
        if not isinstance(text, str):  # what protobuf gives for bytes that are not UTF-8
            raise ModelError(f"a name is not text: {text!r}", where=label, fix=EXPORT_AGAIN)
    if not proto.graph.output:
        raise ModelError("the graph has no outputs", where=label, fix=EXPORT_AGAIN)
    return OnnxModel(proto, label, reader, opset_versions(proto.opset_import, label))


def _texts(proto: onnx.ModelProto) -> Iterator[object]:
    """Yield every name that the importer uses."""
    yield from (entry.domain for entry in proto.opset_import)
    yield from _graph_texts(proto.graph)
    for function in proto.functions:
        yield from (function.name, function.domain, function.overload)
        yield from (*function.input, *function.output, *function.attribute)
        yield from (entry.domain for entry in function.opset_import)
        yield from _attribute_texts(function.attribute_proto)
        yield from _node_texts(function.node)


def _graph_texts(graph: onnx.GraphProto) -> Iterator[object]:
    yield graph.name
    for info in (*graph.input, *graph.output):
        yield info.name
        yield from (dim.dim_param for dim in info.type.tensor_type.shape.dim)
    for tensor in graph.initializer:
        yield from _tensor_texts(tensor)
    for sparse in graph.sparse_initializer:
        yield from _tensor_texts(sparse.values)
    yield from _node_texts(graph.node)


def _node_texts(nodes: Iterable[onnx.NodeProto]) -> Iterator[object]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, node.overload)
        yield from node.input
        yield from node.output
        yield from _attribute_texts(node.attribute)


def _attribute_texts(attributes: Iterable[onnx.AttributeProto]) -> Iterator[object]:
    for attribute in attributes:
        yield from (attribute.name, attribute.ref_attr_name)
        yield from _tensor_texts(attribute.t)
        if attribute.HasField("g"):
            yield from _graph_texts(attribute.g)


def _tensor_texts(tensor: onnx.TensorProto) -> Iterator[object]:
    yield tensor.name
    for entry in tensor.external_data:
        yield from (entry.key, entry.value)


def opset_versions(
    imports: Iterable[onnx.OperatorSetIdProto], label: str, outer: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return domain to version of an opset_import list, over what `outer` says.

    Raises
    ------
    ModelError
        When the version of ONNX's own operators is too old or not known yet.
    """
    opsets = dict(outer or {})
    for entry in imports:
        opsets["" if entry.domain == "ai.onnx" else entry.domain] = entry.version
    # a model without nodes of ONNX's own domain need not import it; one without imports is ancient
    version = opsets.setdefault("", OPSET if opsets else 1)
    if version < OLDEST_OPSET:
        raise ModelError(
            f"the model uses opset {version}; opsets {OLDEST_OPSET} to {OPSET} can be read",
            where=label,
            fix="export the model again with a newer opset (17 or later is best)",
        )
    if version > OPSET:
        raise ModelError(
            f"the model uses opset {version}; opsets {OLDEST_OPSET} to {OPSET} can be read",
            where=label,
            fix=f"export the model with opset {OPSET}, or install a newer Planish",
        )
    return opsets
