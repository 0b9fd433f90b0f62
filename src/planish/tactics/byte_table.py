"""Epilogues that go through one byte: what follows it is a table of 256 bytes.

Models that were quantized elsewhere have QuantizeLinear between a product and its activation:

    sums -> ... -> QuantizeLinear -> DequantizeLinear -> Sigmoid -> Mul -> QuantizeLinear

Everything behind the first QuantizeLinear is a function of eight bits. The reference computes its
table at build time, so that it is exact, and the store looks the bytes up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.ir.dtypes import I8, U8
from planish.ir.graph import Node, Value
from planish.ir.rewrite import scalar_of
from planish.ops.interpreter import run_node
from planish.ops.op import op_of

BYTES = (I8, U8)
SHORTEST = 3  # nodes that a look-up replaces at least
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ByteFunction:
    """A QuantizeLinear and the nodes behind it, which end in bytes.

    Attributes
    ----------
    source : Node
        The QuantizeLinear.
    tail : tuple of Node
        What is computed from its result, in order; the last one computes the only output.
    """

    source: Node
    tail: tuple[Node, ...]

    @property
    def table(self) -> Array:
        """The output's bytes for each byte of the result, in the order of its bit patterns."""
        given = self.source.output
        shape = (1,) * max(given.rank - 1, 0) + (256,)
        known: dict[Value, Array] = {
            given: np.arange(256, dtype=np.uint8).view(given.dtype.numpy).reshape(shape)
        }
        for node in self.tail:
            inputs = [None if v is None else _array(v, known) for v in node.inputs]
            known[node.output] = run_node(node, inputs)[0]
        return np.ascontiguousarray(known[self.tail[-1].output].reshape(256)).view(np.uint8)


def _array(value: Value, known: dict[Value, Array]) -> Array:
    """Return what was computed for `value`, or the constant that it is."""
    found = known.get(value)
    return value.array if found is None else found


def byte_function(nodes: Sequence[Node], outputs: Sequence[Value]) -> ByteFunction | None:
    """Return the longest function of one byte at the end of `nodes`, or None without one."""
    if len(outputs) != 1 or outputs[0].dtype not in BYTES:
        return None
    for source in nodes:
        if source.op != "QuantizeLinear" or source.output.dtype not in BYTES:
            continue
        tail = _tail_of(source, nodes)
        if len(tail) >= SHORTEST and tail[-1].output is outputs[0]:
            return ByteFunction(source, tuple(tail))
    return None


def _tail_of(source: Node, nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes that depend on `source`; none where they read more than its result."""
    known, tail = {source.output}, []
    for node in nodes:
        operands = [v for v in node.present_inputs if scalar_of(v) is None]
        if not known.intersection(operands):
            continue
        if not known.issuperset(operands) or not op_of(node).pointwise or len(node.outputs) != 1:
            return []
        known.add(node.output)
        tail.append(node)
    return tail
