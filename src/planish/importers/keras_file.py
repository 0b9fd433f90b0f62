"""Reads Keras files through Keras itself: loads the model, saves it as a SavedModel, reads that."""

from __future__ import annotations

import importlib
import os
import tempfile
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from planish.errors import ModelError
from planish.importers.tensorflow import read_saved_model
from planish.importers.tensorflow_graph import TfGraph

KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")
INSTALL = "pip install 'planish[tensorflow]'"


def read_keras(path: Path) -> TfGraph:
    """Return the graph of a ``.keras`` or ``.h5`` file.

    The file's configuration and weights only make sense to Keras, so TensorFlow must be installed.
    Python code inside a file (Lambda layers) is not run: Keras refuses it in its safe mode.

    Raises
    ------
    ModelError
        When TensorFlow is not installed, or Keras cannot load the file; its reason is in the
        message.
    """
    tensorflow = _tensorflow(path)
    try:
        model = tensorflow.keras.models.load_model(str(path), compile=False)
    except (ValueError, TypeError, OSError, KeyError, AttributeError, BadZipFile) as error:
        raise ModelError(
            f"Keras cannot load the file: {_first_line(error)}",
            where=str(path),
            fix="load it in the program that made it and save it as a SavedModel: "
            "model.export(folder)",
        ) from error
    with tempfile.TemporaryDirectory(prefix="planish_keras_") as folder:
        _export(model, tensorflow, folder)
        return read_saved_model(folder)


def _export(model: Any, tensorflow: Any, folder: str) -> None:
    """Save `model` for inference; without Keras's own report of it."""
    if hasattr(model, "export"):
        model.export(folder, **({"verbose": False} if _is_keras_3(tensorflow) else {}))
        return
    tensorflow.saved_model.save(model, folder)


def _is_keras_3(tensorflow: Any) -> bool:
    return str(getattr(tensorflow.keras, "__version__", "2")).startswith("3")


def _tensorflow(path: Path) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is loaded
    try:
        return importlib.import_module("tensorflow")
    except ImportError as error:
        raise ModelError(
            "Keras files are read through TensorFlow, which is not installed",
            where=str(path),
            fix=f"{INSTALL}, or save the model as a SavedModel where TensorFlow is: "
            "model.export(folder)",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
