"""Reads a model of any supported kind into a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from planish.config import Profile
from planish.errors import ConfigError, ModelError
from planish.importers.keras_file import KERAS_SUFFIXES, read_keras
from planish.importers.onnx import read_onnx
from planish.importers.savedmodel import read_tensorflow
from planish.importers.tensorflow import read_graph_def, read_saved_model
from planish.importers.tensorflow_graph import TfGraph
from planish.ir.graph import Graph

Model = str | Path | bytes | onnx.ModelProto | TfGraph

SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt", "saved_model.cpb")


def read_model(
    model: Model,
    profiles: Mapping[str, Profile] | None = None,
    signature: str | None = None,
    tags: Sequence[str] | None = None,
) -> Graph:
    """Return the graph of `model`, typed, at Planish's opset.

    Parameters
    ----------
    model : path, bytes, onnx.ModelProto or TfGraph
        An ONNX model (external data is looked for beside the path), the folder of a TensorFlow
        SavedModel, a frozen TensorFlow graph (``.pb``), a Keras file (``.keras``, ``.h5``), or a
        TensorFlow graph that was read already.
    profiles : dict of str to Profile, optional
        Ranges of symbolic extents, by input name. With None symbols keep no range, except that
        first axes get the default batch range: enough to look at a model, not to build it.
    signature, tags : str, sequence of str, optional
        Which part of a SavedModel; see `tensorflow.read_saved_model`.

    Raises
    ------
    ModelError
        When the model is missing, damaged or not valid; the message says where.
    UnsupportedOperatorError
        With every node that cannot be imported.
    ShapeError
        When operands of a node do not fit.
    ConfigError
        When profiles do not fit the model's inputs, or are missing; when the SavedModel has no
        such signature or tag set.
    """
    if isinstance(model, TfGraph):
        return read_tensorflow(model, profiles)
    if not isinstance(model, str | Path):
        return read_onnx(model, profiles)
    path = Path(model)
    if not path.exists():
        raise ModelError("the model file does not exist", where=str(path), fix="check the path")
    if path.name in SAVED_MODEL_FILES:
        path = path.parent
    if path.is_dir():
        return read_tensorflow(_folder(path, signature, tags), profiles)
    if signature is not None or tags is not None:
        raise ConfigError(
            "only SavedModel folders have signatures and tags",
            where=str(path),
            fix="leave signature and tags out",
        )
    if path.suffix in KERAS_SUFFIXES:
        return read_tensorflow(read_keras(path), profiles)
    if path.suffix == ".pb":
        return read_tensorflow(read_graph_def(path), profiles)
    return read_onnx(path, profiles)


def _folder(path: Path, signature: str | None, tags: Sequence[str] | None) -> TfGraph:
    if any((path / name).exists() for name in SAVED_MODEL_FILES):
        return read_saved_model(path, signature, tags)
    inside = sorted(entry.parent for entry in path.glob("*/saved_model.pb"))
    found = sorted(path.glob("*.onnx")) or inside
    hint = f"did you mean {found[0]}?" if found else "give an .onnx file or a SavedModel folder"
    raise ModelError("a folder is not a model", where=str(path), fix=hint)
