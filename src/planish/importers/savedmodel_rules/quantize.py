"""Quantization that a model simulates: QuantizeLinear and DequantizeLinear with its numbers.

TensorFlow nudges a range so that 0 is a whole quantum (quantization_utils.h, nudge): 8-bit ranges
become uint8 with a zero point, or int8 where they are symmetric.
"""

from __future__ import annotations

import numpy as np

from planish.importers.tensorflow_builder import Array, Builder, rule
from planish.importers.tensorflow_graph import TfNode
from planish.ir.graph import Value


@rule("FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel")
def fake_quant(node: TfNode, builder: Builder) -> Value:
    """Round to the quanta of a range, given by attributes or constants."""
    if node.op.endswith("Args"):
        low, high = (
            np.array(builder.attribute(name, default), np.float32)
            for name, default in (("min", -6.0), ("max", 6.0))
        )
    else:
        low, high = (_constant(builder, index) for index in (1, 2))
    bits = int(builder.attribute("num_bits", 8))
    smallest = int(bool(builder.attribute("narrow_range", False)))
    largest = 2**bits - 1
    scale, zero = nudged(low, high, smallest, largest)
    return quantum(builder, builder.input(0), scale, zero, smallest, largest)


def nudged(low: Array, high: Array, smallest: int, largest: int) -> tuple[Array, Array]:
    """Return scale and zero point of a range, the zero point moved to a whole number."""
    low, high = low.astype(np.float32), high.astype(np.float32)
    span = np.float32(largest - smallest)
    scale = ((high - low) / span).astype(np.float32)
    safe = np.where(scale == 0, np.float32(1), scale)
    zero = smallest - low / safe
    nudge = np.where(zero < smallest, smallest, np.where(zero > largest, largest, np.round(zero)))
    return safe, nudge.astype(np.int64)


def quantum(
    builder: Builder, x: Value, scale: Array, zero: Array, smallest: int, largest: int
) -> Value:
    """Return `x` rounded to `scale`, clipped to numbers smallest .. largest around `zero`."""
    axis = builder.rank(x) - 1 if scale.ndim else 0
    if smallest == 0 and largest == 255:
        return _pair(builder, x, scale, zero.astype(np.uint8), axis)
    centred = zero - 128
    if (smallest, largest) == (1, 255) and np.all(centred == 0):
        x = _clip(builder, x, -127 * scale, 127 * scale)
        return _pair(builder, x, scale, centred.astype(np.int8), axis)
    low, high = ((limit - zero) * scale for limit in (smallest, largest))
    clipped = _clip(builder, x, low, high)
    step = builder.constant(scale.astype(np.float32))
    # rounds halves up as TensorFlow does: floor((x - low) / scale + 0.5) * scale + low
    base = builder.constant(np.asarray(low, np.float32))
    steps = builder.emit("Div", builder.emit("Sub", clipped, base), step)
    rounded = builder.emit("Floor", builder.emit("Add", steps, builder.scalar(0.5, x)))
    return builder.emit("Add", builder.emit("Mul", rounded, step), base)


def _pair(builder: Builder, x: Value, scale: Array, zero: Array, axis: int) -> Value:
    numbers = [builder.constant(scale.astype(np.float32)), builder.constant(zero)]
    quantized = builder.emit("QuantizeLinear", x, *numbers, axis=axis)
    return builder.emit("DequantizeLinear", quantized, *numbers, axis=axis)


def _clip(builder: Builder, x: Value, low: Array, high: Array) -> Value:
    bounds = [builder.constant(np.asarray(each, np.float32)) for each in (low, high)]
    if np.ndim(low) == 0:
        return builder.emit("Clip", x, *bounds)
    return builder.emit("Min", builder.emit("Max", x, bounds[0]), bounds[1])


def _constant(builder: Builder, index: int) -> Array:
    value = builder.input(index)
    if not value.is_constant:
        builder.refuse("the range of the quantization is computed, not a constant")
    return value.array


@rule(
    "QuantizeAndDequantize", "QuantizeAndDequantizeV2", "QuantizeAndDequantizeV3",
    "QuantizeAndDequantizeV4",
)  # fmt: skip
def quantize_and_dequantize(node: TfNode, builder: Builder) -> Value:
    """Round to the quanta of a symmetric range (quantize_and_dequantize_op.h)."""
    x = builder.input(0)
    if node.op == "QuantizeAndDequantizeV3":
        bits = builder.integer(3, "the number of bits")
    else:
        bits = int(builder.attribute("num_bits", 8))
    if not builder.attribute("range_given", node.op == "QuantizeAndDequantizeV3"):
        builder.refuse("the range is taken from the data; give one (range_given)")
    low, high = _constant(builder, 1), _constant(builder, 2)
    signed = bool(builder.attribute("signed_input", True))
    narrow = bool(builder.attribute("narrow_range", False))
    smallest = -(2 ** (bits - 1)) + int(narrow) if signed else 0
    largest = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    scale = _symmetric_scale(low, high, smallest, largest)
    axis = int(builder.attribute("axis", -1))
    if scale.ndim and axis >= 0 and axis != builder.rank(x) - 1:
        builder.refuse(f"the quantization axis is {axis}, not the last")
    if str(builder.attribute("round_mode", "HALF_TO_EVEN")) != "HALF_TO_EVEN":
        builder.refuse("halves are rounded up")
    zero = np.zeros(scale.shape, np.int8 if signed else np.uint8)
    if bits != 8:
        return _rounded(builder, x, scale, smallest, largest)
    if narrow and signed:
        x = _clip(builder, x, -127 * scale, 127 * scale)
    return _pair(builder, x, scale, zero, builder.rank(x) - 1 if scale.ndim else 0)


def _symmetric_scale(low: Array, high: Array, smallest: int, largest: int) -> Array:
    """Return the quantum: the side that needs the larger one decides."""
    tiny = np.finfo(np.float32).tiny
    from_low = low / smallest if smallest else np.zeros_like(low)
    scale = np.maximum(from_low, high / largest).astype(np.float32)
    return np.asarray(np.maximum(scale, tiny))


def _rounded(builder: Builder, x: Value, scale: Array, smallest: int, largest: int) -> Value:
    step = builder.constant(scale.astype(np.float32))
    steps = builder.emit("Round", builder.emit("Div", x, step))
    clipped = _clip(builder, steps, np.array(smallest), np.array(largest))
    return builder.emit("Mul", clipped, step)
