"""Copies and reformats: Regions whose body is one Identity between values of two layouts."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.ir.layout import Halo, Layout
from planish.ir.shape import Dim, Shape
from planish.ir.source import Source
from planish.passes.views import View, merge, no_halo


def insert_copy(graph: Graph, before: Node | None, source: Value, stem: str = "copy") -> Value:
    """Insert a Region that copies `source` and return its output, which has no layout yet.

    Parameters
    ----------
    graph : Graph
    before : Node or None
        The copy comes just before it; at the end of the graph for None.
    source : Value
        What is copied; a constant is read inside the region's body.
    """
    body = Graph("copy")
    if source.is_constant:
        operand = body.constant(source.array)
        inputs: list[Value] = []
    else:
        operand = body.add_input("x", source.dtype, source.known_shape)
        inputs = [source]
    result = body.new_value(source.dtype, source.known_shape)
    layers = source.producer.source if source.producer is not None else Source()
    body.append(Node("Identity", [operand], [result], {}, layers))
    body.add_output(result)
    output = graph.new_value(source.dtype, source.known_shape, stem)
    output.content = source.content
    node = Node("Region", inputs, [output], {"kind": "pointwise", "body": body}, layers)
    _insert(graph, before, node)
    return output


def insert_reshape(graph: Graph, before: Node | None, source: Value, shape: Shape) -> Value | None:
    """Insert a Reshape of `source` to `shape`; None when its shape operand cannot be a constant.

    The constant can express numbers, extents equal to the source's at the same position, and one
    other extent.
    """
    numbers: list[int] = []
    for axis, dim in enumerate(shape):
        if isinstance(dim, int):
            numbers.append(dim)
        elif axis < source.rank and source.known_shape[axis] == dim:
            numbers.append(0)
        else:
            numbers.append(-1)
    if numbers.count(-1) > 1 or any(dim == 0 for dim in shape):
        return None
    target = graph.constant(np.array(numbers, np.int64))
    output = graph.new_value(source.dtype, shape, "view")
    layers = source.producer.source if source.producer is not None else Source()
    _insert(graph, before, Node("Reshape", [source, target], [output], {"allowzero": 0}, layers))
    return output


def is_copy(node: Node) -> bool:
    """Whether `node` is a Region that only moves data."""
    return node.op == "Region" and all(inner.op == "Identity" for inner in node.body)


def pieces_layout(view: View, order: tuple[int, ...], halo: Halo) -> tuple[Shape, Layout]:
    """Return the shape with one axis a piece of `view`, and the layout that nests it in `order`.

    The halo goes to axes that are one piece; the others cannot have one.
    """
    extents: list[Dim] = []
    halos: list[tuple[int, int]] = []
    positions: list[range] = []  # of each logical axis's pieces
    for axis, pieces in enumerate(view.axes):
        merged = merge(pieces)
        count = max(len(merged), 1)
        positions.append(range(len(extents), len(extents) + count))
        extents.extend(extent for extent, _ in merged)
        if not merged:
            extents.append(1)
        halos.extend([halo[axis]] if count == 1 else no_halo(count))
    nested = tuple(position for axis in order for position in positions[axis])
    return tuple(extents), Layout(nested, tuple(halos))


def _insert(graph: Graph, before: Node | None, node: Node) -> None:
    if before is None:
        graph.append(node)
        return
    graph.insert_before(before, node)
