"""ONNX Runtime's matrix products of quantized and float operands, with float results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.declarations import REQUIRED
from planish.ir.dtypes import F32
from planish.ir.graph import Node
from planish.ir.requirement import Requirement, equal
from planish.ir.shape import product
from planish.ops.matmul import matmul_shape, product_requirements
from planish.ops.numeric import narrow, optional, random_array, required, widen
from planish.ops.op import Array, Attributes, Cost, Inferred, Inputs, Op, Sample, bytes_of
from planish.ops.quantize import DynamicQuantizeLinear
from planish.ops.quantized_linear import multiply_exactly, scalar, signed, unsigned
from planish.ops.sample_data import f32, floats, whole


class _FloatProduct(Op):
    """Base: a product of inputs 0 and 1 as float32."""

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return float32 in the product's shape."""
        a, b = node.present_inputs[:2]
        if a.shape is None or b.shape is None:
            return [Inferred(F32, None)]
        return [Inferred(F32, matmul_shape(a.shape, b.shape, str(node)))]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that inner extents are equal and batches broadcast."""
        a, b = node.present_inputs[:2]
        return product_requirements(a.shape, b.shape)

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Return two operations a product."""
        inner = (node.present_inputs[0].shape or (1,))[-1]
        return Cost(product(node.outputs[0].shape or ()) * inner * 2, bytes_of(node))


def _scaled(total: Array, scale: Array, bias: Array | None) -> Array:
    single = scale.reshape(()) if scale.size == 1 else scale
    result = total.astype(np.float32) * single.astype(np.float32)
    return np.asarray(result if bias is None else result + bias, dtype=np.float32)


class MatMulIntegerToFloat(_FloatProduct):
    """MatMulInteger times both scales, plus a bias.

    Inputs: A, B, a_scale, b_scale (one, or one for each column), optional zero points of A and B,
    optional f32 bias.
    """

    name = "com.microsoft.MatMulIntegerToFloat"

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Accumulate exactly, scale."""
        a, b, a_scale, b_scale = (required(inputs, index) for index in range(4))
        total = multiply_exactly(a, b, (optional(inputs, 4), optional(inputs, 5)))
        return [_scaled(total, a_scale.reshape(()) * b_scale, optional(inputs, 6))]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return u8 times i8, one scale a column, and a bias."""
        a, b, scale = unsigned(3, 8), signed(8, 4), f32(0.02)
        columns, bias = floats(4, low=0.005, high=0.02), floats(4)
        zeros = scalar(120), np.array([0, 3, -2, 5], np.int8)
        return [
            Sample((a, b, scale, f32(0.01)), {}, (1, 2, 3), name="plain"),
            Sample((a, b, scale, columns, *zeros, bias), {}, (1, 3, 5, 6), name="bias"),
        ]


class DynamicQuantizeMatMul(_FloatProduct):
    """A float matrix, quantized to u8 by its own range, times a quantized one.

    Inputs: f32 A, B, b_scale (one, or one for each column), optional zero point of B, optional f32
    bias.
    """

    name = "com.microsoft.DynamicQuantizeMatMul"

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Quantize A, accumulate exactly, scale."""
        b, b_scale = required(inputs, 1), required(inputs, 2)
        a, a_scale, a_zero = DynamicQuantizeLinear.reference(inputs[:1], {})
        total = multiply_exactly(a, b, (a_zero, optional(inputs, 3)))
        return [_scaled(total, a_scale.reshape(()) * b_scale, optional(inputs, 4))]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return i8 and u8 matrices, one scale a column, and a bias."""
        a, b = random_array(1, 3, 8), signed(8, 4)
        columns, bias = floats(4, low=0.005, high=0.02), floats(4)
        return [
            Sample((a, b, f32(0.01)), {}, (1, 2), name="plain"),
            Sample((a, unsigned(8, 4), f32(0.01), scalar(120)), {}, (1, 2, 3), name="u8"),
            Sample((a, b, columns, np.zeros(4, np.int8), bias), {}, (1, 2, 3, 4), name="bias"),
        ]


