"""Reads a model of any supported kind into a graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from planish.config import Profile
from planish.errors import ModelError
from planish.importers.onnx import read_onnx
from planish.ir.graph import Graph


def read_model(
    model: str | Path | bytes | onnx.ModelProto,
    *,
    profiles: Mapping[str, Profile] | None = None,
) -> Graph:
    """Return the graph of `model`, typed, at Planish's opset.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        An ONNX model. External data is looked for beside the path.
    profiles : dict of str to Profile, optional
        Ranges of symbolic extents, by input name. With None symbols keep no range, except that
        first axes get the default batch range: enough to look at a model, not to build it.

    Raises
    ------
    ModelError
        When the model is missing, damaged or not valid; the message says where.
    UnsupportedOperatorError
        With every node that cannot be imported.
    ShapeError
        When operands of a node do not fit.
    ConfigError
        When profiles do not fit the model's inputs, or are missing.
    """
    if not isinstance(model, str | Path):
        return read_onnx(model, profiles)
    path = Path(model)
    if not path.exists():
        raise ModelError("the model file does not exist", where=str(path), fix="check the path")
    if path.is_dir():
        _refuse_folder(path)
    return read_onnx(path, profiles)


def _refuse_folder(path: Path) -> None:
    if (path / "saved_model.pb").is_file():
        raise ModelError(
            "TensorFlow SavedModel folders cannot be read yet",
            where=str(path),
            fix="convert it: python -m tf2onnx.convert --saved-model FOLDER --output model.onnx",
        )
    found = sorted(entry.name for entry in path.glob("*.onnx"))
    hint = f"did you mean {path / found[0]}?" if found else "give the path of an .onnx file"
    raise ModelError("a folder is not a model", where=str(path), fix=hint)
