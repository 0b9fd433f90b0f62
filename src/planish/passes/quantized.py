"""The normal form of quantized computing: what rules, fusion and reports ask about it.

Quantization is expressed by QuantizeLinear and DequantizeLinear alone. A *quantized product* is

    Conv | ConvTranspose | MatMul (DequantizeLinear(x, sx, zx), DequantizeLinear(@w, @sw, @zw))

with x and w of eight bits: kernels multiply the integers, sum exactly in int32, and scale the sum
by sx * sw; or both are floats of eight bits (f8e4m3), which GPUs multiply. x has one scale (a
constant or computed) and one zero point; the weights have one scale, or one for each output
channel. Its bias is float32. Weights stay integers inside the region that the product becomes, and
the tensors between such regions are integers too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir.dtypes import BF16, F8E4M3, F16, F32, I8, U8
from planish.ir.graph import Node, Value

Array = np.ndarray[Any, Any]

DEQUANTIZE, QUANTIZE = "DequantizeLinear", "QuantizeLinear"
EIGHT_BITS = (I8, U8)
MULTIPLIED = (*EIGHT_BITS, F8E4M3)
PRODUCTS = ("Conv", "ConvTranspose", "MatMul")
UNTIDY = (*PRODUCTS, "Gemm")  # products before they are in canonical form
# operators that only move elements of their first operand, or choose among them
MOVING = frozenset(
    {
        "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad",
        "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose",
        "Unsqueeze",
    }
)  # fmt: skip
RESHAPING = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
DEPTH = 8  # operators that are looked through


def dequantize_of(value: Value | None) -> Node | None:
    """Return the DequantizeLinear that computes `value`, or None."""
    if value is None or value.producer is None or value.producer.op != DEQUANTIZE:
        return None
    return value.producer


def widening_of(value: Value | None) -> Node | None:
    """Return the node that makes float32 numbers of what is stored as integers or 16-bit floats.

    A DequantizeLinear or a Cast; None where `value` is stored as it is.
    """
    node = None if value is None else value.producer
    if node is None or node.op == DEQUANTIZE:
        return node
    narrow = node.op == "Cast" and node.output.dtype is F32
    return node if narrow and node.present_inputs[0].dtype in (BF16, F16) else None


def is_single(value: Value | None) -> bool:
    """Whether a scale or zero point is absent or one number, known at build time or not."""
    return value is None or (value.shape is not None and all(dim == 1 for dim in value.shape))


def is_quantized_product(node: Node) -> bool:
    """Whether `node` is a product in the normal form (see above)."""
    return node.op in PRODUCTS and product_reason(node) is None


def product_reason(node: Node) -> str | None:
    """Return why a Conv, ConvTranspose or MatMul is not a product of integers, or None."""
    data, weight = dequantize_of(node.inputs[0]), dequantize_of(node.inputs[1])
    if data is None or weight is None:
        which = "data" if data is None else "weights"
        return f"its {which} do not come from a DequantizeLinear"
    for name, each in (("data", data), ("weights", weight)):
        x = each.present_inputs[0]
        if x.dtype not in MULTIPLIED or each.output.dtype is not F32:
            return f"its {name} are {x.dtype} numbers that become {each.output.dtype}"
    if (data.present_inputs[0].dtype is F8E4M3) != (weight.present_inputs[0].dtype is F8E4M3):
        return "it multiplies integers by floats of eight bits"
    if node.op == "MatMul" and data.output.rank < 2:
        return "its data are a vector"
    if not is_single(data.input(1)) or not is_single(data.input(2)):
        return "its data have more than one scale or zero point"
    computed = any(value is not None and not value.is_constant for value in data.inputs[1:])
    return _weight_reason(node, weight, computed)


def _weight_reason(node: Node, weight: Node, computed: bool) -> str | None:
    """Return why the weights do not fit; `computed` says that the data's scale or zero point is."""
    w = weight.present_inputs[0]
    parameters = [value for value in weight.inputs[1:] if value is not None]
    if not w.is_constant or not all(value.is_constant for value in parameters):
        return "its weights, or their scales, are not constant"
    if not all(is_single(value) for value in parameters):
        reason = _axis_reason(node, weight, w)
        if reason is not None:
            return reason
    # of convolutions there is a kernel of wider weights, with constant parameters
    is_narrow = w.dtype in EIGHT_BITS and (node.op == "MatMul" or computed)
    if is_narrow and not fits_bytes(w.array, weight.input(2), output_axis(node, w.rank)):
        return "its weights minus their zero points exceed eight bits"
    return None