def unpack(packed: Array, bits: int, count: int) -> Array:
    """Return the first `count` numbers of `bits` bits along the last axis, low bits first."""
    each = 8 // bits
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(bits)
    numbers = (packed[..., None] >> shifts) & np.uint8(2**bits - 1)
    return np.asarray(numbers.reshape(*packed.shape[:-1], -1)[..., :count])


class MatMulNBits(Op):
    """A float matrix times weights of few bits, which have a scale for each block of K.

    Inputs: A, B as u8[N, blocks, bytes], scales[N, blocks], optional zero points (packed like B, or
    of the scales' type; the middle by default), a group index (refused), optional bias.
    """

    name = "com.microsoft.MatMulNBits"
    attributes: ClassVar[Mapping[str, Any]] = {
        "K": REQUIRED,
        "N": REQUIRED,
        "bits": 4,
        "block_size": REQUIRED,
        "accuracy_level": 0,
        "weight_prepacked": 0,
    }

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return A's type with N columns."""
        if node.input(4) is not None:
            raise ShapeError("weights in another order (g_idx) are not supported", where=str(node))
        if node.attributes["bits"] not in (2, 4, 8) or node.attributes["weight_prepacked"]:
            raise ShapeError(
                f"{node.attributes['bits']} bits, or weights packed for one device, are not "
                "supported",
                where=str(node),
            )
        a = node.present_inputs[0]
        return [Inferred(a.dtype, None if a.shape is None else (*a.shape[:-1], cls._columns(node)))]

    @classmethod
    def _columns(cls, node: Node) -> int:
        return int(node.attributes["N"])

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that A has K columns."""
        a = node.present_inputs[0]
        return [] if a.shape is None else equal(a.shape[-1], int(node.attributes["K"]))

    @classmethod
    def weights(cls, inputs: Inputs, attributes: Attributes) -> tuple[Array, Array, Array]:
        """Return the weights as u8[K, N], and scales and zero points as [blocks, N].

        Zero points are float32 where the model gives them so, else u8.
        """
        packed, scales = required(inputs, 1), required(inputs, 2)
        columns, depth, bits = attributes["N"], attributes["K"], attributes["bits"]
        blocks = -(-depth // attributes["block_size"])
        numbers = unpack(packed.reshape(columns, -1), bits, depth)
        zeros = optional(inputs, 3)
        if zeros is None:
            points = np.full((columns, blocks), 2 ** (bits - 1), np.uint8)
        elif zeros.dtype == np.uint8:
            points = unpack(zeros.reshape(columns, -1), bits, blocks)
        else:
            points = zeros.reshape(columns, blocks).astype(np.float32)
        return numbers.T, scales.reshape(columns, blocks).T, points.T

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Dequantize, multiply."""
        a = required(inputs, 0)
        numbers, scales, zeros = cls.weights(inputs, attributes)
        block = attributes["block_size"]
        spread = [np.repeat(widen(x), block, axis=0)[: len(numbers)] for x in (scales, zeros)]
        real = (numbers.astype(np.float32) - spread[1]) * spread[0]
        result = np.matmul(widen(a), real)
        bias = optional(inputs, 5)
        return [narrow(result if bias is None else result + widen(bias), a)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return four and eight bits, zero points, and a block that is not full."""
        a = random_array(1, 3, 32)
        scales = floats(5, 2, low=0.01, high=0.1).reshape(-1)
        packed = whole(5, 2, 8, low=0, high=256, dtype=np.uint8)
        zeros = whole(5, low=0, high=256, dtype=np.uint8)
        four = {"K": 32, "N": 5, "bits": 4, "block_size": 16}
        eight = {"K": 32, "N": 5, "bits": 8, "block_size": 16}
        wide = whole(5, 2, 16, low=0, high=256, dtype=np.uint8)
        short = {"K": 20, "N": 5, "bits": 4, "block_size": 16}
        return [
            Sample((a, packed, scales), four, (1, 2), name="four_bits"),
            Sample((a, packed, scales, zeros), four, (1, 2, 3), name="zero_points"),
            Sample((a, wide, scales), eight, (1, 2), name="eight_bits"),
            Sample((random_array(2, 2, 3, 20), packed, scales), short, (1, 2), name="part_block"),
        ]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Return two operations a product."""
        depth = int(node.attributes["K"])
        return Cost(product(node.outputs[0].shape or ()) * depth * 2, bytes_of(node))
