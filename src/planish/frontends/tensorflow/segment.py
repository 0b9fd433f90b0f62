"""A segment: the part of a graph that becomes one engine, and what crosses its border."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from planish.frontends.tensorflow.graph_view import GraphView, Tensor, reference, tensor_of
from planish.frontends.tensorflow.library import internal, tensorflow

INPUT = "tensorrtinputph_"  # TF-TRT's names of a segment's arguments and results
OUTPUT = "tensorrtoutputph_"


@dataclass(frozen=True)
class Segment:
    """Nodes that one engine computes.

    Attributes
    ----------
    view : GraphView
        The graph they are cut from.
    names : tuple of str
        The nodes in topological order, without constants.
    constants : tuple of str
        ``Const`` nodes that they read; every segment has its own copies.
    inputs, outputs : tuple of Tensor
        What they read of the rest of the graph, and what the rest reads of them.
    controls : tuple of str
        Nodes outside that have to run before.
    """

    view: GraphView
    names: tuple[str, ...]
    constants: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    controls: tuple[str, ...]

    @property
    def arguments(self) -> list[str]:
        """Names of the placeholders that stand for `inputs`."""
        return [f"{INPUT}{index}" for index in range(len(self.inputs))]

    @property
    def results(self) -> list[str]:
        """Names of the results of the segment's function."""
        return [f"{OUTPUT}{index}" for index in range(len(self.outputs))]

    def graph_def(self) -> Any:
        """Return the segment as a graph of its own: placeholders, its nodes, its functions."""
        graph_def = tensorflow().compat.v1.GraphDef()
        graph_def.versions.CopyFrom(self.view.graph_def.versions)
        graph_def.library.CopyFrom(self.view.graph_def.library)
        placeholders = dict(zip(self.inputs, self.arguments, strict=True))
        for tensor, name in placeholders.items():
            symbolic = self.view.tensor(tensor)
            node = graph_def.node.add(name=name, op="Placeholder")
            node.attr["dtype"].type = symbolic.dtype.as_datatype_enum
            node.attr["shape"].shape.CopyFrom(symbolic.shape.as_proto())
        inside = {*self.names, *self.constants}
        for name in (*self.constants, *self.names):
            node = graph_def.node.add()
            node.CopyFrom(self.view.node_defs[name])
            kept = [_rewired(text, placeholders, inside) for text in node.input]
            del node.input[:]
            node.input.extend(text for text in kept if text)
        return graph_def

    def function_def(self, name: str) -> Any:
        """Return the segment as a function, its native form."""
        tf = tensorflow()
        graph = tf.Graph()
        with graph.as_default():
            tf.import_graph_def(self.graph_def(), name="")
        inputs = [graph.get_tensor_by_name(f"{argument}:0") for argument in self.arguments]
        outputs = [graph.get_tensor_by_name(f"{node}:{index}") for node, index in self.outputs]
        function_def = internal("python.framework.graph_to_function_def").graph_to_function_def(
            graph, graph.get_operations(), inputs, outputs, self.results
        )
        function_def.signature.name = name
        return function_def


def _rewired(text: str, placeholders: dict[Tensor, str], inside: set[str]) -> str:
    """Return an input of a node as it reads inside the segment; "" for one to leave out."""
    if text[0] == "^":
        return text if text[1:] in inside else ""
    tensor = tensor_of(text)
    return placeholders.get(tensor, reference(tensor))


def cut(view: GraphView, names: Sequence[str], outputs: Sequence[str]) -> Segment:
    """Return the segment of some nodes.

    Parameters
    ----------
    view : GraphView
    names : sequence of str
        Nodes in topological order.
    outputs : sequence of str
        Names of the graph's output tensors ("Identity:0").
    """
    inside = set(names)
    defs = view.node_defs
    constants: dict[str, None] = {}
    inputs: dict[Tensor, None] = {}
    controls: dict[str, None] = {}
    for name in names:
        for tensor in view.inputs(name):
            if defs[tensor[0]].op == "Const":
                constants[tensor[0]] = None
            elif tensor[0] not in inside:
                inputs[tensor] = None
        for text in defs[name].input:
            if text[0] == "^" and text[1:] not in inside and defs[text[1:]].op != "Const":
                controls[text[1:]] = None
    read = {tensor_of(text) for text in outputs}
    for name in defs:
        if name not in inside:
            read.update(view.inputs(name))
    made = [
        (name, index)
        for name in names
        for index in range(len(view.operation(name).outputs))
        if (name, index) in read
    ]
    return Segment(
        view, tuple(names), tuple(constants), tuple(inputs), tuple(made), tuple(controls)
    )
