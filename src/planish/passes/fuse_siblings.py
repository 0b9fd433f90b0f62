"""Horizontal fusion: convolutions or matmuls that read one value become one.

Siblings have equal attributes and constant weights. Their weights are concatenated along the output
channels; a Split gives every reader its part, which is a view. What all siblings do next to their
result alone (a bias, an activation) moves in front of the split with them.

It pays where several narrow products read a value that would otherwise be read several times, and
one wide product keeps all threads busy: query, key and value projections, the 1x1 reductions of an
Inception block. It does not pay, and is not done, where

- a part would be read by a pointwise operation, which its own product could have taken as epilogue
  (the gate of a SwiGLU);
- a part goes straight into a concat, whose memory its own convolution could have written;
- a convolution has a spatial kernel, or is already wide enough to fill the machine alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import remove_dead, sole_reader, split_constant
from planish.ops.op import OPS
from planish.passes.building import channel_vector, constant, emit, emit_many, integers
from planish.passes.graph_pass import GraphPass

WIDE_CONVOLUTION = 160  # output channels from which a convolution gains nothing from siblings
WIDE_MATMUL = 2048

Array = np.ndarray[Any, Any]


@dataclass
class _Member:
    """One sibling: its node, its bias (float64 vector or None) and the value it ends in."""

    node: Node
    bias: Array | None
    result: Value


class FuseSiblings(GraphPass):
    """Joins sibling 1x1 convolutions and matmuls; counts how many became one."""

    name = "fuse_siblings"

    def run(self, graph: Graph) -> bool:
        """Look at the readers of every value once."""
        groups: dict[tuple[Any, ...], list[_Member]] = {}
        for node in graph:
            key = _key(node)
            if key is not None:
                groups.setdefault(key, []).append(_member(node, graph))
        modified = False
        for members in groups.values():
            modified |= self._join(members, graph)
        return modified

    def _join(self, candidates: list[_Member], graph: Graph) -> bool:
        members = [member for member in candidates if not _better_alone(member, graph)]
        if len(members) < 2:
            return False
        first = members[0].node
        fused = _product(members, graph)
        fused, ends = _activated(fused, members, graph)
        axis = 1 if first.op == "Conv" else fused.rank - 1
        widths = [_width(member.node) for member in members]
        sizes = integers(graph, *widths)
        matched = [member.node for member in members]
        inputs = [fused, sizes]
        parts = emit_many(graph, first, "Split", inputs, len(members), {"axis": axis}, matched)
        for end, part in zip(ends, parts, strict=True):
            graph.replace_value(end, part)
            if end.producer is not None:
                remove_dead(end.producer, graph)
        self.count(f"sibling {first.op} nodes", len(members))
        self.count(f"joined {first.op} nodes", 1)
        return True


def _key(node: Node) -> tuple[Any, ...] | None:
    """Return what siblings have in common, or None where `node` cannot have any."""
    if node.op not in ("Conv", "MatMul"):
        return None
    x, weights = node.inputs[0], node.inputs[1]
    if x is None or weights is None or x.is_constant or not weights.is_constant:
        return None
    if not weights.dtype.is_float or node.output.shape is None:
        return None
    if node.op == "MatMul":
        narrow = weights.array.ndim == 2 and weights.array.shape[1] <= WIDE_MATMUL
        return ("MatMul", x, weights.dtype) if narrow else None
    bias = node.input(2)
    if node.attributes["group"] != 1 or (bias is not None and not bias.is_constant):
        return None
    if any(extent != 1 for extent in weights.array.shape[2:]):
        return None
    if weights.array.shape[0] > WIDE_CONVOLUTION:
        return None
    attributes = tuple((name, node.attributes[name]) for name in sorted(node.attributes))
    return ("Conv", x, weights.dtype, attributes)


def _width(node: Node) -> int:
    weights = node.inputs[1]
    shape = () if weights is None else weights.array.shape
    return int(shape[0] if node.op == "Conv" else shape[-1])


def _member(node: Node, graph: Graph) -> _Member:
    """Return `node` with the bias that is added to its result, if that is constant."""
    if node.op == "Conv":
        bias = node.input(2)
        return _Member(node, None if bias is None else bias.array.astype(np.float64), node.output)
    reader = sole_reader(node.output, graph)
    pair = split_constant(reader) if reader is not None and reader.op == "Add" else None
    if reader is None or pair is None or reader.output.shape != node.output.shape:
        return _Member(node, None, node.output)
    rank = node.output.rank
    vector = channel_vector(pair[1], rank, rank - 1, _width(node))
    if vector is None:
        return _Member(node, None, node.output)
    return _Member(node, vector, reader.output)


def _better_alone(member: _Member, graph: Graph) -> bool:
    """Whether joining would cost this sibling an epilogue or a place in a concat."""
    end = _end(member, graph)
    if graph.is_output(end) or not end.uses:
        return True
    for user in end.users:
        if user.graph is not graph or user.op == "Concat":
            return True
        if OPS[user.op].pointwise:
            return True
    return False


def _end(member: _Member, graph: Graph) -> Value:
    """Return the value behind the unary operation that may follow this sibling's bias."""
    reader = sole_reader(member.result, graph)
    return reader.output if reader is not None and _is_unary(reader) else member.result


