"""Operators that only move elements, applied to integers instead of the floats they stand for."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import scalar_of
from planish.ops.quantize import dequantize, quantize
from planish.passes.building import emit_many
from planish.passes.quantized import MOVING


def is_move(node: Node) -> bool:
    """Whether each result of `node` consists of elements of its first operand, or of a fill."""
    if node.op not in MOVING or node.op == "Concat":
        return False
    if node.op == "Resize":
        cropped = node.attributes["coordinate_transformation_mode"] == "tf_crop_and_resize"
        return bool(node.attributes["mode"] == "nearest") and not cropped
    return node.op == "Split" or len(node.outputs) == 1


def integer_move(
    graph: Graph, node: Node, pair: Node, *, exactly: bool, before: Node | None = None
) -> tuple[Value, ...] | None:
    """Return the results of a move of the integer operand of `pair`; None if they differ.

    Parameters
    ----------
    node : Node
        The move.
    pair : Node
        A DequantizeLinear whose operand is moved, or a QuantizeLinear whose result is.
    exactly : bool
        Whether what a Pad fills in has to be a number that dequantizes to the original one.
    before : Node, optional
        Where the new node comes; `node` by default.
    """
    x = pair.output if pair.op == "QuantizeLinear" else pair.present_inputs[0]
    scale = scalar_of(pair.input(1))
    if node.op == "MaxPool" and (scale is None or scale <= 0):
        return None
    inputs: list[Value | None] = [x, *node.inputs[1:]]
    if node.op == "Pad" and node.attributes["mode"] == "constant":
        fill = _filled(graph, node, pair, exactly)
        if fill is None:
            return None
        inputs = [x, node.inputs[1], fill, *node.inputs[3:]]
    place = before or node
    return emit_many(graph, place, node.op, inputs, len(node.outputs), node.attributes, [node])


def _filled(graph: Graph, node: Node, pair: Node, exactly: bool) -> Value | None:
    """Return the integer that a Pad fills in, or None where it is not known."""
    given, scale, zero = node.input(2), pair.input(1), pair.input(2)
    number = 0.0 if given is None else scalar_of(given)
    if number is None or scale is None or not scale.is_constant or scale.array.size != 1:
        return None
    if zero is not None and (not zero.is_constant or zero.array.size != 1):
        return None
    dtype = (pair.output if pair.op == "QuantizeLinear" else pair.present_inputs[0]).dtype
    step, offset = scale.array.reshape(()), None if zero is None else zero.array.reshape(())
    integer = quantize(np.array(number, np.float32), step, offset, dtype)
    if exactly and float(dequantize(integer, step, offset)) != number:
        return None
    return graph.constant(integer)
