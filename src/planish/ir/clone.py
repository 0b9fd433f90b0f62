"""Copies of graphs, to try something on one without changing the other."""

from __future__ import annotations

from collections.abc import Mapping

from planish.ir.graph import Graph, Node, Value


def clone_graph(graph: Graph, outer: Mapping[Value, Value] | None = None) -> Graph:
    """Return a copy of `graph` with its own nodes and values; constants share their memory.

    Parameters
    ----------
    graph : Graph
        Not yet laid out: values carry no layout or storage.
    outer : dict, optional
        Values of the graphs around it, and what takes their place in the copy.
    """
    values: dict[Value, Value] = dict(outer or {})
    copy = Graph(graph.name)
    copy.ranges = dict(graph.ranges)
    copy.requirements = list(graph.requirements)
    copy.notes = list(graph.notes)
    copy._fresh = graph._fresh
    for value, name in zip(graph.inputs, graph.input_names, strict=True):
        copy.inputs.append(_copied(value, values))
        copy.input_names.append(name)
    for node in graph:
        inputs = [None if value is None else _copied(value, values) for value in node.inputs]
        attributes = {
            key: clone_graph(value, values) if isinstance(value, Graph) else value
            for key, value in node.attributes.items()
        }
        outputs = [_copied(value, values) for value in node.outputs]
        copy.append(Node(node.op, inputs, outputs, attributes, node.source))
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        copy.add_output(_copied(value, values), name)
    return copy


def _copied(value: Value, values: dict[Value, Value]) -> Value:
    """Return the copy of `value`, made at its first use."""
    known = values.get(value)
    if known is not None:
        return known
    copy = Value(value.name, value.dtype, value.shape)
    copy.constant, copy.content, copy.origin = value.constant, value.content, value.origin
    values[value] = copy
    return copy
