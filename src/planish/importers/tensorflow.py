"""Reads TensorFlow models (SavedModel folders, GraphDef files) into a `TfGraph`.

TensorFlow itself is not needed: protocol buffers and numpy read the files.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from planish.errors import ConfigError, ModelError

# these two register their handlers
from planish.importers import tensorflow_functions, tensorflow_resources  # noqa: F401
from planish.importers.savedmodel_file import (
    MAX_BYTES,
    NoStorage,
    SavedModelStorage,
    choose_signature,
    read_meta_graph,
    signature_inputs,
    signature_outputs,
)
from planish.importers.tensorflow_freeze import Freezer
from planish.importers.tensorflow_graph import TfGraph, TfInput
from planish.importers.tensorflow_messages import parse
from planish.importers.tensorflow_raise import raise_control_flow
from planish.importers.tensorflow_source import Port, SourceLibrary, port_of
from planish.importers.tensorflow_types import element_type, shape_of

# nodes without a result that a graph is run for
NOT_OUTPUTS = (
    "NoOp",
    "Const",
    "Placeholder",
    "PlaceholderWithDefault",
    "Assert",
    "Print",
    "SaveV2",
)


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
    body = raise_control_flow(library.main(signature_inputs(chosen, label), results), library)
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
    """Return a frozen GraphDef.

    Parameters
    ----------
    model : path or bytes
        A ``.pb`` file or a serialized GraphDef.
    inputs, outputs : sequence of str, optional
        Tensor names ("x:0", "x"). By default inputs are the placeholders, outputs what no other
        node takes; the names of inputs and outputs are the nodes' names, with ":1" and so on
        behind for other than first results.

    Raises
    ------
    ModelError
        When the file is missing or damaged, there are no outputs, or variables are left in it.
    """
    label = "GraphDef" if isinstance(model, bytes) else str(model)
    proto = parse("GraphDef", model if isinstance(model, bytes) else _bytes_of(Path(model)), label)
    if not proto.node:
        raise ModelError(
            "the graph has no nodes: this is no frozen TensorFlow graph, or it is empty",
            where=label,
        )
    library = SourceLibrary(proto, (), label)
    ports = [port_of(name) for name in _output_names(proto, outputs)]
    results = [(_port_name(port), port) for port in ports]
    names = _used_placeholders(library, results) if inputs is None else inputs
    arguments = [_argument(library, name) for name in names]
    body = raise_control_flow(library.main(arguments, results), library)
    return Freezer(library, NoStorage(library)).graph(body)


def _bytes_of(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelError("the file is larger than 2 GB", where=str(path))
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"the model cannot be read: {error.strerror}", where=str(path)) from error


def _port_name(port: Port) -> str:
    return f"{port[0]}:{port[1]}" if port[1] else port[0]


def _argument(library: SourceLibrary, name: str) -> TfInput:
    """Return an input of a GraphDef; its type is what the node says."""
    port = port_of(name)
    if port[0] not in library.protos:
        near = difflib.get_close_matches(port[0], library.protos, n=1)
        raise ConfigError(
            f"the graph has no node {port[0]!r} to feed",
            where=library.label,
            fix=f"did you mean {near[0]!r}?" if near else "give names of placeholders",
        )
    attributes = library.protos[port[0]].attr
    number = next((attributes[key].type for key in ("dtype", "T") if key in attributes), 1)
    shape = shape_of(attributes["shape"].shape) if "shape" in attributes else None
    if shape is None and attributes["_output_shapes"].list.shape:
        shape = shape_of(attributes["_output_shapes"].list.shape[0])
    return TfInput(_port_name(port), element_type(number), shape, f"{port[0]}:{port[1]}")


def _used_placeholders(library: SourceLibrary, results: Sequence[tuple[str, Port]]) -> list[str]:
    used = library.main((), results).nodes
    return [
        name for name, proto in library.protos.items() if proto.op == "Placeholder" and name in used
    ]


def _output_names(proto: Any, given: Sequence[str] | None) -> list[str]:
    if given is not None:
        return list(given)
    used = {port_of(text.removeprefix("^"))[0] for node in proto.node for text in node.input}
    sinks = [
        node.name for node in proto.node if node.name not in used and node.op not in NOT_OUTPUTS
    ]
    if not sinks:
        raise ModelError("the graph has no outputs", where="GraphDef")
    return sinks
