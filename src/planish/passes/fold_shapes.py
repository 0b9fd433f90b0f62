"""Shape arithmetic disappears: values made of extents become constants or one planish.Extents.

Inference carries the symbolic contents of small integer tensors (Shape -> Gather -> Mul -> Concat).
Where a node that computes on data reads such a value, it is given

- a constant, when the contents are numbers, or when the operator can say them otherwise (Reshape
  copies extents with 0 and infers one with -1, Expand keeps an extent with 1, Slice to the end);
- else the output of a `planish.Extents` node, which holds all expressions at once and needs only
  the shapes of graph inputs.

What computed the value is dead then, however long it was. Views (Reshape, Expand, Slice) that the
storage pass turns into aliases do not read the operand at run time at all, so that the Extents
node feeding only those needs no step.
"""

from __future__ import annotations

import numpy as np

from planish.ir.dtypes import STRING
from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import Dim, static_shape
from planish.passes.building import integers
from planish.passes.extents import ExtentSources
from planish.passes.graph_pass import GraphPass

WHOLE = np.iinfo(np.int64).max  # "to the end" in a Slice
EXTENTS = "planish.Extents"


class FoldShapes(GraphPass):
    """Cuts computations on data loose from the computations of shapes that feed them."""

    name = "fold_shapes"

    def run(self, graph: Graph) -> bool:
        """Go forward once, subgraphs included; replace operands whose contents are known."""
        return self._run(graph, ExtentSources(graph))

    def _run(self, graph: Graph, sources: ExtentSources) -> bool:
        cached: dict[tuple[object, ...], Value] = {}
        modified = False
        for node in graph:
            if not _computes_content(node):
                modified |= self._replace_operands(node, graph, sources, cached)
            for subgraph in node.subgraphs if node.op != "Region" else ():
                # extents of the graphs around it are read there
                modified |= self._run(subgraph, ExtentSources(subgraph, sources))
            for output in node.outputs:
                sources.add(output)
        return modified

    def _replace_operands(
        self,
        node: Node,
        graph: Graph,
        sources: ExtentSources,
        cached: dict[tuple[object, ...], Value],
    ) -> bool:
        changed = False
        for index, value in enumerate(node.inputs):
            if value is None or value.is_constant or value.content is None:
                continue
            if value.shape is None:
                continue
            replacement = _number(graph, value) or self._spelled(node, index, value.content, graph)
            if replacement is None and not _is_extents(value):
                replacement = self._extents(node, value, sources, cached)
            if replacement is None or replacement is value:
                continue
            node.replace_input(index, replacement)
            self.count("shape arithmetic")
            changed = True
        return changed

    def _extents(
        self,
        node: Node,
        value: Value,
        sources: ExtentSources,
        cached: dict[tuple[object, ...], Value],
    ) -> Value | None:
        """Return a value with the contents of `value`, made once for equal contents."""
        if value.content is None or value.producer is None or value.shape is None:
            return None
        if len(value.shape) > 1 or not value.dtype.is_integer:
            return None
        key = (value.content, value.dtype.name, len(value.shape))
        if key not in cached:
            made = sources.emit(node, value.content, value.shape == (), value.dtype)
            if made is None:
                return None
            cached[key] = made
        return cached[key]

    def _spelled(
        self, node: Node, index: int, content: tuple[Dim, ...], graph: Graph
    ) -> Value | None:
        """Return a constant that means the same to this operator, where it has a way to say it."""
        x = node.inputs[0]
        if x is None or x.shape is None or index == 0:
            return None
        if node.op == "Expand" and index == 1:
            missing = len(content) - x.rank
            if missing < 0:
                return None
            own = (*(1,) * missing, *x.shape)
            dims = [1 if have == dim else dim for have, dim in zip(own, content, strict=True)]
            return _constant(graph, dims)
        if node.op == "Slice" and index == 2:
            return _constant(graph, _slice_ends(node, x, content))
        return None


def _number(graph: Graph, value: Value) -> Value | None:
    """Return a constant with the contents of `value` if they are numbers."""
    shape = None if value.shape is None else static_shape(value.shape)
    if shape is None or value.content is None or value.producer is None:
        return None
    if not all(isinstance(dim, int) for dim in value.content) or value.dtype is STRING:
        return None
    array = np.array(value.content, np.float64 if value.dtype.is_float else np.int64)
    result = graph.constant(array.astype(value.dtype.numpy).reshape(shape))
    result.content = value.content
    return result


def _slice_ends(node: Node, x: Value, content: tuple[Dim, ...]) -> list[Dim]:
    axes = node.input(3)
    listed = tuple(range(len(content))) if axes is None else axes.content
    if axes is not None and axes.is_constant:
        listed = tuple(int(axis) for axis in axes.array.reshape(-1))
    if listed is None or not all(isinstance(axis, int) for axis in listed):
        return list(content)
    ends: list[Dim] = []
    for axis, end in zip(listed, content, strict=True):
        whole = isinstance(axis, int) and x.known_shape[axis] == end and not isinstance(end, int)
        ends.append(WHOLE if whole else end)
    return ends


def _constant(graph: Graph, dims: list[Dim]) -> Value | None:
    numbers = [dim for dim in dims if isinstance(dim, int)]
    return integers(graph, *numbers) if len(numbers) == len(dims) else None


def _is_extents(value: Value) -> bool:
    return value.producer is not None and value.producer.op == EXTENTS


def _computes_content(node: Node) -> bool:
    """Whether `node` is itself shape arithmetic (it dies when its readers are cut loose)."""
    return bool(node.outputs) and all(output.content is not None for output in node.outputs)
