"""Reads TensorFlow models (SavedModel folders, GraphDef files) into a `TfGraph`.

TensorFlow itself is not needed: protocol buffers and numpy read the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# these two register their handlers
from planish.importers import tensorflow_functions, tensorflow_resources  # noqa: F401
from planish.importers.savedmodel_file import (
    NoStorage,
    SavedModelStorage,
    choose_signature,
    read_meta_graph,
    signature_inputs,
    signature_outputs,
)
from planish.importers.tensorflow_freeze import Freezer
from planish.importers.tensorflow_graph import TfGraph
from planish.importers.tensorflow_source import SourceLibrary, port_of
from planish.importers.tensorflow_types import shape_of


def read_saved_model(
    folder: str | Path, signature: str | None = None, tags: Sequence[str] | None = None
) -> TfGraph:
    """Return one signature of a SavedModel, frozen.

    Parameters
    ----------
    folder : path
        The folder that ``saved_model.pb`` lies in.
    signature : str, optional
        By default ``serving_default``, else the only one.
    tags : sequence of str, optional
        The whole tag set of the meta graph; by default the one for serving.

    Raises
    ------
    ModelError
        When a file is missing, damaged or hostile; the message names it.
    UnsupportedTypeError
        When inputs or outputs are ragged or sparse, or outputs depend on variables that the
        signature itself changes.
    ConfigError
        When there is no such signature or tag set; the message lists those there are.
    """
    path = Path(folder)
    meta_graph = read_meta_graph(path, tags)
    name, chosen = choose_signature(meta_graph, signature, str(path))
    label = f"{path} ({name})"
    op_defs = meta_graph.meta_info_def.stripped_op_list.op
    library = SourceLibrary(meta_graph.graph_def, op_defs, label)
    outputs = signature_outputs(chosen, label)
    results = [(key, port_of(info.name)) for key, info in outputs]
    body = library.main(signature_inputs(chosen, label), results)
    graph = Freezer(library, SavedModelStorage(path, meta_graph, library)).graph(body)
    return _with_sources(graph, outputs)


def _with_sources(graph: TfGraph, outputs: Sequence[tuple[str, Any]]) -> TfGraph:
    """Return the graph with what the signature says about its outputs."""
    described = tuple(
        replace(output, shape=shape_of(info.tensor_shape), source=info.name)
        for output, (_, info) in zip(graph.outputs, outputs, strict=True)
    )
    return replace(graph, outputs=described)


def read_graph_def(
    model: str | Path | bytes,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> TfGraph:
    """Return a GraphDef (a path or serialized bytes), frozen."""
    raise ModuleNotFoundError
