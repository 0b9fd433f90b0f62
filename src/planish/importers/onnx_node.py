"""A node on its way in: read from the file, not yet at Planish's opset. Upgrade rules edit it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planish.errors import ModelError
from planish.ir.declarations import REQUIRED
from planish.ir.dtypes import F32, DType
from planish.ir.graph import Graph, Node, Value
from planish.ir.source import Source
from planish.ops.infer import infer_node
from planish.ops.op import OPS


@dataclass
class OnnxNode:
    """One node with resolved inputs.

    Attributes
    ----------
    op : str
        Operator name as in graphs (contrib operators with their domain).
    inputs : list of (Value or None)
        None where an optional input is absent.
    attributes : dict
        What the file gives, converted (lists to tuples, tensors to arrays).
    outputs : int
        How many outputs the node has, absent ones in the middle included.
    read : tuple of bool
        Which outputs anything reads.
    opset : int
        Version of the operator's domain.
    source : Source
        The user's node.
    """

    op: str
    inputs: list[Value | None]
    attributes: dict[str, Any]
    outputs: int
    read: tuple[bool, ...]
    opset: int
    source: Source

    def input(self, index: int) -> Value | None:
        """Return input `index`, None where it is absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def required_input(self, index: int) -> Value:
        """Return input `index`; raise ModelError where it is absent."""
        value = self.input(index)
        if value is None:
            raise ModelError(f"{self.op} lacks input {index}", where=f"node {self.source}")
        return value

    def set_input(self, index: int, value: Value | None) -> None:
        """Set input `index`, padding with absent ones before it."""
        self.inputs += [None] * (index + 1 - len(self.inputs))
        self.inputs[index] = value

    def take(self, name: str, default: Any = None) -> Any:
        """Remove attribute `name` and return it."""
        return self.attributes.pop(name, default)


class Emitter:
    """Appends finished nodes to one graph and infers their types."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def constant(self, array: Any, dtype: DType | None = None) -> Value:
        """Return a constant; integers are int64 unless `dtype` says otherwise."""
        numpy_type = dtype.numpy if dtype else None
        return self.graph.constant(np.asarray(array, numpy_type))

    def emit(
        self, like: OnnxNode, op: str, inputs: Sequence[Value | None], **attributes: Any
    ) -> Value:
        """Append a helper node with one output for the user's node `like`; return the output."""
        return self.finish(
            replace(
                like, op=op, inputs=list(inputs), attributes=attributes, outputs=1, read=(True,)
            )
        )[0]

    def finish(self, node: OnnxNode) -> list[Value]:
        """Append `node`, which is at Planish's opset, and return its outputs."""
        while node.inputs and node.inputs[-1] is None:
            node.inputs.pop()
        attributes = complete_attributes(node)
        # placeholders: infer_node sets the types
        outputs = [Value(self.graph.fresh_name(node.op), F32, None) for _ in range(node.outputs)]
        made = Node(node.op, node.inputs, outputs, attributes, node.source)
        self.graph.append(made)
        infer_node(made)
        return outputs


Rule = Callable[[OnnxNode, Emitter], "OnnxNode | list[Value]"]


def complete_attributes(node: OnnxNode) -> dict[str, Any]:
    """Return every attribute that the operator declares, defaults filled in."""
    declared = OPS[node.op].attributes
    unknown = [name for name in node.attributes if name not in declared]
    if unknown:
        raise ModelError(
            f"{node.op} has unknown attribute(s) {', '.join(unknown)}; "
            f"known: {', '.join(declared) or 'none'}",
            where=f"node {node.source} (opset {node.opset})",
            fix="export the model again with a released opset",
        )
    missing = [
        name
        for name, default in declared.items()
        if default is REQUIRED and name not in node.attributes
    ]
    if missing:
        raise ModelError(
            f"{node.op} lacks the attribute(s) {', '.join(missing)}", where=f"node {node.source}"
        )
    return {name: node.attributes.get(name, default) for name, default in declared.items()}
