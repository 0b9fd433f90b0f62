"""Building the normal form of quantized computing (see quantized.py) out of other spellings."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.passes.building import emit
from planish.passes.quantized import is_single


def real(
    graph: Graph, node: Node, x: Value, scale: Value, zero: Value | None, axis: int = 0
) -> Value:
    """Return (x - zero) * scale, built before `node`.

    Parameters
    ----------
    x : Value
        A quantized tensor.
    scale : Value
        One number (of any rank), or one for each position of `x` along `axis`.
    zero : Value or None
        The zero point, likewise; None for zero.
    axis : int
        Counted from the end where negative.
    """
    return emit(graph, node, "DequantizeLinear", _operands(graph, x, scale, zero), {"axis": axis})


def quantized(graph: Graph, node: Node, x: Value, scale: Value, zero: Value | None) -> Value:
    """Return saturate(round(x / scale) + zero) in the type of `node`; one scale."""
    if zero is None:
        zero = graph.constant(np.zeros((), node.output.dtype.numpy))
    return emit(graph, node, "QuantizeLinear", _operands(graph, x, scale, zero))


def has_known_parameters(parameters: Iterable[Value | None]) -> bool:
    """Whether each scale or zero point is absent, one number, or a vector of constants."""
    return all(
        is_single(value) or (value is not None and value.is_constant and value.rank == 1)
        for value in parameters
    )


def unscaled(graph: Graph, zero: Value | None) -> tuple[Value, Value | None]:
    """Return a scale of one that goes with a zero point, and that zero point."""
    count = zero.array.size if zero is not None and zero.is_constant else 1
    return graph.constant(np.ones(() if count == 1 else count, np.float32)), zero


def _operands(graph: Graph, x: Value, scale: Value, zero: Value | None) -> list[Value | None]:
    """Return operands whose parameters have one shape, a single constant being a scalar."""
    if zero is None or not (scale.is_constant and zero.is_constant):
        return [x, _scalar(graph, scale), None if zero is None else _scalar(graph, zero)]
    count = max(scale.array.size, zero.array.size)
    return [x, _spread(graph, scale, count), _spread(graph, zero, count)]


def _spread(graph: Graph, value: Value, count: int) -> Value:
    """Return a constant as a scalar, or with `count` elements where another parameter has them."""
    if count == 1 or value.array.size == count:
        return _scalar(graph, value)
    repeated = np.broadcast_to(value.array.reshape(-1), (count,)).copy()
    return graph.constant(repeated, graph.fresh_name(value.name))


def _scalar(graph: Graph, value: Value) -> Value:
    if not value.is_constant or value.array.size != 1 or value.array.ndim == 0:
        return value
    return graph.constant(value.array.reshape(()), graph.fresh_name(value.name))
