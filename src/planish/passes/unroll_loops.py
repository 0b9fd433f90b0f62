"""Writes a Loop or Scan with a small, known number of iterations out, one after the other.

Slices of scanned inputs and stacks of results become views and a Concat, which cost nothing, and
every operator of the body gets a kernel and may fuse across iterations. A native loop runs as fast
and is compiled in a fraction of the time (measured: a masked LSTM of 12 steps 8.2 us either way, 63
kernels against 18), so only tiny ones are written out, and those that cannot become native or
that depend on constants alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import discard
from planish.ir.source import merge_sources
from planish.ops.content import contents
from planish.ops.infer import infer_node
from planish.passes.building import emit, integers
from planish.passes.graph_pass import GraphPass, count_layers
from planish.passes.native_loops import is_plannable

MOST_ITERATIONS = 64
MOST_NODES = 4096  # that one loop may become which cannot be native
FEW_NODES = 48  # that any loop may become


class UnrollLoops(GraphPass):
    """Replaces a Loop or Scan by its iterations where they are few and their number is known."""

    name = "unroll_loops"

    def run(self, graph: Graph) -> bool:
        """Unroll what can be; loops inside a body follow in the same sweep."""
        modified = False
        for node in list(graph):
            count = _iterations(node)
            if count is None or not _is_small(node, count):
                continue
            results = _scan(node, graph, count) if node.op == "Scan" else _loop(node, graph, count)
            _finish(node, graph, results)
            self.count(f"unrolled {node.op}")
            modified = True
        return modified


def _iterations(node: Node) -> int | None:
    """Return how often the body of a Loop or Scan runs, None when that is not known."""
    if node.op == "Scan":
        return _scanned_extent(node)
    if node.op != "Loop":
        return None
    body = node.body
    limit, start = node.input(0), node.input(1)
    number = None if limit is None else contents(limit)
    if number is None or not isinstance(number[0], int):
        return None
    if start is not None and not _is_true(start):
        return 0 if _is_false(start) else None
    going = body.outputs[0]
    while going.producer is not None and going.producer.op == "Identity":
        going = going.producer.present_inputs[0]
    same = going is body.inputs[1] or going is start
    return max(number[0], 0) if same or _is_true(going) else None


def _scanned_extent(node: Node) -> int | None:
    scanned = int(node.attributes["num_scan_inputs"])
    states = len(node.inputs) - scanned
    axes = node.attributes["scan_input_axes"] or (0,) * scanned
    for value, axis in zip(node.inputs[states:], axes, strict=True):
        if value is not None and value.shape is not None:
            extent = value.shape[axis]
            if isinstance(extent, int):
                return extent
    return None


def _is_small(node: Node, count: int) -> bool:
    if any(value is None or value.shape is None for value in node.inputs[2:]):
        return False
    if count == 0 and len(node.outputs) > len(node.inputs) - 2:
        return False  # stacks without elements: nothing to concatenate
    if count == 0 and node.op == "Scan":
        return False
    nodes = count * count_layers(node.body)
    if nodes <= FEW_NODES and count <= MOST_ITERATIONS:
        return True
    if count > MOST_ITERATIONS or nodes > MOST_NODES:
        return False
    return not is_plannable(node) or not _reads_data(node)


def _reads_data(node: Node) -> bool:
    """Whether anything that is no constant goes into the loop."""
    inside = set(node.body.inputs)
    pending = [node.body]
    found = list(node.present_inputs)
    while pending:
        graph = pending.pop()
        inside.update(graph.inputs)
        for inner in graph:
            inside.update(inner.outputs)
            found += inner.present_inputs
            pending += inner.subgraphs
    return any(not value.is_constant and value not in inside for value in found)


def _is_true(value: Value) -> bool:
    return _constant_bool(value) is True


def _is_false(value: Value) -> bool:
    return _constant_bool(value) is False


def _constant_bool(value: Value) -> bool | None:
    if value.constant is not None:
        return bool(value.array.reshape(-1)[0])
    known = contents(value)
    return bool(known[0]) if known and isinstance(known[0], int) else None


def _loop(node: Node, graph: Graph, count: int) -> list[Value]:
    """Emit `count` iterations of a Loop before it; return what its outputs become."""
    initial = node.inputs[2:]
    carried = [value for value in initial if value is not None]
    states = len(carried)
    going = graph.constant(np.array(True), graph.fresh_name("going"))
    stacks: list[list[Value]] = [[] for _ in node.body.outputs[1 + states :]]
    for index in range(count):
        number = graph.constant(np.array(index, np.int64), graph.fresh_name("iteration"))
        number.content = (index,)
        results = _iteration(node, graph, [number, going, *carried])
        carried = results[1 : 1 + states]
        for stack, value in zip(stacks, results[1 + states :], strict=True):
            stack.append(value)
    return [*carried, *(_stack(node, graph, stack, 0) for stack in stacks)]


def _scan(node: Node, graph: Graph, count: int) -> list[Value]:
    """Emit `count` iterations of a Scan before it; return what its outputs become."""
    attributes = node.attributes
    scanned = int(attributes["num_scan_inputs"])
    states = len(node.inputs) - scanned
    values = node.present_inputs
    carried, sources = values[:states], values[states:]
    axes = attributes["scan_input_axes"] or (0,) * scanned
    turned = attributes["scan_input_directions"] or (0,) * scanned
    stacks: list[list[Value]] = [[] for _ in node.outputs[states:]]
    for index in range(count):
        places = [count - 1 - index if backward else index for backward in turned]
        slices = [
            _slice(node, graph, source, axis, place)
            for source, axis, place in zip(sources, axes, places, strict=True)
        ]
        results = _iteration(node, graph, [*carried, *slices])
        carried = results[:states]
        for stack, value in zip(stacks, results[states:], strict=True):
            stack.append(value)
    output_axes = attributes["scan_output_axes"] or (0,) * len(stacks)
    output_turned = attributes["scan_output_directions"] or (0,) * len(stacks)
    return [
        *carried,
        *(
            _stack(node, graph, stack[::-1] if backward else stack, axis)
            for stack, axis, backward in zip(stacks, output_axes, output_turned, strict=True)
        ),
    ]


def _slice(node: Node, graph: Graph, source: Value, axis: int, place: int) -> Value:
    """Return element `place` of `source` along `axis`, without that axis."""
    axis %= source.rank
    where = [integers(graph, number) for number in (place, place + 1, axis)]
    part = emit(graph, node, "Slice", [source, *where])
    return emit(graph, node, "Squeeze", [part, integers(graph, axis)])


def _stack(node: Node, graph: Graph, elements: Sequence[Value], axis: int) -> Value:
    """Return `elements` side by side along a new `axis`."""
    axis %= elements[0].rank + 1
    where = integers(graph, axis)
    parts = [emit(graph, node, "Unsqueeze", [element, where]) for element in elements]
    return emit(graph, node, "Concat", parts, {"axis": axis})


def _iteration(node: Node, graph: Graph, inputs: Sequence[Value]) -> list[Value]:
    """Emit a copy of the body's nodes before `node`; return the values of its outputs."""
    body = node.body
    mapping = dict(zip(body.inputs, inputs, strict=True))
    for inner in body:
        copy = _copy(inner, graph, mapping, node)
        graph.insert_before(node, copy)
        infer_node(copy)
    return [mapping.get(value, value) for value in body.outputs]


