"""Pointwise functions of one tensor: roots, exponentials, rounding, trigonometry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planish.ir.graph import Node
from planish.ir.shape import Dim
from planish.ops.content import bounds, ranges_of
from planish.ops.elementwise import Unary
from planish.ops.error_function import erf
from planish.ops.op import Array, Attributes, Sample
from planish.ops.sample_data import f32, whole


class Neg(Unary):
    """-x."""

    name = "Neg"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return -x."""
        return np.asarray(-arrays[0])

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return -x."""
        return -operands[0]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return floats and integers."""
        return [*super().samples(), Sample((whole(2, 3),), name="i64")]


class Abs(Unary):
    """Magnitude of x."""

    name = "Abs"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return |x|."""
        return np.asarray(np.abs(arrays[0]))

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return |x| where its sign is known."""
        low, high = bounds(operands[0], ranges_of(node))
        return operands[0] if low >= 0 else -operands[0] if high <= 0 else None

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return floats and integers."""
        return [*super().samples(), Sample((whole(2, 3, dtype=np.int8),), name="i8")]


class Sign(Unary):
    """-1, 0 or 1 by the sign of x."""

    name = "Sign"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the sign."""
        return np.asarray(np.sign(arrays[0]))

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return floats and integers with zeros."""
        zeros = f32([[0.0, -0.0, 2.0], [-3.0, np.inf, 1e-30]])
        return [*super().samples(), Sample((zeros,), name="zeros"), Sample((whole(9),), name="i64")]


class Rounding(Unary):
    """Base: functions that leave whole numbers as they are."""

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return the extent itself: contents are whole numbers."""
        return operands[0]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return random numbers and every half from -3 to 3."""
        halves = np.arange(-3, 3.5, 0.5, dtype=np.float32)
        return [*super().samples(), Sample((halves,), name="halves")]


class Floor(Rounding):
    """Largest whole number not above x."""

    name = "Floor"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the rounded numbers."""
        return np.asarray(np.floor(arrays[0]))


class Ceil(Rounding):
    """Smallest whole number not below x."""

    name = "Ceil"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the rounded numbers."""
        return np.asarray(np.ceil(arrays[0]))


class Round(Rounding):
    """Nearest whole number; halves go to the even neighbour."""

    name = "Round"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the rounded numbers."""
        return np.asarray(np.rint(arrays[0]))


class Sqrt(Unary):
    """Square root; NaN for negative numbers."""

    name = "Sqrt"
    domain = (0.0, 9.0)
    operations_per_element = 6

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the function of x."""
        return np.asarray(np.sqrt(arrays[0]))


class Exp(Unary):
    """e ** x."""

    name = "Exp"
    operations_per_element = 16

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the function of x."""
        return np.asarray(np.exp(arrays[0]))


class Log(Unary):
    """Natural logarithm."""

    name = "Log"
    domain = (0.05, 9.0)
    operations_per_element = 16

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the function of x."""
        return np.asarray(np.log(arrays[0]))


class Reciprocal(Unary):
    """1 / x."""

    name = "Reciprocal"
    domain = (0.5, 3.0)
    operations_per_element = 4

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the function of x."""
        return np.asarray(1 / arrays[0])


class Erf(Unary):
    """Error function, 2 / sqrt(pi) times the integral of exp(-t * t) from 0 to x."""

    name = "Erf"
    operations_per_element = 24

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the function of x."""
        return np.asarray(erf(arrays[0]))


class Sin(Unary):
    """Sine of an angle in radians."""

    name = "Sin"
    operations_per_element = 20

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the function of x."""
        return np.asarray(np.sin(arrays[0]))


class Cos(Unary):
    """Cosine of an angle in radians."""

    name = "Cos"
    operations_per_element = 20

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the function of x."""
        return np.asarray(np.cos(arrays[0]))


class Tan(Unary):
    """Tangent of an angle in radians."""

    name = "Tan"
    domain = (-1.4, 1.4)
    operations_per_element = 30

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the function of x."""
        return np.asarray(np.tan(arrays[0]))


class Asin(Unary):
    """Inverse sine."""

    name = "Asin"
    domain = (-1.0, 1.0)
    operations_per_element = 20

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the function of x."""
        return np.asarray(np.arcsin(arrays[0]))


class Acos(Unary):
    """Inverse cosine."""

    name = "Acos"
    domain = (-1.0, 1.0)
    operations_per_element = 20

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the function of x."""
        return np.asarray(np.arccos(arrays[0]))


class Atan(Unary):
    """Inverse tangent."""

    name = "Atan"
    operations_per_element = 20

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the function of x."""
        return np.asarray(np.arctan(arrays[0]))


class Sinh(Unary):
    """Hyperbolic sine."""

    name = "Sinh"
    operations_per_element = 20

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the function of x."""
        return np.asarray(np.sinh(arrays[0]))


class Cosh(Unary):
    """Hyperbolic cosine."""

    name = "Cosh"
    operations_per_element = 20

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the function of x."""
        return np.asarray(np.cosh(arrays[0]))


class Tanh(Unary):
    """Hyperbolic tangent."""

    name = "Tanh"
    operations_per_element = 20

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the function of x."""
        return np.asarray(np.tanh(arrays[0]))


class Asinh(Unary):
    """Inverse hyperbolic sine."""

    name = "Asinh"
    operations_per_element = 20

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the function of x."""
        return np.asarray(np.arcsinh(arrays[0]))


class Acosh(Unary):
    """Inverse hyperbolic cosine."""

    name = "Acosh"
    domain = (1.0, 9.0)
    operations_per_element = 20

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the function of x."""
        return np.asarray(np.arccosh(arrays[0]))


class Atanh(Unary):
    """Inverse hyperbolic tangent."""

    name = "Atanh"
    domain = (-0.95, 0.95)
    operations_per_element = 20

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the function of x."""
        return np.asarray(np.arctanh(arrays[0]))
