"""Activation functions: pointwise functions of one tensor with constant parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from planish.ops.elementwise import Unary
from planish.ops.error_function import erf
from planish.ops.op import Array, Attributes, Sample
from planish.ops.sample_data import floats


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)); exp may overflow to infinity, the result is then 0."""
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)))


class Relu(Unary):
    """max(x, 0)."""

    name = "Relu"
    operations_per_element = 1

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the activation."""
        return np.asarray(np.maximum(arrays[0], 0))


class LeakyRelu(Unary):
    """x where x >= 0, else alpha * x."""

    name = "LeakyRelu"
    attributes: ClassVar[Mapping[str, Any]] = {"alpha": 0.01}
    operations_per_element = 2

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the activation."""
        x = arrays[0]
        return np.asarray(np.where(x >= 0, x, x * np.float32(attributes["alpha"])))

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return default and other parameters."""
        return [*super().samples(), Sample((floats(2, 9),), {"alpha": 0.3}, name="parameters")]


class ThresholdedRelu(Unary):
    """x where x > alpha, else 0."""

    name = "ThresholdedRelu"
    attributes: ClassVar[Mapping[str, Any]] = {"alpha": 1.0}
    operations_per_element = 1

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the activation."""
        x = arrays[0]
        return np.asarray(np.where(x > attributes["alpha"], x, 0))

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return default and other parameters."""
        return [*super().samples(), Sample((floats(2, 9),), {"alpha": 0.3}, name="parameters")]


class Elu(Unary):
    """x where x >= 0, else alpha * (exp(x) - 1)."""

    name = "Elu"
    attributes: ClassVar[Mapping[str, Any]] = {"alpha": 1.0}
    operations_per_element = 18

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the activation."""
        x = arrays[0]
        return np.asarray(np.where(x >= 0, x, attributes["alpha"] * np.expm1(x)))

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return default and other parameters."""
        return [*super().samples(), Sample((floats(2, 9),), {"alpha": 0.3}, name="parameters")]


class Selu(Unary):
    """gamma * x where x > 0, else gamma * alpha * (exp(x) - 1)."""

    name = "Selu"
    attributes: ClassVar[Mapping[str, Any]] = {"alpha": 1.6732632, "gamma": 1.050701}
    operations_per_element = 18

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the activation."""
        x, alpha, gamma = arrays[0], attributes["alpha"], attributes["gamma"]
        return np.asarray(np.where(x > 0, gamma * x, gamma * alpha * np.expm1(x)))

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return default and other parameters."""
        return [
            *super().samples(),
            Sample((floats(2, 9),), {"alpha": 1.5, "gamma": 2.0}, name="parameters"),
        ]


class Celu(Unary):
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."""

    name = "Celu"
    attributes: ClassVar[Mapping[str, Any]] = {"alpha": 1.0}
    operations_per_element = 18

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the activation."""
        x, alpha = arrays[0], attributes["alpha"]
        return np.asarray(np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha)))

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return default and other parameters."""
        return [*super().samples(), Sample((floats(2, 9),), {"alpha": 0.5}, name="parameters")]


class Sigmoid(Unary):
    """1 / (1 + exp(-x))."""

    name = "Sigmoid"
    operations_per_element = 20

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the activation."""
        return sigmoid(arrays[0])


class HardSigmoid(Unary):
    """max(0, min(1, alpha * x + beta))."""

    name = "HardSigmoid"
    attributes: ClassVar[Mapping[str, Any]] = {"alpha": 0.2, "beta": 0.5}
    operations_per_element = 3

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the activation."""
        scaled = attributes["alpha"] * arrays[0] + attributes["beta"]
        return np.asarray(np.clip(scaled, 0, 1))

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return default and other parameters."""
        return [
            *super().samples(),
            Sample((floats(2, 9),), {"alpha": 0.4, "beta": 0.1}, name="parameters"),
        ]


class HardSwish(Unary):
    """x * max(0, min(1, x / 6 + 0.5))."""

    name = "HardSwish"
    operations_per_element = 4

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the activation."""
        return np.asarray(arrays[0] * np.clip(arrays[0] / 6 + 0.5, 0, 1))


class Softplus(Unary):
    """log(1 + exp(x))."""

    name = "Softplus"
    operations_per_element = 30

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the activation."""
        return np.asarray(np.logaddexp(arrays[0], 0))


class Softsign(Unary):
    """x / (1 + |x|)."""

    name = "Softsign"
    operations_per_element = 6

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the activation."""
        return np.asarray(arrays[0] / (1 + np.abs(arrays[0])))


class Mish(Unary):
    """x * tanh(log(1 + exp(x)))."""

    name = "Mish"
    operations_per_element = 50

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the activation."""
        return np.asarray(arrays[0] * np.tanh(np.logaddexp(arrays[0], 0)))


class Gelu(Unary):
    """x * P(X <= x) for a standard normal X; `approximate` is "none" (erf) or "tanh"."""

    name = "Gelu"
    attributes: ClassVar[Mapping[str, Any]] = {"approximate": "none"}
    operations_per_element = 28

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the activation."""
        x = arrays[0]
        if attributes["approximate"] == "tanh":
            cubic = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
            return np.asarray(0.5 * x * (1 + np.tanh(cubic)))
        return np.asarray(0.5 * x * (1 + erf(x / np.sqrt(2))))

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return default and other parameters."""
        return [
            *super().samples(),
            Sample((floats(2, 9),), {"approximate": "tanh"}, name="parameters"),
        ]


class Swish(Unary):
    """x * sigmoid(alpha * x); with alpha = 1 it is SiLU."""

    name = "Swish"
    attributes: ClassVar[Mapping[str, Any]] = {"alpha": 1.0}
    operations_per_element = 22

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the activation."""
        return np.asarray(arrays[0] * sigmoid(attributes["alpha"] * arrays[0]))

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return default and other parameters."""
        return [*super().samples(), Sample((floats(2, 9),), {"alpha": 1.702}, name="parameters")]


class Shrink(Unary):
    """x + bias below -lambd, x - bias above lambd, else 0."""

    name = "Shrink"
    attributes: ClassVar[Mapping[str, Any]] = {"bias": 0.0, "lambd": 0.5}
    operations_per_element = 3

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the activation."""
        x, bias, limit = arrays[0], attributes["bias"], attributes["lambd"]
        return np.where(x < -limit, x + bias, np.where(x > limit, x - bias, 0))

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return default and other parameters."""
        return [
            *super().samples(),
            Sample((floats(2, 9),), {"bias": 0.5, "lambd": 1.0}, name="parameters"),
        ]
