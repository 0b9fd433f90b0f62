"""A GraphDef with the types and shapes of its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from planish.frontends.tensorflow.library import tensorflow
from planish.frontends.tensorflow.segmenter import SegmentNode

Tensor = tuple[str, int]  # a node's name and the number of one of its outputs


@dataclass(frozen=True)
class GraphView:
    """The main graph of a GraphDef, in topological order.

    Attributes
    ----------
    graph_def : GraphDef
    graph : tf.Graph
        The same, imported: TensorFlow has inferred its shapes.
    """

    graph_def: Any
    graph: Any

    @classmethod
    def of(cls, graph_def: Any) -> GraphView:
        """Import a GraphDef."""
        tf = tensorflow()
        graph = tf.Graph()
        with graph.as_default():
            tf.import_graph_def(graph_def, name="")
        return cls(graph_def, graph)

    @cached_property
    def node_defs(self) -> dict[str, Any]:
        """NodeDef by name, in topological order."""
        by_name = {node.name: node for node in self.graph_def.node}
        return {name: by_name[name] for name in _sorted(by_name)}

    @cached_property
    def nodes(self) -> list[SegmentNode]:
        """What the segmenter works with."""
        return [
            SegmentNode(
                name,
                node.op,
                tuple(tensor_of(text)[0] for text in node.input if text[0] != "^"),
                tuple(text[1:] for text in node.input if text[0] == "^"),
            )
            for name, node in self.node_defs.items()
        ]

    def operation(self, name: str) -> Any:
        """Return the tf.Operation of a node."""
        return self.graph.get_operation_by_name(name)

    def tensor(self, tensor: Tensor) -> Any:
        """Return the symbolic tf.Tensor."""
        return self.operation(tensor[0]).outputs[tensor[1]]

    def inputs(self, name: str) -> list[Tensor]:
        """Return the tensors that a node reads."""
        return [tensor_of(text) for text in self.node_defs[name].input if text[0] != "^"]


def tensor_of(text: str) -> Tensor:
    """Return node and output of a reference ("conv", "split:1")."""
    name, _, index = text.partition(":")
    return name, int(index or 0)


def reference(tensor: Tensor) -> str:
    """Return a tensor as a node's input names it."""
    return f"{tensor[0]}:{tensor[1]}" if tensor[1] else tensor[0]


def _sorted(by_name: dict[str, Any]) -> list[str]:
    """Return names in topological order, otherwise as they come.

    A graph with TensorFlow 1's loops has cycles (through NextIteration); those edges do not count.
    """
    done: dict[str, None] = {}
    for start in by_name:
        stack = [start]
        entered: set[str] = set()
        while stack:
            name = stack[-1]
            if name in done:
                stack.pop()
            elif name in entered:
                stack.pop()
                done[name] = None
            else:
                entered.add(name)
                stack += [source for source in _sources(by_name[name]) if source not in done]
    return list(done)


def _sources(node: Any) -> list[str]:
    if node.op == "NextIteration":
        return []
    return [tensor_of(text.lstrip("^"))[0] for text in node.input]
