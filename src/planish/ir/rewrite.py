"""Rewriting: the rule contract, and the small operations on a graph that rules are made of.

A rule is an equation. It is tried on every node whose operator it names as a root; when its left
side matches there, it builds the right side just before the root, lets the root's readers read the
new value, and returns True. What the left side leaves unread is removed by the driver.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from planish.ir.graph import Graph, Node, Value


class Rule(ABC):
    """Base class of rewrite rules; one file each in passes/rules/, found by discovery.

    Class attributes
    ----------------
    name : str
        The equation: "Conv(x, w) * s => Conv(x, w * s)".
    label : str
        What reports count: "Scale folding".
    roots : tuple of str
        Operators whose nodes the rule is tried on.
    stage : str
        "simplify" (part of the fixed point that runs several times), "recognise" (runs once,
        after everything is in simple form), or "recurrent" (the same on loops, before they are
        unrolled).
    example : str
        A graph in text form with small constants on which the rule fires. The generated test runs
        it before and after through the interpreter and compares.
    """

    name: ClassVar[str] = ""
    label: ClassVar[str] = ""
    roots: ClassVar[tuple[str, ...]] = ()
    stage: ClassVar[str] = "simplify"
    example: ClassVar[str] = ""

    @classmethod
    @abstractmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """Try the equation at `node`; return whether the graph was changed."""


def sole_reader(value: Value, graph: Graph) -> Node | None:
    """Return the node that alone reads `value` once, or None.

    A value that is an output of `graph`, or is read inside a subgraph, has no sole reader.
    """
    if len(value.uses) != 1 or graph.is_output(value):
        return None
    ((node, _),) = value.uses
    return node if node.graph is graph else None


def producer_in(value: Value | None, graph: Graph, *ops: str) -> Node | None:
    """Return the node of `graph` that computes `value` if its operator is one of `ops`."""
    if value is None or value.producer is None or value.producer.graph is not graph:
        return None
    return value.producer if value.producer.op in ops else None


def private_producer(value: Value | None, graph: Graph, *ops: str) -> Node | None:
    """Return the producer of `value` as `producer_in` does, if `value` has a sole reader."""
    node = producer_in(value, graph, *ops)
    if node is None or value is None or sole_reader(value, graph) is None:
        return None
    return node


def replace_output(node: Node, graph: Graph, value: Value) -> None:
    """Make every reader of the only output of `node` read `value` instead.

    A graph output keeps its name: `value` takes over the label when nothing else depends on it.
    """
    old = node.output
    graph.replace_value(old, value)


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


def remove_dead(node: Node, graph: Graph) -> int:
    """Remove `node` if nothing reads it, then the producers that this leaves unread.

    Returns
    -------
    int
        Number of nodes removed.
    """
    removed = 0
    pending = [node]
    while pending:
        each = pending.pop()
        if each.graph is not graph or is_read(each, graph):
            continue
        feeders = [v.producer for v in each.present_inputs if v.producer is not None]
        discard(each, graph)
        removed += 1
        pending.extend(dict.fromkeys(reversed(feeders)))
    return removed


def discard(node: Node, graph: Graph) -> None:
    """Remove `node` for good: what its subgraphs read from around them is no longer read."""
    for subgraph in node.subgraphs:
        for inner in reversed(subgraph):
            subgraph.outputs = []
            discard(inner, subgraph)
    graph.remove(node)


def is_read(node: Node, graph: Graph) -> bool:
    """Whether a node or an output of `graph` reads any output of `node`."""
    return any(output.uses or graph.is_output(output) for output in node.outputs)


def scalar_of(value: Value | None) -> float | None:
    """Return the number in a constant with one element, else None."""
    if value is None or value.constant is None:
        return None
    array = value.array
    if array.size != 1 or array.dtype == object:
        return None
    return float(np.asarray(array).reshape(-1)[0])


def is_scalar(value: Value | None, number: float, relative: float = 1e-6) -> bool:
    """Whether `value` is a one-element constant equal to `number` within float32 rounding."""
    found = scalar_of(value)
    return found is not None and abs(found - number) <= relative * max(abs(number), 1e-30)


def integers_of(value: Value | None) -> tuple[int, ...] | None:
    """Return the contents of an integer constant as a flat tuple, else None."""
    if value is None or value.constant is None or not value.dtype.is_integer:
        return None
    return tuple(int(number) for number in value.array.reshape(-1))


def split_constant(node: Node) -> tuple[Value, Value] | None:
    """Return (variable, constant) operands of a commutative binary node, else None."""
    left, right = node.inputs[0], node.inputs[1]
    if left is None or right is None:
        return None
    if right.is_constant and not left.is_constant:
        return left, right
    if left.is_constant and not right.is_constant:
        return right, left
    return None


def same_type(a: Value, b: Value) -> bool:
    """Whether two values have one dtype and one known shape."""
    return a.dtype is b.dtype and a.shape is not None and a.shape == b.shape
