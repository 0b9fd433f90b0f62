"""Building the right side of a rewrite: nodes with attributes filled in and types inferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from planish.errors import GraphError
from planish.ir.declarations import DECLARED, REQUIRED
from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import remove_dead, same_type
from planish.ir.source import merge_sources
from planish.ops.infer import infer_node

Array = np.ndarray[Any, Any]


def emit(
    graph: Graph,
    before: Node,
    op: str,
    inputs: Sequence[Value | None],
    attributes: Mapping[str, Any] | None = None,
    matched: Sequence[Node] = (),
) -> Value:
    """Insert a node with one output before `before`, infer its type, and return the output.

    Parameters
    ----------
    graph : Graph
    before : Node
        The new node comes just before it; usually the root of a match.
    op : str
    inputs : sequence of Value or None
        Absent inputs at the end are left out.
    attributes : dict, optional
        Attributes that differ from the operator's defaults.
    matched : sequence of Node
        Nodes that the new one stands for besides `before`; it takes over their sources.
    """
    return emit_many(graph, before, op, inputs, 1, attributes, matched)[0]


def emit_many(
    graph: Graph,
    before: Node,
    op: str,
    inputs: Sequence[Value | None],
    outputs: int,
    attributes: Mapping[str, Any] | None = None,
    matched: Sequence[Node] = (),
) -> tuple[Value, ...]:
    """Insert a node with several outputs; see `emit`."""
    operands = list(inputs)
    while operands and operands[-1] is None:
        operands.pop()
    filled = {**DECLARED[op], **(attributes or {})}
    missing = [key for key, value in filled.items() if value is REQUIRED]
    if missing:
        raise GraphError(f"{op} needs attributes {', '.join(missing)}", where=str(before))
    like = next((v for v in operands if v is not None), before.outputs[0])
    stem = before.outputs[0].name
    results = [graph.new_value(like.dtype, None, stem) for _ in range(outputs)]
    source = merge_sources(each.source for each in (*matched, before))
    node = graph.insert_before(before, Node(op, operands, results, filled, source))
    infer_node(node)
    return tuple(results)


def finish(node: Node, graph: Graph, value: Value) -> bool:
    """Let the readers of `node` read `value` if its type is the same; return whether they do.

    Where inference sees another shape (extents that are equal but not provably so), the rewrite is
    undone: what was built for it is removed.
    """
    if not same_type(value, node.output):
        if value.producer is not None:
            remove_dead(value.producer, graph)
        return False
    graph.replace_value(node.output, value)
    return True


def same_types(results: Sequence[Value], wanted: Sequence[Value]) -> bool:
    """Whether values have the types of others, pair by pair."""
    return all(same_type(a, b) for a, b in zip(results, wanted, strict=True))


def constant(graph: Graph, array: Array, like: Value, stem: str | None = None) -> Value:
    """Return a constant with the contents of `array` in the dtype of `like`."""
    name = graph.fresh_name(stem or like.name)
    return graph.constant(np.ascontiguousarray(array).astype(like.dtype.numpy), name)


def integers(graph: Graph, *numbers: int, stem: str | None = None) -> Value:
    """Return an int64 constant of rank 1."""
    name = graph.fresh_name(stem) if stem else None
    value = graph.constant(np.array(numbers, np.int64).reshape(-1), name)
    value.content = tuple(numbers)
    return value


def reshape(graph: Graph, before: Node, value: Value, target: Sequence[int]) -> Value:
    """Return `value` reshaped to `target` (ONNX: 0 copies an extent, -1 is inferred)."""
    shape = integers(graph, *target)
    return emit(graph, before, "Reshape", [value, shape])


def transpose(graph: Graph, before: Node, value: Value, order: Sequence[int]) -> Value:
    """Return `value` with its axes in `order`."""
    return emit(graph, before, "Transpose", [value], {"perm": tuple(order)})


def channel_vector(value: Value, rank: int, axis: int, channels: int) -> Array | None:
    """Return a constant as one number a channel, or None when it varies along another axis.

    Parameters
    ----------
    value : Value
        A constant that is broadcast against a tensor of `rank` axes.
    rank, axis, channels : int
        The tensor's rank, its channel axis and that axis's extent.

    Returns
    -------
    numpy.ndarray or None
        float64[channels].
    """
    if value.constant is None or not value.dtype.is_float or len(value.array.shape) > rank:
        return None
    shape = (1,) * (rank - value.array.ndim) + value.array.shape
    wrong = [i for i, extent in enumerate(shape) if extent != 1 and i != axis]
    if wrong or shape[axis] not in (1, channels):
        return None
    vector = value.array.astype(np.float64).reshape(-1)
    return np.broadcast_to(vector, (channels,)).copy()
