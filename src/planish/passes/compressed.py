"""Weights of few bits that kernels turn into floats as they multiply ("weight-only" quantization).

The form is one node in front of a product of floats:

    MatMul(x, DequantizeLinear(@w, @scales, @zeros))

with x in floats, w of four or eight bits [K, N], and scales (and zero points) that are one number,
one for each column (axis 1), or one for each block of rows (axis 0, `block_size`) and column. Such
weights stay as they are up to the kernel; every other constant DequantizeLinear is computed at
build time. A product of two DequantizeLinear that qualifies as a quantized product
(passes/quantized.py) is one, and not this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.ir.dtypes import BF16, F32, I4, I8, U4, U8
from planish.ir.graph import Node
from planish.passes.quantized import DEQUANTIZE, dequantize_of, is_single, product_reason

Array = np.ndarray[Any, Any]

FEW_BITS = (I4, U4, I8, U8)
SMALLEST = 1 << 14  # elements; smaller weights are in a cache anyway, and are floats
FEWEST_COLUMNS = 16
OCTET = 8  # rows that kernels decode together: blocks are whole ones


@dataclass(frozen=True)
class Compressed:
    """Weights of few bits.

    Attributes
    ----------
    numbers : numpy.ndarray
        [K, N], in a type of four or eight bits.
    scales : numpy.ndarray
        f32 [groups, N].
    zeros : numpy.ndarray
        i16 [groups, N].
    group : int
        Rows that share a scale; the last group may have fewer.
    """

    numbers: Array
    scales: Array
    zeros: Array
    group: int


def is_compressed_product(node: Node) -> bool:
    """Whether `node` is a product in the form above."""
    return node.op == "MatMul" and compressed_reason(node) is None


def compressed_reason(node: Node) -> str | None:
    """Return why the weights of a MatMul are not multiplied as they are stored, or None."""
    weight = dequantize_of(node.inputs[1])
    if weight is None or not all(value.is_constant for value in weight.present_inputs):
        return "its weights do not come from a DequantizeLinear of constants"
    w, x = weight.present_inputs[0], node.present_inputs[0]
    if w.dtype not in FEW_BITS or w.rank != 2 or x.shape is None or x.rank < 2:
        return f"its weights are {w}"
    if x.dtype not in (F32, BF16) or weight.output.dtype is not x.dtype:
        return f"its data are {x.dtype} numbers"
    if w.array.size < SMALLEST or w.array.shape[1] < FEWEST_COLUMNS:
        return "its weights are small"
    if product_reason(node) is None:
        return "its data are integers too"
    return _scales_reason(weight)


def may_be_compressed(node: Node) -> bool:
    """Whether DequantizeLinear `node` makes a matrix of constants that may become such weights.

    Whether it does is known at the end of the simplification.
    """
    if node.op != DEQUANTIZE or not all(value.is_constant for value in node.present_inputs):
        return False
    w = node.present_inputs[0]
    if w.dtype not in FEW_BITS or w.rank != 2 or w.array.size < SMALLEST:
        return False
    return any(_is_product(user, index) for user, index in node.output.uses)


def keeps_compressed(node: Node) -> bool:
    """Whether DequantizeLinear `node` makes the weights of a compressed product."""
    return any(index == 1 and is_compressed_product(user) for user, index in node.output.uses)


def compressed_weights(weight: Node) -> Compressed:
    """Return what the DequantizeLinear of a compressed product holds."""
    numbers = weight.present_inputs[0].array
    depth, columns = numbers.shape
    group = depth
    if weight.attributes["block_size"] and not is_single(weight.input(1)):
        group = min(int(weight.attributes["block_size"]), depth)
    shape = (-(-depth // group), columns)
    zero = weight.input(2)
    zeros = np.zeros((), np.int16) if zero is None else zero.array.astype(np.int16)
    return Compressed(
        numbers,
        _spread(weight.present_inputs[1].array.astype(np.float32), shape),
        _spread(zeros, shape),
        group,
    )


def _spread(parameter: Array, shape: tuple[int, int]) -> Array:
    if parameter.size == 1:
        parameter = parameter.reshape(())
    return np.ascontiguousarray(np.broadcast_to(parameter, shape))


def _is_product(node: Node, index: int) -> bool:
    """Whether operand `index` of `node` may be weights, perhaps after they were transposed."""
    if node.op == "Transpose":
        return any(_is_product(user, place) for user, place in node.output.uses)
    return node.op in ("MatMul", "Gemm") and index == 1


def _scales_reason(weight: Node) -> str | None:
    if all(is_single(value) for value in weight.inputs[1:]):
        return None
    axis, block = int(weight.attributes["axis"]) % 2, int(weight.attributes["block_size"])
    if not block:
        return None if axis == 1 else "its weights have a scale for each row"
    if axis == 1:
        return "the blocks of its weights lie along the columns"
    depth = weight.present_inputs[0].array.shape[0]
    if block % OCTET and block < depth:
        return f"the blocks of its weights have {block} rows, not a multiple of {OCTET}"
    return None
