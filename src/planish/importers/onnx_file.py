"""Reads the bytes of an ONNX model into a ModelProto and checks what holds for the whole model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from planish.errors import ModelError
from planish.importers.onnx_tensor import TensorReader
from planish.ir.graph import OPSET

OLDEST_OPSET = 7
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
    return _checked(_parse(_read(path), str(path)), str(path), reader)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"the model cannot be read: {error.strerror}", where=str(path)) from error


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
    if not proto.graph.output:
        raise ModelError("the graph has no outputs", where=label, fix=EXPORT_AGAIN)
    return OnnxModel(proto, label, reader, opset_versions(proto.opset_import, label))


def opset_versions(imports: object, label: str) -> dict[str, int]:
    """Return domain to version of an opset_import list; raise ModelError for versions unknown."""
    opsets: dict[str, int] = {}
    for entry in imports:  # type: ignore[attr-defined]
        opsets["" if entry.domain == "ai.onnx" else entry.domain] = entry.version
    version = opsets.setdefault("", OLDEST_OPSET if opsets else 0)
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
