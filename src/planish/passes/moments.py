"""Recognising means, variances and root mean squares over the last axes."""

from __future__ import annotations

from dataclasses import dataclass

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import integers_of, is_scalar, producer_in, scalar_of, split_constant


@dataclass(frozen=True)
class Normalized:
    """value = base / sqrt(mean(base ** 2 over axes from `axis` on) + epsilon)."""

    base: Value
    axis: int
    epsilon: float


def normalized(node: Node, graph: Graph) -> Normalized | None:
    """Return what `node` normalizes, if it is base / sqrt(..) or base * (1 / sqrt(..))."""
    if node.op == "Div":
        root = producer_in(node.inputs[1], graph, "Sqrt")
        return None if root is None else _check(node.inputs[0], root, graph)
    left, right = node.inputs
    for base, inverse in ((left, right), (right, left)):
        root = inverse_root(inverse, graph)
        found = None if root is None else _check(base, root, graph)
        if found is not None:
            return found
    return None


def inverse_root(value: Value | None, graph: Graph) -> Node | None:
    """Return the Sqrt node where value = 1 / sqrt(..); Pow(.., -0.5) counts as one."""
    node = producer_in(value, graph, "Reciprocal", "Div", "Pow")
    if node is None:
        return None
    if node.op == "Pow":
        return node if is_scalar(node.inputs[1], -0.5) else None
    if node.op == "Div":
        return (
            producer_in(node.inputs[1], graph, "Sqrt") if is_scalar(node.inputs[0], 1.0) else None
        )
    return producer_in(node.inputs[0], graph, "Sqrt")


def _check(base: Value | None, root: Node, graph: Graph) -> Normalized | None:
    found = None if base is None else mean_square(root.inputs[0], graph)
    if base is None or found is None or found.base is not base:
        return None
    return found


def mean_square(value: Value | None, graph: Graph) -> Normalized | None:
    """Return base, axis and epsilon where value = mean(base ** 2) + epsilon."""
    epsilon = 0.0
    add = producer_in(value, graph, "Add")
    if add is not None:
        pair = split_constant(add)
        number = None if pair is None else scalar_of(pair[1])
        if pair is None or number is None:
            return None
        value, epsilon = pair[0], number
    mean = producer_in(value, graph, "ReduceMean")
    axis = None if mean is None else last_axes(mean)
    if mean is None or axis is None:
        return None
    base = squared(mean.inputs[0], graph)
    return None if base is None else Normalized(base, axis, epsilon)


def squared(value: Value | None, graph: Graph) -> Value | None:
    """Return x where value = x * x or x ** 2."""
    node = producer_in(value, graph, "Pow", "Mul")
    if node is None:
        return None
    if node.op == "Pow":
        return node.inputs[0] if is_scalar(node.inputs[1], 2.0) else None
    return node.inputs[0] if node.inputs[0] is node.inputs[1] else None


def last_axes(reduction: Node) -> int | None:
    """Return the first axis of a reduction over all axes from it on, kept with extent 1."""
    x = reduction.inputs[0]
    if x is None or x.shape is None or not reduction.attributes.get("keepdims", 1):
        return None
    axes = integers_of(reduction.input(1))
    if not axes:
        return None
    rank = x.rank
    found = sorted(axis % rank for axis in axes)
    return found[0] if found == list(range(found[0], rank)) else None


def centred(value: Value, graph: Graph) -> tuple[Value, int] | None:
    """Return (x, axis) where value = x - mean(x over axes from `axis` on)."""
    node = producer_in(value, graph, "Sub")
    if node is None or node.inputs[0] is None:
        return None
    mean = producer_in(node.inputs[1], graph, "ReduceMean")
    axis = None if mean is None else last_axes(mean)
    if mean is None or axis is None or mean.inputs[0] is not node.inputs[0]:
        return None
    return node.inputs[0], axis