def fits_bytes(weights: Array, zero: Value | None, axis: int) -> bool:
    """Whether weights minus their zero points (constants along `axis`) lie in [-128, 127]."""
    signed = weights.dtype == np.int8
    if weights.size == 0 or (signed and (zero is None or not zero.array.any())):
        return True
    offset = np.zeros(1, np.int16) if zero is None else zero.array.astype(np.int16).reshape(-1)
    others = tuple(each for each in range(weights.ndim) if each != axis)
    low, high = weights.min(axis=others), weights.max(axis=others)
    return bool((low - offset >= -128).all() and (high - offset <= 127).all())


def _axis_reason(node: Node, weight: Node, w: Value) -> str | None:
    if weight.attributes["block_size"]:
        return "its weights have a scale for each block"
    if int(weight.attributes["axis"]) % w.rank != output_axis(node, w.rank):
        return "its weights have scales along another axis than the output channels"
    if node.op == "ConvTranspose" and node.attributes["group"] != 1:
        return "the groups of a transposed convolution have several scales"
    return None


def output_axis(node: Node, rank: int) -> int:
    """Return the axis of the weights along which the output channels of a product lie."""
    if node.op == "MatMul":
        return rank - 1
    return 1 if node.op == "ConvTranspose" else 0


def keeps_weight(node: Node) -> bool:
    """Whether the constant that DequantizeLinear `node` reads may become weights of a product.

    It may where a product reads the result, perhaps reshaped, and data that were quantized, perhaps
    moved. Whether it does is known at the end of the simplification.
    """
    if node.op != DEQUANTIZE or node.present_inputs[0].dtype not in MULTIPLIED:
        return False
    return any(_multiplies_quantized(user, index) for user, index in _readers(node.output, DEPTH))


def _readers(value: Value, depth: int) -> list[tuple[Node, int]]:
    """Return the uses of `value`, those behind views of it in place of the views'."""
    found: list[tuple[Node, int]] = []
    for user, index in value.uses:
        if user.op in RESHAPING and index == 0 and depth:
            found += _readers(user.outputs[0], depth - 1)
        else:
            found.append((user, index))
    return found


def _multiplies_quantized(node: Node, index: int) -> bool:
    if node.op not in UNTIDY or index != 1:
        return False
    value = node.inputs[0]
    for _ in range(DEPTH):
        if value is None or value.producer is None:
            return False
        if value.producer.op == DEQUANTIZE:
            return True
        if value.producer.op not in MOVING and value.producer.op not in ("Relu", "Clip"):
            return False
        value = value.producer.inputs[0]
    return False


def is_kept_weight(node: Node) -> bool:
    """Whether DequantizeLinear `node` makes the weights of a quantized product."""
    return any(index == 1 and is_quantized_product(user) for user, index in node.output.uses)


def is_constant_dequantize(node: Node) -> bool:
    """Whether `node` dequantizes a constant with constant parameters."""
    return node.op == DEQUANTIZE and all(value.is_constant for value in node.present_inputs)


def same_parameters(a: Node, b: Node) -> bool:
    """Whether two nodes (QuantizeLinear or DequantizeLinear) have one scale and zero point."""
    for left, right in zip((a.input(1), a.input(2)), (b.input(1), b.input(2)), strict=True):
        if left is not right and not _equal(left, right):
            return False
    return bool(
        is_single(a.input(1))
        or (a.attributes["axis"], a.attributes["block_size"])
        == (b.attributes["axis"], b.attributes["block_size"])
    )


def _equal(a: Value | None, b: Value | None) -> bool:
    """Whether two parameters are equal constants; an absent zero point is a zero."""
    if a is None or b is None:
        present = a or b
        return present is not None and present.is_constant and not present.array.any()
    if not (a.is_constant and b.is_constant) or a.array.size != b.array.size:
        return False
    return a.dtype is b.dtype and bool(np.array_equal(a.array.reshape(-1), b.array.reshape(-1)))
