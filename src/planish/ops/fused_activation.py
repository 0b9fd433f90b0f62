"""ONNX Runtime's GELU operators: exact, approximated, and with a bias added first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from planish.ir.graph import Node
from planish.ops.error_function import erf
from planish.ops.numeric import narrow, optional, random_array, required, widen
from planish.ops.op import Array, Attributes, Inferred, Inputs, Op, Sample, broadcast

SQRT_HALF = 0.7071067811865476
SQRT_2_OVER_PI = 0.7978845608028654


def gelu(x: Array) -> Array:
    """Return x * Phi(x), the exact GELU."""
    kind = x.dtype.type
    return np.asarray(x * kind(0.5) * (kind(1) + erf(x * kind(SQRT_HALF))))


def gelu_tanh(x: Array) -> Array:
    """Return GELU's approximation by tanh (Hendrycks and Gimpel 2016)."""
    kind = x.dtype.type
    inner = kind(SQRT_2_OVER_PI) * (x + kind(0.044715) * x * x * x)
    return np.asarray(kind(0.5) * x * (kind(1) + np.tanh(inner)))


class _FusedGelu(Op):
    """Base: x and an optional bias [H] that broadcasts; the result has x's type."""

    pointwise = True
    operations_per_element = 12

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the type of x."""
        x, bias = node.present_inputs[0], node.input(1)
        if bias is None or x.shape is None or bias.shape is None:
            return [Inferred(x.dtype, x.shape)]
        return [Inferred(x.dtype, broadcast([x.shape, bias.shape], str(node)))]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover positive, negative and large numbers."""
        return [Sample((random_array(1, 2, 3, 8) * 3,))]


class ContribGelu(_FusedGelu):
    """x * Phi(x), exact."""

    name = "com.microsoft.Gelu"

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Compute in float32 at least."""
        x = required(inputs, 0)
        return [narrow(gelu(widen(x)), x)]


class BiasGelu(_FusedGelu):
    """Exact GELU of x + bias, the bias [H] along the last axis."""

    name = "com.microsoft.BiasGelu"

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Compute in float32 at least."""
        x, bias = required(inputs, 0), required(inputs, 1)
        return [narrow(gelu(widen(x) + widen(bias)), x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover a bias along the last axis."""
        return [Sample((random_array(1, 2, 3, 8) * 3, random_array(2, 8)), {}, (1,))]


class FastGelu(_FusedGelu):
    """GELU by tanh of x, or of x + bias."""

    name = "com.microsoft.FastGelu"

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Compute in float32 at least."""
        x, bias = required(inputs, 0), optional(inputs, 1)
        wide = widen(x) if bias is None else widen(x) + widen(bias)
        return [narrow(gelu_tanh(wide), x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover both forms."""
        x = random_array(1, 2, 3, 8) * 3
        return [Sample((x,)), Sample((x, random_array(2, 8)), {}, (1,), name="bias")]


class QuickGelu(_FusedGelu):
    """x * sigmoid(alpha * x)."""

    name = "com.microsoft.QuickGelu"
    attributes: ClassVar[Mapping[str, Any]] = {"alpha": 1.702}

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Compute in float32 at least."""
        x = required(inputs, 0)
        wide = widen(x)
        return [narrow(wide / (1 + np.exp(-wide * wide.dtype.type(attributes["alpha"]))), x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover another coefficient."""
        return [*super().samples(), Sample((random_array(2, 5),), {"alpha": 1.0}, name="silu")]
