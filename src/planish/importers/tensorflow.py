"""Reads TensorFlow models (SavedModel folders, GraphDef files) into a `TfGraph`.

TensorFlow itself is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from planish.importers.tensorflow_graph import TfGraph


def read_saved_model(
    folder: str | Path, signature: str | None = None, tags: Sequence[str] | None = None
) -> TfGraph:
    """Return one signature of a SavedModel, frozen."""
    raise ModuleNotFoundError


def read_graph_def(
    model: str | Path | bytes,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> TfGraph:
    """Return a GraphDef (a path or serialized bytes), frozen."""
    raise ModuleNotFoundError
