"""Operators that are planned as a whole: Loop and Scan, and whatever fusion left outside regions.

Each becomes a Region around the one node, so that everything after it sees views, concats, Ifs
and Regions only. A subgraph may read values of the graphs around it; a region's body may not, so
those values become inputs of the region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from planish.ir.graph import Graph, Node, Value
from planish.ops.content import contents
from planish.passes.views import VIEWS

NATIVE_CONTROL_FLOW = frozenset({"If"})


def wrap_opaque(graph: Graph) -> int:
    """Turn operators that the planner does not see through into Regions; return how many."""
    wrapped = 0
    for node in graph:
        if node.op in ("Region", "Concat") or _is_view(node):
            continue
        if node.op in NATIVE_CONTROL_FLOW:
            wrapped += sum(wrap_opaque(subgraph) for subgraph in node.subgraphs)
            continue
        _wrap(graph, node)
        wrapped += 1
    return wrapped


def is_settled(graph: Graph, has_place: Callable[[Value], bool]) -> bool:
    """Whether all inputs of `graph`, and all values that own memory in it, have their place."""
    owners = [
        output for node in graph if node.op in ("Region", "Concat", "If") for output in node.outputs
    ]
    return all(map(has_place, [*graph.inputs, *owners]))


def _is_view(node: Node) -> bool:
    """Whether `node` only renumbers elements, by amounts that are known."""
    if node.op == "Slice":
        return all(
            value is None or contents(value) is not None for value in node.inputs[1:]
        ) and all(step != 0 for step in contents(node.input(4)) or ())
    return node.op in VIEWS


def _wrap(graph: Graph, node: Node) -> None:
    body = Graph(node.op.lower())
    mapping: dict[Value, Value] = {}
    outer: list[Value] = []
    for value in dict.fromkeys([*node.present_inputs, *_captured(node)]):
        if value.is_constant:
            mapping[value] = value
            continue
        mapping[value] = body.add_input(value.name, value.dtype, value.shape)
        mapping[value].content = value.content
        outer.append(value)
    for subgraph in node.subgraphs:
        _rebind(subgraph, mapping)
    results = [body.new_value(out.dtype, out.shape, out.name) for out in node.outputs]
    inputs = [None if value is None else mapping[value] for value in node.inputs]
    body.append(Node(node.op, inputs, results, node.attributes, node.source))
    for result in results:
        body.add_output(result)
    replaced = [graph.new_value(out.dtype, out.shape, out.name) for out in node.outputs]
    for old, new in zip(node.outputs, replaced, strict=True):
        new.content = old.content
    region = Node("Region", outer, replaced, {"kind": node.op, "body": body}, node.source)
    graph.insert_before(node, region)
    for old, new in zip(node.outputs, replaced, strict=True):
        replace_everywhere(graph, old, new)
    graph.remove(node)


def replace_everywhere(graph: Graph, old: Value, new: Value) -> None:
    """Make every reader of `old`, outputs of subgraphs included, read `new`."""
    graph.replace_value(old, new)
    for node in graph:
        for subgraph in node.subgraphs:
            if node.op != "Region":
                _replace_outputs(subgraph, old, new)


def _replace_outputs(graph: Graph, old: Value, new: Value) -> None:
    graph.outputs = [new if value is old else value for value in graph.outputs]
    for node in graph:
        for subgraph in () if node.op == "Region" else node.subgraphs:
            _replace_outputs(subgraph, old, new)


def _captured(node: Node) -> Iterator[Value]:
    """Yield values of outer graphs that the subgraphs of `node` read."""
    for subgraph in node.subgraphs:
        yield from _free_values(subgraph, set())


def _free_values(graph: Graph, bound: set[Value]) -> Iterator[Value]:
    bound = {*bound, *graph.inputs}
    for node in graph:
        yield from (v for v in node.present_inputs if v not in bound and not v.is_constant)
        for subgraph in () if node.op == "Region" else node.subgraphs:
            yield from _free_values(subgraph, bound)
        bound.update(node.outputs)
    yield from (v for v in graph.outputs if v not in bound and not v.is_constant)


def _rebind(graph: Graph, mapping: dict[Value, Value]) -> None:
    """Make `graph` read the mapped values instead of the outer ones."""
    for node in graph:
        for index, value in enumerate(node.inputs):
            if value is not None and mapping.get(value, value) is not value:
                node.replace_input(index, mapping[value])
        for subgraph in () if node.op == "Region" else node.subgraphs:
            _rebind(subgraph, mapping)
    graph.outputs = [mapping.get(value, value) for value in graph.outputs]
