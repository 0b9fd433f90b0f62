"""Operators that are planned as a whole: Loop and Scan, and whatever fusion left outside regions.

Each becomes a Region around the one node, so that everything after it sees views, concats, Ifs
and Regions only. A subgraph may read values of the graphs around it; a region's body may not, so
those values become inputs of the region.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import replace_everywhere
from planish.ir.shape import symbol
from planish.ir.source import merge_sources
from planish.ops.content import contents
from planish.passes.native_loops import is_native_loop
from planish.passes.views import VIEWS

OWNERS = frozenset({"Region", "Concat", "If", "Loop"})  # their outputs own memory


def wrap_opaque(graph: Graph) -> int:
    """Turn operators that the planner does not see through into Regions; return how many."""
    wrapped = 0
    for node in graph:
        if node.op in ("Region", "Concat") or _is_view(node):
            continue
        if node.op == "If" or is_native_loop(node):
            wrapped += sum(wrap_opaque(subgraph) for subgraph in node.subgraphs)
            continue
        wrap_nodes(graph, [node], node.op)
        wrapped += 1
    return wrapped


def is_settled(graph: Graph, has_place: Callable[[Value], bool]) -> bool:
    """Whether all inputs of `graph`, and all values that own memory in it, have their place."""
    owners = [output for node in graph if node.op in OWNERS for output in node.outputs]
    return all(map(has_place, [*graph.inputs, *owners]))


def _is_view(node: Node) -> bool:
    """Whether `node` only renumbers elements, by amounts that are known."""
    if node.op == "Slice":
        return all(
            value is None or contents(value) is not None for value in node.inputs[1:]
        ) and all(step != 0 for step in contents(node.input(4)) or ())
    return node.op in VIEWS


def wrap_nodes(graph: Graph, nodes: Sequence[Node], kind: str) -> Node:
    """Replace `nodes`, given in order, by one Region of `kind` behind the last of them.

    Nothing outside may lie between them: a node that depends on one must not feed another. Nodes
    in between that depend on them move behind the region.
    """
    inside = set(nodes)
    body = Graph(kind.lower())
    for value in (each for node in nodes for each in (*node.present_inputs, *node.outputs)):
        body.reserve_name(value.name)
    mapping: dict[Value, Value] = {}
    operands: list[Value] = []
    for node in nodes:
        for value in dict.fromkeys([*node.present_inputs, *_captured(node)]):
            if value in mapping or value.is_constant:
                continue
            mapping[value] = body.add_input(value.name, value.dtype, value.shape)
            mapping[value].content = value.content
            operands.append(value)
        for subgraph in node.subgraphs:
            _rebind(subgraph, mapping)
        results = [body.new_value(out.dtype, out.shape, out.name) for out in node.outputs]
        inputs = [None if value is None else mapping.get(value, value) for value in node.inputs]
        body.append(Node(node.op, inputs, results, node.attributes, node.source))
        mapping.update(zip(node.outputs, results, strict=True))
    outputs = [out for node in nodes for out in node.outputs if _is_read_outside(out, inside)]
    region = Node(
        "Region",
        operands,
        [_like(graph, value) for value in outputs],
        {"kind": kind, "body": body},
        merge_sources(node.source for node in nodes),
    )
    for value, outer in zip(outputs, region.outputs, strict=True):
        mapping[value].shape = outer.shape
        body.add_output(mapping[value])
    graph.insert_after(nodes[-1], region)
    _move_dependents(graph, nodes, region)
    for old, new in zip(outputs, region.outputs, strict=True):
        replace_everywhere(graph, old, new)
    for node in reversed(nodes):
        graph.remove(node)
    return region


def _like(graph: Graph, value: Value) -> Value:
    """Return a new value of the same type; an unknown rank becomes one axis of unknown extent."""
    result = graph.new_value(value.dtype, value.shape, value.name)
    if value.shape is None:
        result.shape = (symbol(f"?{re.sub(r'[^0-9A-Za-z_]', '_', value.name)}"),)
    result.content = value.content
    return result


def _is_read_outside(value: Value, inside: set[Node]) -> bool:
    graph = value.producer.graph if value.producer is not None else None
    if graph is not None and graph.is_output(value):
        return True
    return any(user not in inside and not _lies_in(user, inside) for user in value.users)


def _lies_in(node: Node, inside: set[Node]) -> bool:
    """Whether `node` is part of a subgraph of one of `inside`."""
    return any(
        any(each is node for each in nested) for outer in inside for nested in _nested(outer)
    )


def _nested(node: Node) -> Iterator[Graph]:
    for subgraph in node.subgraphs:
        yield subgraph
        for inner in subgraph:
            yield from _nested(inner)


def _move_dependents(graph: Graph, nodes: Sequence[Node], region: Node) -> None:
    """Move nodes between the first of `nodes` and the region that depend on them behind it."""
    inside, moving, started = set(nodes), [], False
    late: set[Value] = set()
    for node in graph:
        if node is region:
            break
        started |= node is nodes[0]
        if node in inside:
            late.update(node.outputs)
        elif started and late.intersection([*node.present_inputs, *_captured(node)]):
            late.update(node.outputs)
            moving.append(node)
    place = Node("Identity", [], [])  # a marker, so that the moved nodes keep their order
    graph.insert_after(region, place)
    for node in moving:
        graph.move_before(place, node)
    graph.remove(place)


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
