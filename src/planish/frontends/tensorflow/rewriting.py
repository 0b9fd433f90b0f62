"""Puts one engine operation in the place of every segment."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planish.frontends.tensorflow.engine_op import OP, EngineSignature, engine_nodes
from planish.frontends.tensorflow.engine_rules import EngineSettings
from planish.frontends.tensorflow.graph_view import GraphView, Tensor, reference, tensor_of
from planish.frontends.tensorflow.library import tensorflow
from planish.frontends.tensorflow.resources import resource_name
from planish.frontends.tensorflow.segment import Segment

_GRAPHS = itertools.count()  # numbers the conversions of this process, as TF-TRT does


@dataclass(frozen=True)
class PlacedEngine:
    """An engine operation of a converted graph.

    Attributes
    ----------
    settings : EngineSettings
    segment : Segment
    function : FunctionDef
        The segment as TensorFlow runs it.
    resource : str
        Under which its engines are kept.
    """

    settings: EngineSettings
    segment: Segment
    function: Any
    resource: str


def engine_names(count: int) -> list[str]:
    """Return names for the engines of one conversion: TRTEngineOp_<graph>_<engine>."""
    graph = next(_GRAPHS)
    return [f"{OP}_{graph:03d}_{index:03d}" for index in range(count)]


def place_engine(settings: EngineSettings, segment: Segment) -> PlacedEngine:
    """Return the engine operation of a segment."""
    function = segment.function_def(f"{settings.name}_native_segment")
    digested = function.SerializeToString(deterministic=True)
    resource = resource_name(settings.name, digested, settings.precision.encode())
    return PlacedEngine(settings, segment, function, resource)


def with_engines(
    view: GraphView, engines: Mapping[str, PlacedEngine], outputs: Sequence[str]
) -> Any:
    """Return the GraphDef with every segment replaced by its engine operation.

    Parameters
    ----------
    view : GraphView
    engines : dict of str to PlacedEngine
        By name.
    outputs : sequence of str
        Names of the graph's output tensors: constants among them stay.
    """
    owner = {name: engine for engine, placed in engines.items() for name in placed.segment.names}
    graph_def = tensorflow().compat.v1.GraphDef()
    graph_def.versions.CopyFrom(view.graph_def.versions)
    graph_def.library.CopyFrom(view.graph_def.library)
    moved: dict[Tensor, str] = {}
    added = []
    for placed in engines.values():
        graph_def.library.function.add().CopyFrom(placed.function)
        nodes, results = _nodes(placed)
        added += nodes
        moved.update(zip(placed.segment.outputs, results, strict=True))
    needed = _needed_constants(view, owner, outputs)
    for name, node in view.node_defs.items():
        if name not in owner and (node.op != "Const" or name in needed):
            graph_def.node.add().CopyFrom(node)
    graph_def.node.extend(added)
    for node in graph_def.node:
        rewired = _rewired(node.input, owner, moved)
        del node.input[:]
        node.input.extend(rewired)
    return graph_def


def _nodes(placed: PlacedEngine) -> tuple[list[Any], list[str]]:
    segment = placed.segment
    inputs = [segment.view.tensor(tensor) for tensor in segment.inputs]
    outputs = [segment.view.tensor(tensor) for tensor in segment.outputs]
    texts = [reference(tensor) for tensor in segment.inputs]
    signature = EngineSignature(
        (*texts, *(f"^{name}" for name in segment.controls)),
        tuple(tensor.dtype.as_datatype_enum for tensor in inputs),
        tuple(tensor.dtype.as_datatype_enum for tensor in outputs),
        tuple(shape_of(tensor) for tensor in outputs),
    )
    return engine_nodes(placed.settings, signature, placed.function.signature.name, placed.resource)


def shape_of(tensor: Any) -> tuple[int | None, ...] | None:
    """Return the shape of a symbolic tensor with None for open extents; None for no rank."""
    return None if tensor.shape.rank is None else tuple(tensor.shape.as_list())


def _needed_constants(view: GraphView, owner: dict[str, str], outputs: Sequence[str]) -> set[str]:
    """Return the constants that something outside the segments refers to."""
    waiting = [tensor_of(text)[0] for text in outputs]
    for name, node in view.node_defs.items():
        if name not in owner and node.op != "Const":
            waiting += [tensor_of(text.lstrip("^"))[0] for text in node.input]
    needed: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in needed and name not in owner:
            needed.add(name)
            if view.node_defs[name].op == "Const":  # it may wait for others (control inputs)
                waiting += [text.lstrip("^") for text in view.node_defs[name].input]
    return needed


def _rewired(inputs: Sequence[str], owner: dict[str, str], moved: dict[Tensor, str]) -> list[str]:
    """Return a node's inputs with engines in the place of segments; control inputs once each."""
    data = [text for text in inputs if text[0] != "^"]
    controls = [text[1:] for text in inputs if text[0] == "^"]
    renamed = [moved.get(tensor_of(text), text) for text in data]
    return renamed + [f"^{name}" for name in dict.fromkeys(owner.get(c, c) for c in controls)]