def _copy(inner: Node, graph: Graph, mapping: dict[Value, Value], loop: Node) -> Node:
    """Return a copy of a node, its subgraphs included, that reads mapped values."""
    inputs = [None if value is None else mapping.get(value, value) for value in inner.inputs]
    outputs = [graph.new_value(out.dtype, out.shape, out.name) for out in inner.outputs]
    attributes: Mapping[str, Any] = {
        key: _copy_graph(value, mapping, loop) if isinstance(value, Graph) else value
        for key, value in inner.attributes.items()
    }
    mapping.update(zip(inner.outputs, outputs, strict=True))
    source = merge_sources([inner.source]) if inner.source.names else loop.source
    return Node(inner.op, inputs, outputs, dict(attributes), source)


def _copy_graph(graph: Graph, outer: Mapping[Value, Value], loop: Node) -> Graph:
    copy = Graph(graph.name)
    mapping = dict(outer)
    for value in graph.inputs:
        mapping[value] = copy.add_input(value.name, value.dtype, value.shape)
    for inner in graph:
        copy.append(_copy(inner, copy, mapping, loop))
    for value in graph.outputs:
        copy.add_output(mapping.get(value, value))
    return copy


def _finish(node: Node, graph: Graph, results: Sequence[Value]) -> None:
    """Let the readers of the loop read `results`, and remove it."""
    taken = set(graph.outputs)
    for output, result in zip(node.outputs, results, strict=False):
        if graph.is_output(output):
            # a graph gives every value once, and computes what it gives
            inside = result.producer is not None and result.producer.graph is graph
            if not inside or result in taken:
                result = emit(graph, node, "Identity", [result])
            taken.add(result)
        graph.replace_value(output, result)
    discard(node, graph)