def _is_unary(node: Node) -> bool:
    if not OPS[node.op].pointwise or len(node.outputs) != 1:
        return False
    tensors = [value for value in node.present_inputs if not value.is_constant]
    scalars = [value for value in node.present_inputs if value.is_constant]
    return len(tensors) == 1 and all(value.array.size == 1 for value in scalars)


def _product(members: Sequence[_Member], graph: Graph) -> Value:
    """Insert the joined node, and its bias, before the first sibling."""
    first = members[0].node
    axis = 0 if first.op == "Conv" else 1
    operands = [member.node.inputs[1] for member in members]
    weights = [value for value in operands if value is not None]
    joined = constant(graph, np.concatenate([v.array for v in weights], axis=axis), weights[0])
    matched = [member.node for member in members]
    bias: Value | None = None
    if any(member.bias is not None for member in members):
        vectors = [
            np.zeros(_width(member.node)) if member.bias is None else member.bias
            for member in members
        ]
        bias = constant(graph, np.concatenate(vectors), weights[0])
    if first.op == "Conv":
        inputs = [first.inputs[0], joined, bias]
        return emit(graph, first, "Conv", inputs, first.attributes, matched)
    product = emit(graph, first, "MatMul", [first.inputs[0], joined], matched=matched)
    return product if bias is None else emit(graph, first, "Add", [product, bias])


def _activated(fused: Value, members: Sequence[_Member], graph: Graph) -> tuple[Value, list[Value]]:
    """Apply the unary operation that all siblings end in, if it is the same; return the ends."""
    readers = [sole_reader(member.result, graph) for member in members]
    first = readers[0]
    plain = [member.result for member in members]
    if first is None or not _is_unary(first):
        return fused, plain
    if any(reader is None or not _same_operation(first, reader) for reader in readers):
        return fused, plain
    inputs = [value if value is not None and value.is_constant else None for value in first.inputs]
    position = next(i for i, v in enumerate(first.inputs) if v is not None and not v.is_constant)
    inputs[position] = fused
    result = emit(graph, members[0].node, first.op, inputs, first.attributes)
    return result, [reader.output for reader in readers if reader is not None]


def _same_operation(a: Node, b: Node) -> bool:
    if a.op != b.op or a.attributes != b.attributes or len(a.inputs) != len(b.inputs):
        return False
    for left, right in zip(a.inputs, b.inputs, strict=True):
        if left is None or right is None:
            if left is not right:
                return False
            continue
        if left.is_constant != right.is_constant:
            return False
        if left.is_constant and not np.array_equal(left.array, right.array):
            return False
    return True
