"""Gates: a number for every channel by which a convolution's data is multiplied.

Squeeze-and-excite multiplies a large tensor by a [N, C, 1, 1] gate right before a convolution of
one tap. A kernel that multiplies while it reads saves writing and reading the tensor once.
"""

from __future__ import annotations

from planish.ir.dtypes import BF16, F16, F32
from planish.ir.graph import Node, Value
from planish.ops.convolution import window_of


def gate_of(anchor: Node) -> tuple[Node, Value, Value] | None:
    """Return the Mul before a convolution of one tap, its large operand and its gate, or None."""
    data, weight = anchor.present_inputs[:2]
    node = data.producer
    if anchor.op != "Conv" or node is None or node.op != "Mul" or not weight.is_constant:
        return None
    if data.dtype not in (F16, BF16, F32) or not _is_pointwise(anchor):
        return None
    for large, gate in (node.present_inputs, node.present_inputs[::-1]):
        if large.shape == data.shape and not large.is_constant and _is_gate(gate, data):
            return node, large, gate
    return None


def _is_pointwise(anchor: Node) -> bool:
    window = window_of(anchor)
    pads = window.padding.static
    plain = pads is not None and not any(end for pair in pads for end in pair)
    ones = (*window.kernel, *window.strides, int(anchor.attributes.get("group", 1)))
    return plain and all(number == 1 for number in ones)


def _is_gate(value: Value, data: Value) -> bool:
    shape, whole = value.known_shape, data.known_shape
    if value.is_constant or len(shape) != len(whole) or len(whole) < 3:
        return False
    return shape[:2] == whole[:2] and all(extent == 1 for extent in shape[2:])
