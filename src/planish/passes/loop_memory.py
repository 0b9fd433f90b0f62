"""When what a loop carries may be written where the last iteration's value still lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from planish.ir.graph import Graph, Node, Value
from planish.ops.region import works_in_place
from planish.passes.views import BIJECTIVE, VIEWS


def viewed_source(value: Value) -> Value:
    """Return the value whose elements `value` shows, through views."""
    while value.producer is not None and value.producer.op in VIEWS:
        source = value.producer.inputs[0]
        if source is None:
            break
        value = source
    return value


def is_private(value: Value, graph: Graph) -> bool:
    """Whether `value`, read by one node only, is made in `graph` and read by nothing else.

    Views in between are private as well. What is read elsewhere must not be overwritten.
    """
    while True:
        if len(value.uses) != 1 or graph.is_output(value) or value.producer is None:
            return False
        if value.producer.op not in BIJECTIVE:
            return value.producer.graph is graph and len(value.producer.outputs) == 1
        source = value.producer.inputs[0]
        if source is None:
            return False
        value = source


def is_overwritable(inner: Value | None, result: Value, order: Mapping[Node, int]) -> bool:
    """Whether the region behind `result` may write over carried value `inner` of the same loop.

    Parameters
    ----------
    inner : Value or None
        The carried value as the body reads it; None where the result overwrites nothing.
    result : Value
        An output of the body.
    order : dict
        The body's nodes to their positions.

    Every reader of `inner` must come before that region, or be that region if it works in place.
    """
    if inner is None:
        return True
    source = result
    while source.producer is not None and source.producer.op in BIJECTIVE:
        (source,) = source.producer.present_inputs[:1]
    writer = source.producer
    if writer is None or writer not in order or writer.op in ("Concat", "Loop"):
        return False  # what flows into those is written earlier
    body = writer.graph
    if body is None or any(viewed_source(output) is inner for output in body.outputs):
        return False  # it is read at the end of the body
    for reader, value, direct in _readers(inner, True):
        place = _position(reader, order)
        if place is None or place > order[writer]:
            return False
        if place < order[writer]:
            continue
        same = reader is writer and direct and value.shape == source.shape
        alone = source is result and writer.present_inputs.count(value) == 1
        if not (same and alone and writer.op == "Region"):
            return False
        if not works_in_place(writer, writer.present_inputs.index(value)):
            return False
    return True


def _readers(value: Value, direct: bool) -> Iterator[tuple[Node, Value, bool]]:
    """Yield (node, operand, whether the operand is the carried value itself) of all readers."""
    for node in value.users:
        if node.op not in VIEWS:
            yield node, value, direct
            continue
        if node.inputs[0] is value:
            for output in node.outputs:
                yield from _readers(output, False)
                if node.graph is not None and node.graph.is_output(output):
                    yield node, output, False  # the output of a nested branch


def _position(node: Node, order: Mapping[Node, int]) -> int | None:
    """Return the position of the body's node that is or holds `node`; None if not found."""
    if node in order:
        return order[node]
    for outer, place in order.items():
        if any(_holds(graph, node) for graph in outer.subgraphs):
            return place
    return None


def _holds(graph: Graph, node: Node) -> bool:
    return any(
        each is node or any(_holds(inner, node) for inner in each.subgraphs) for each in graph
    )
