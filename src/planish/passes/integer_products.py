"""Products of quantized tensors as products of floats that hold whole numbers.

Eight-bit numbers minus their zero points are exact in float32, and so are their sums of products
up to 2**24 (258 products of the largest numbers). Longer sums are rounded like any float32 sum,
which a requantized result shows as at most one step where it lies halfway between two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planish.ir.dtypes import F32
from planish.ir.graph import Graph, Node, Value
from planish.passes.building import emit


def is_plain(zero: Value | None) -> bool:
    """Whether `shifted` takes these zero points: one number, or a vector of constants."""
    if zero is None or zero.shape in ((), (1,)):
        return True
    return zero.is_constant and zero.rank == 1


def shifted(graph: Graph, node: Node, value: Value, zero: Value | None, axis: int) -> Value:
    """Return value - zero in float32.

    `zero` is one number, or a constant with one number for each position of `value` along `axis`.
    """
    whole = emit(graph, node, "Cast", [value], {"to": F32})
    if zero is None or (zero.is_constant and not zero.array.any()):
        return whole
    if zero.is_constant:
        offset = along(graph, zero.array.astype(np.float32), value.rank, axis)
    else:
        single = graph.constant(np.zeros(0, np.int64))
        offset = emit(graph, node, "Reshape", [zero, single])
        offset = emit(graph, node, "Cast", [offset], {"to": F32})
    return emit(graph, node, "Sub", [whole, offset])


def along(graph: Graph, numbers: np.ndarray, rank: int, axis: int) -> Value:
    """Return a constant that varies along one of `rank` axes at most, shaped to broadcast."""
    flat = np.ascontiguousarray(numbers).reshape(-1)
    if flat.size == 1:
        return graph.constant(flat.reshape(()))
    return graph.constant(flat.reshape(-1, *(1,) * (rank - 1 - axis % rank)))


def requantized(
    graph: Graph, node: Node, total: Value, multiplier: np.ndarray, zero: Value, axis: int
) -> Value:
    """Return saturate(round(total * multiplier) + zero); see `ops.quantized_linear.requantize`."""
    scale = along(graph, multiplier.astype(np.float32), total.rank, axis)
    scaled = emit(graph, node, "Mul", [total, scale])
    one = graph.constant(np.ones((), np.float32))
    offset = graph.constant(zero.array.reshape(()))
    return emit(graph, node, "QuantizeLinear", [scaled, one, offset])


def all_constant(values: Sequence[Value | None]) -> bool:
    """Whether every value is there and is a constant."""
    return all(value is not None and value.is_constant for value in values)
