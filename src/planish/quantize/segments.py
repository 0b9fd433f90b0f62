"""A graph cut into segments, so that a change in one layer is followed from there on only.

Each segment is an engine: from the tensors that are alive where it begins to those that are alive
where the next begins. Segments begin right before a layer, where fusion would begin a region, at
about equal shares of the arithmetic, where few tensors are alive.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.ir.clone import clone_graph
from planish.ir.dtypes import STRING
from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import evaluate, is_static, symbols_of
from planish.ops.op import op_of
from planish.passes.dead_code import DeadCode
from planish.runtime.engine import Engine

Array = np.ndarray[Any, Any]
Tensors = dict[str, Array]  # by the names of values


@dataclass
class Segment:
    """A stretch of a graph.

    Attributes
    ----------
    graph : Graph
        Its inputs and outputs have the names of the values they are in the whole graph.
    nodes : dict of Node to Node
        Nodes of the whole graph to those of `graph`.
    reads : tuple of str
        Names of its inputs.
    """

    graph: Graph
    nodes: Mapping[Node, Node]
    reads: tuple[str, ...]


def cut(graph: Graph, layers: Collection[Node], number: int) -> list[Segment]:
    """Return `graph` in at most `number` segments, in order; the graph itself is left as it is.

    Parameters
    ----------
    graph : Graph
        Simplified. One with subgraphs is not cut.
    layers : collection of Node
        A segment begins before one of them.
    number : int
    """
    nodes = list(graph)
    starts = [0, *_places(graph, nodes, layers, number)]
    ends = [*starts[1:], len(nodes)]
    return [_segment(graph, nodes, start, end) for start, end in zip(starts, ends, strict=True)]


def run_from(engines: Sequence[Engine], first: int, tensors: Tensors) -> Tensors:
    """Run the segments from number `first` on, given the tensors that are alive where it begins.

    Returns
    -------
    dict of array
        `tensors`, and all that the segments hand on.
    """
    known = dict(tensors)
    for engine in engines[first:]:
        known |= engine.run({info.name: known[info.name] for info in engine.inputs})
    return known


def operations_of_node(node: Node, sizes: Mapping[str, int]) -> int:
    """Return the arithmetic operations of a node; extents that only data decide count as 1."""
    operations = op_of(node).cost(node).operations
    unknown = symbols_of(operations) - sizes.keys()
    return evaluate(operations, {**sizes, **dict.fromkeys(unknown, 1)})


def opt_sizes(graph: Graph) -> dict[str, int]:
    """Return the symbols of a graph at the extents that its profile says to tune for."""
    return {name: opt for name, (_, opt, _) in graph.ranges.items()}


def _places(
    graph: Graph, nodes: Sequence[Node], layers: Collection[Node], number: int
) -> list[int]:
    """Return where segments but the first begin."""
    if any(node.subgraphs for node in nodes):
        return []
    sizes = opt_sizes(graph)
    done = np.cumsum([0, *(operations_of_node(node, sizes) for node in nodes)])
    alive = _counter_of_alive(graph, nodes)
    possible = [
        (place, count)
        for place, node in enumerate(nodes)
        if place and node in layers and (count := alive(place))
    ]
    places: list[int] = []
    width = float(done[-1]) / number
    for index in range(1, number):
        near = [
            (count, abs(float(done[place]) - index * width), place)
            for place, count in possible
            if abs(float(done[place]) - index * width) <= width / 2
        ]
        if near:
            places.append(min(near)[2])
    return sorted(set(places))


def _counter_of_alive(graph: Graph, nodes: Sequence[Node]) -> Callable[[int], int]:
    """Return a function of a place: how many tensors are alive there, 0 when it cannot be cut."""
    wanted = set(graph.ranges)

    def count(place: int) -> int:
        alive = _alive(graph, nodes, place)
        known: set[str] = set()
        for value in alive:
            if value.dtype is STRING or value.shape is None:
                return 0
            named = {str(dim) for dim in value.shape if not is_static(dim)}
            if not named <= wanted:  # a sum or product of symbols, or one that data decide
                return 0
            known |= named
        return len(alive) if known == wanted else 0

    return count


def _alive(graph: Graph, nodes: Sequence[Node], place: int) -> list[Value]:
    """Return the tensors computed or given before a place and read behind it, in order."""
    before = dict.fromkeys(graph.inputs)
    for node in nodes[:place]:
        before.update(dict.fromkeys(node.outputs))
    read = {value for node in nodes[place:] for value in node.present_inputs}
    return [value for value in before if value in read]


def _segment(graph: Graph, nodes: Sequence[Node], start: int, end: int) -> Segment:
    copy = clone_graph(graph)
    twins = dict(zip(nodes, copy, strict=True))
    values = dict(zip(graph.inputs, copy.inputs, strict=True))
    for node, twin in twins.items():
        values.update(zip(node.outputs, twin.outputs, strict=True))
    inside = set(nodes[start:end])
    needed = [v for v in _alive(graph, nodes, start) if any(user in inside for user in v.users)]
    if start == 0:
        needed = list(graph.inputs)
    copy.inputs, copy.input_names = [], []
    for value in needed:
        place = copy.add_input(copy.fresh_name(value.name), value.dtype, value.shape)
        copy.input_names[-1] = value.name
        place.origin = value.origin
        copy.replace_value(values[value], place)
    handed = [*_alive(graph, nodes, end), *graph.outputs]
    results = [value for value in dict.fromkeys(handed) if value.producer in inside]
    copy.outputs = [values[value] for value in results]
    copy.output_names = [value.name for value in results]
    copy.requirements = []
    DeadCode().run(copy)
    kept = {node: twin for node, twin in twins.items() if node in inside}
    return Segment(copy, kept, tuple(value.name for value in needed))
