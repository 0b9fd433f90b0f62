"""Whether a tensor can hold negative numbers, read off the operators that compute it."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Node, Value
from planish.ir.rewrite import scalar_of
from planish.passes.quantized import MOVING

ALWAYS = frozenset(
    {
        "Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt",
        "ThresholdedRelu",
    }
)  # fmt: skip
IF_OPERANDS_ARE = MOVING | {
    "Add", "AveragePool", "Div", "GlobalAveragePool", "GlobalMaxPool", "Min", "Mul", "ReduceMax",
    "ReduceMean", "ReduceSum", "Sum",
}  # fmt: skip
LIMIT = 64  # operators looked at


def is_non_negative(value: Value) -> bool:
    """Whether no element of `value` can be below zero; False where that is not easily seen."""
    pending, seen = [value], set()
    while pending:
        each = pending.pop()
        if each in seen:
            continue
        seen.add(each)
        if each.is_constant:
            if not each.dtype.is_integer and bool(np.any(each.array < 0)):
                return False
            continue
        node = each.producer
        if node is None or len(seen) > LIMIT:
            return False
        if node.op in ALWAYS or _is_clipped(node):
            continue
        if node.op not in IF_OPERANDS_ARE or _overshoots(node):
            return False
        pending += _data(node)
    return True


def _is_clipped(node: Node) -> bool:
    """Whether `node` raises its result to zero at least."""
    if node.op == "Clip":
        low = scalar_of(node.input(1))
        return low is not None and low >= 0
    if node.op != "Max":
        return False
    bounds = [value.array for value in node.present_inputs if value.is_constant]
    return any(bool(np.all(bound >= 0)) for bound in bounds)


def _overshoots(node: Node) -> bool:
    """Whether an interpolation leaves the range of its operand."""
    return node.op == "Resize" and node.attributes["mode"] == "cubic"


def _data(node: Node) -> list[Value]:
    """Return the operands that elements come from."""
    if node.op == "Pad":
        return [value for value in (node.inputs[0], node.input(2)) if value is not None]
    if node.op in MOVING and node.op != "Concat":
        return node.present_inputs[:1]
    return [value for value in node.present_inputs if value.dtype.is_float]
