"""Pointwise arithmetic with several operands: Add, Sub, Mul, Div, Pow, Mod, Max, Min, Mean, Sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, ClassVar

import numpy as np

from planish.ir.dtypes import BF16
from planish.ir.graph import Node
from planish.ir.shape import Dim, mod
from planish.ops.content import bounds, larger, ranges_of, smaller
from planish.ops.elementwise import Binary, Pointwise
from planish.ops.numeric import widen
from planish.ops.op import Array, Attributes, Inputs, Sample
from planish.ops.sample_data import f32, floats, whole


def _whole_pairs(low: int = -9) -> list[Sample]:
    """Return samples of whole numbers; the second operand is never zero."""
    divisors = np.array([1, 2, 3, 7, 5, 4], dtype=np.int64)
    signs = np.array([1, -1, -1, 1, 1, -1], dtype=np.int64) if low < 0 else 1
    divisor = (divisors * signs).reshape(2, 3)
    return [
        Sample((whole(2, 3, low=low), divisor), name="i64"),
        Sample((whole(4, 2, 3, low=low, dtype=np.int32), divisor.astype(np.int32)), name="i32"),
    ]


class Add(Binary):
    """Sum of two tensors, broadcast."""

    name = "Add"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return a + b."""
        return np.asarray(arrays[0] + arrays[1])

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return a + b."""
        return operands[0] + operands[1]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return float and integer sums."""
        return super().samples() + _whole_pairs()


class Sub(Binary):
    """Difference of two tensors, broadcast."""

    name = "Sub"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return a - b."""
        return np.asarray(arrays[0] - arrays[1])

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return a - b."""
        return operands[0] - operands[1]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return float and integer differences."""
        return super().samples() + _whole_pairs()


class Mul(Binary):
    """Product of two tensors, element by element, broadcast."""

    name = "Mul"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return a * b."""
        return np.asarray(arrays[0] * arrays[1])

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return a * b."""
        return operands[0] * operands[1]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return float and integer products."""
        return super().samples() + _whole_pairs()


class Div(Binary):
    """Quotient of two tensors, broadcast; of integers, rounded toward zero."""

    name = "Div"
    operations_per_element = 4

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return a / b."""
        a, b = arrays
        if a.dtype.kind not in "iu":
            return np.asarray(a / b)
        floor = np.floor_divide(a, b)
        inexact_negative = (np.remainder(a, b) != 0) & ((a < 0) != (b < 0))
        return np.asarray(floor + inexact_negative.astype(a.dtype))

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return a / b where it is whole, or where floor is truncation (no negative operand)."""
        a, b = operands
        if b == 0:
            return None
        if mod(a, b) == 0:
            return a // b
        if cls.result_type(node).is_float:
            return None
        if isinstance(a, int) and isinstance(b, int):
            return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        ranges = ranges_of(node)
        positive = bounds(a, ranges)[0] >= 0 and bounds(b, ranges)[0] > 0
        return a // b if positive else None

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return float quotients and integer ones of both signs; divisors away from zero."""
        divisor = floats(2, 3, 4, low=0.5, seed=1)
        return [
            Sample((floats(2, 3, 4), divisor), name="same"),
            Sample((floats(2, 3, 4), divisor[0, :, :1]), name="broadcast_right"),
            Sample((floats(4), -divisor), name="broadcast_left"),
            Sample((floats(2, 3), floats(low=0.5, seed=1)), {}, (1,), name="scalar"),
            Sample(
                (floats(2, 3, dtype=BF16.numpy), divisor[0, 0, :3].astype(BF16.numpy)), name="bf16"
            ),
            *_whole_pairs(),
            Sample(
                (whole(3, low=0, dtype=np.uint8), whole(3, low=1, dtype=np.uint8, seed=1)),
                name="u8",
            ),
        ]


class Mod(Binary):
    """Remainder: of integers with the divisor's sign, or C's fmod where `fmod` is 1."""

    name = "Mod"
    attributes: ClassVar[Mapping[str, Any]] = {"fmod": 0}
    operations_per_element = 4

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return a mod b."""
        if attributes["fmod"]:
            return np.asarray(np.fmod(arrays[0], arrays[1]))
        return np.asarray(np.mod(arrays[0], arrays[1]))

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return a mod b; both kinds are the same where no operand is negative."""
        a, b = operands
        ranges = ranges_of(node)
        if bounds(b, ranges)[0] <= 0 or (node.attributes["fmod"] and bounds(a, ranges)[0] < 0):
            return None
        return mod(a, b)

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return integers of both signs and fmod of floats and integers."""
        pairs = _whole_pairs()
        fmod = {"fmod": 1}
        return [
            *pairs,
            Sample(pairs[0].inputs, fmod, name="i64_fmod"),
            Sample((floats(2, 3, low=-9, high=9), floats(3, low=0.5, seed=1)), fmod, name="fmod"),
        ]


