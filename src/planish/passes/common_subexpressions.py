"""Computes equal things once."""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir.constant import Constant
from planish.ir.dtypes import DType
from planish.ir.graph import Graph, Node, Value
from planish.ops.op import OPS
from planish.passes.graph_pass import GraphPass

DIGEST_LIMIT = 1 << 16  # bytes; larger constants are compared by identity, not by contents


class CommonSubexpressions(GraphPass):
    """A node equal to an earlier one (operator, inputs, attributes) is replaced by it.

    One forward sweep with a hash table: operands are unified before their readers are looked up,
    so equal trees collapse from the leaves. Constants count as equal when their contents are.
    """

    name = "common_subexpressions"

    def run(self, graph: Graph) -> bool:
        """Sweep once over `graph`."""
        seen: dict[tuple[Any, ...], Node] = {}
        outputs = set(graph.outputs)
        modified = False
        for node in graph:
            key = _key(node)
            if key is None:
                continue
            earlier = seen.setdefault(key, node)
            if earlier is node or not _may_merge(earlier, node, outputs):
                continue
            for old, new in zip(node.outputs, earlier.outputs, strict=True):
                graph.replace_value(old, new)
                if old in outputs:
                    outputs.add(new)
            graph.remove(node)
            self.count("common subexpressions")
            modified = True
        return modified


def _may_merge(earlier: Node, node: Node, outputs: set[Value]) -> bool:
    """Whether the outputs correspond; two outputs of a graph stay two values."""
    if len(earlier.outputs) != len(node.outputs):
        return False
    pairs = zip(earlier.outputs, node.outputs, strict=True)
    return not any(a in outputs and b in outputs for a, b in pairs)


def _key(node: Node) -> tuple[Any, ...] | None:
    """Return what makes `node` equal to another, or None when it equals only itself."""
    operator = OPS.get(node.op)
    if operator is None or not operator.pure or node.subgraphs:
        return None
    inputs = tuple(_operand_key(value) for value in node.inputs)
    attributes = tuple((name, _freeze(node.attributes[name])) for name in sorted(node.attributes))
    return (node.op, inputs, attributes, len(node.outputs))


def _operand_key(value: Value | None) -> Any:
    if value is None or value.constant is None:
        return value
    constant = value.constant
    if constant.array.dtype == object or constant.array.nbytes > DIGEST_LIMIT:
        return id(constant)
    return constant.digest


def _freeze(attribute: Any) -> Any:
    if isinstance(attribute, np.ndarray):
        return Constant(attribute).digest
    if isinstance(attribute, tuple | list):
        return tuple(map(_freeze, attribute))
    if isinstance(attribute, DType):
        return attribute.name
    # 1 and 1.0 are equal in Python and not the same attribute
    return (type(attribute).__name__, attribute)
