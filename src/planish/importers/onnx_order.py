"""Order and completeness of the nodes of one ONNX graph, by names, before anything is built."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence

import onnx

from planish.errors import ModelError

IsKnown = Callable[[str], bool]
Nodes = Sequence[onnx.NodeProto]

LISTED = 10  # names in a message


def ordered_nodes(nodes: Nodes, known: IsKnown, label: str) -> list[onnx.NodeProto]:
    """Return `nodes` in topological order, the file's order wherever it is valid.

    Parameters
    ----------
    nodes : sequence of onnx.NodeProto
    known : callable
        Whether a name exists without these nodes (inputs, initializers, outer graphs).
    label : str
        The graph, for messages.

    Raises
    ------
    ModelError
        For names that nothing produces, names produced twice, and cycles.
    """
    producers = _producers(nodes, known, label)
    needs = [_needs(node, producers) for node in nodes]
    _check_dangling(nodes, producers, known, label)
    if all(max(need, default=-1) < index for index, need in enumerate(needs)):
        return list(nodes)
    return [nodes[index] for index in _sorted(nodes, needs, label)]


def names_read(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield every name that nodes of `graph` or its subgraphs, or their outputs, read."""
    for node in graph.node:
        yield from _reads(node)
    yield from (output.name for output in graph.output)


def _producers(nodes: Nodes, known: IsKnown, label: str) -> dict[str, int]:
    producers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.output:
            if not name:
                continue
            if name in producers:
                raise ModelError(
                    f"two nodes produce {name!r}: {describe(nodes[producers[name]])} and "
                    f"{describe(node)}",
                    where=label,
                    fix="names of values must be unique: export the model again",
                )
            producers[name] = index
    return producers


def _needs(node: onnx.NodeProto, producers: dict[str, int]) -> set[int]:
    return {producers[name] for name in _reads(node) if name in producers}


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from (name for name in node.input if name)
    for graph in _subgraphs(node):
        own = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
        own.update(name for inner in graph.node for name in inner.output)
        yield from (name for name in names_read(graph) if name not in own)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _check_dangling(nodes: Nodes, producers: dict[str, int], known: IsKnown, label: str) -> None:
    dangling = [
        f"{name!r} read by {describe(node)}"
        for node in nodes
        for name in node.input
        if name and name not in producers and not known(name)
    ]
    if dangling:
        more = f" and {len(dangling) - LISTED} more" if len(dangling) > LISTED else ""
        raise ModelError(
            f"nothing produces {'; '.join(dangling[:LISTED])}{more}",
            where=label,
            fix="the model is incomplete: export it again",
        )


def _sorted(nodes: Nodes, needs: list[set[int]], label: str) -> list[int]:
    """Kahn's algorithm; of the nodes that are ready, the file's first comes first."""
    users: list[list[int]] = [[] for _ in nodes]
    for index, need in enumerate(needs):
        for other in need:
            users[other].append(index)
    open_needs = [len(need) for need in needs]
    ready = [index for index, count in enumerate(open_needs) if count == 0]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users[index]:
            open_needs[user] -= 1
            if open_needs[user] == 0:
                heapq.heappush(ready, user)
    if len(order) < len(nodes):
        _raise_cycle(nodes, needs, set(order), label)
    return order


def _raise_cycle(nodes: Nodes, needs: list[set[int]], done: set[int], label: str) -> None:
    """Walk from any node that is left to one it needs until a node comes again."""
    at = next(index for index in range(len(nodes)) if index not in done)
    path: list[int] = []
    while at not in path:
        path.append(at)
        at = min(index for index in needs[at] if index not in done)
    cycle = [*path[path.index(at) :], at]
    shown = " <- ".join(describe(nodes[index]) for index in cycle[:LISTED])
    raise ModelError(
        f"the graph has a cycle: {shown}",
        where=label,
        fix="a model must not read its own results: export it again (loops need Loop or Scan)",
    )


def describe(node: onnx.NodeProto) -> str:
    """Return the user's name of a node, or its first output where it has none, and its operator."""
    return f"{node_name(node)} ({node.op_type})"


def node_name(node: onnx.NodeProto) -> str:
    """Return the name of a node; one without a name is called after its first output."""
    return node.name or next((name for name in node.output if name), "") or node.op_type