class Pow(Pointwise):
    """Power `base ** exponent`, broadcast; the exponent may have another type than the base."""

    name = "Pow"
    same_types = False
    operations_per_element = 20

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return a ** b in a float type wide enough for both, or in integers for integers."""
        a, b = arrays
        if a.dtype.kind in "iu" and b.dtype.kind in "iu" and (b.size == 0 or b.min() >= 0):
            return np.asarray(np.power(a, b.astype(a.dtype)))
        wide = np.float32 if a.dtype == np.float32 and b.dtype == np.float32 else np.float64
        return np.asarray(np.power(a.astype(wide), b.astype(wide)))

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return a ** b for a small whole exponent."""
        base, exponent = operands
        if not isinstance(exponent, int) or not 0 <= exponent <= 4:
            return None
        return reduce(lambda power, _: power * base, range(exponent), 1)  # type: ignore[arg-type, return-value]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return whole and fractional exponents and mixed types."""
        base = floats(2, 3, 4, low=0.1)
        return [
            Sample((base, floats(4, seed=1)), name="fractional"),
            Sample((floats(2, 3), f32(2.0)), {}, (1,), name="square"),
            Sample((floats(2, 3), np.array([3], dtype=np.int64)), {}, (1,), name="cube_i64"),
            Sample((base, f32(0.5)), {}, (1,), name="root"),
            Sample((whole(2, 3), whole(3, low=0, high=4, seed=1)), name="i64"),
            Sample((whole(2, 3, dtype=np.int32), f32([2.0])), {}, (1,), name="i32_f32"),
            Sample((base.astype(BF16.numpy), np.array(2.0, BF16.numpy)), name="bf16"),
        ]


class Variadic(Pointwise):
    """Base: one or more tensors of one type, broadcast against each other."""

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return one, two and three operands."""
        bf16 = BF16.numpy
        return [
            Sample((floats(2, 3),), name="one"),
            Sample((floats(2, 3, 4), floats(3, 1, seed=1)), name="two"),
            Sample((floats(4), floats(2, 3, 4, seed=1), floats(2, 1, 1, seed=2)), name="three"),
            Sample((floats(2, 3, dtype=bf16), floats(3, dtype=bf16, seed=1)), name="bf16"),
        ]


class Max(Variadic):
    """Largest of the operands, element by element; NaN where one is NaN."""

    name = "Max"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the maximum."""
        return np.asarray(reduce(np.maximum, arrays))

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return the maximum."""
        return reduce(lambda a, b: larger(a, b, ranges_of(node)), operands)

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return floats with a NaN, and integers."""
        nan = f32([1.0, np.nan, -1.0])
        return [
            *super().samples(),
            Sample((nan, floats(2, 3)), name="nan"),
            Sample((whole(2, 3), whole(3, seed=1)), name="i64"),
        ]


class Min(Variadic):
    """Smallest of the operands, element by element; NaN where one is NaN."""

    name = "Min"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the minimum."""
        return np.asarray(reduce(np.minimum, arrays))

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return the minimum."""
        return reduce(lambda a, b: smaller(a, b, ranges_of(node)), operands)

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return floats with a NaN, and integers."""
        nan = f32([1.0, np.nan, -1.0])
        return [
            *super().samples(),
            Sample((nan, floats(2, 3)), name="nan"),
            Sample((whole(2, 3), whole(3, seed=1)), name="i64"),
        ]


class Sum(Variadic):
    """Sum of any number of operands, broadcast."""

    name = "Sum"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the sum, added from left to right."""
        return np.asarray(reduce(np.add, arrays))


class Mean(Variadic):
    """Mean of any number of operands, broadcast."""

    name = "Mean"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the sum divided by the number of operands."""
        return np.asarray(reduce(np.add, arrays) / len(arrays))


class PRelu(Pointwise):
    """x where x >= 0, else slope * x; the slope is broadcast to x, never the other way."""

    name = "PRelu"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the activation."""
        x, slope = arrays
        return np.where(x >= 0, x, x * slope)

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return a slope for each channel, one for all, and one for each element."""
        x = floats(2, 3, 4, 4)
        return [
            Sample((x, floats(3, 1, 1, low=0, seed=1)), {}, (1,), name="per_channel"),
            Sample((x, floats(1, low=0, seed=1)), {}, (1,), name="shared"),
            Sample((x, floats(2, 3, 4, 4, seed=1)), name="full"),
        ]


class Clip(Pointwise):
    """min(max(x, low), high); an absent limit (input 1 or 2) does not bind."""

    name = "Clip"

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Return the clipped tensor."""
        x = inputs[0]
        if x is None:
            raise ValueError("Clip needs its first input")
        result = widen(x)
        for limit, choose in zip(inputs[1:3], (np.maximum, np.minimum), strict=False):
            if limit is not None:
                result = choose(result, widen(limit))
        return [np.asarray(result).astype(x.dtype, copy=False)]

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return x between both limits."""
        return np.asarray(np.minimum(np.maximum(arrays[0], arrays[1]), arrays[2]))

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return the clipped extent; `operands` holds the present inputs only."""
        result, ranges = operands[0], ranges_of(node)
        rest = iter(operands[1:])
        if node.input(1) is not None:
            result = larger(result, next(rest), ranges)
        if node.input(2) is not None:
            result = smaller(result, next(rest), ranges)
        return result

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return both limits, either one, none, and other types."""
        x = floats(2, 3, 4)
        low, high = np.array(-1.0, np.float32), np.array(1.5, np.float32)
        integers = (whole(2, 3, dtype=np.int32), np.array(-2, np.int32), np.array(5, np.int32))
        return [
            Sample((x, low, high), {}, (1, 2), name="both"),
            Sample((x, low), {}, (1,), name="low"),
            Sample((x, None, high), {}, (2,), name="high"),
            Sample((x,), name="none"),
            Sample((x, low, high), name="dynamic"),
            Sample(integers, {}, (1, 2), name="i32"),
            Sample(tuple(a.astype(np.float16) for a in (x, low, high)), {}, (1, 2), name="f16"),
        ]
