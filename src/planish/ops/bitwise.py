"""Pointwise operations on the bits of integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from planish.ops.elementwise import Binary, Unary
from planish.ops.op import REQUIRED, Array, Attributes, Sample
from planish.ops.sample_data import whole


class Bitwise(Binary):
    """Base: two integer tensors of one type."""

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return signed and unsigned integers."""
        a, b = whole(2, 3, 4), whole(3, 1, seed=1)
        small = whole(2, 3, 4, low=0, high=256, dtype=np.uint8)
        return [
            Sample((a, b), name="i64"),
            Sample((a.astype(np.int32), b.astype(np.int32)), name="i32"),
            Sample((small[0, 0], small), name="u8"),
        ]


class BitwiseAnd(Bitwise):
    """Bits set in both operands."""

    name = "BitwiseAnd"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return a & b."""
        return np.asarray(arrays[0] & arrays[1])


class BitwiseOr(Bitwise):
    """Bits set in at least one operand."""

    name = "BitwiseOr"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return a | b."""
        return np.asarray(arrays[0] | arrays[1])


class BitwiseXor(Bitwise):
    """Bits set in exactly one operand."""

    name = "BitwiseXor"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return a ^ b."""
        return np.asarray(arrays[0] ^ arrays[1])


class BitwiseNot(Unary):
    """Every bit inverted."""

    name = "BitwiseNot"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return ~x."""
        return np.asarray(~arrays[0])

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return signed and unsigned integers."""
        return [
            Sample((whole(2, 3),), name="i64"),
            Sample((whole(2, 3, low=0, high=256, dtype=np.uint8),), name="u8"),
        ]


class BitShift(Binary):
    """Unsigned integers shifted by whole bits; `direction` is "LEFT" or "RIGHT"."""

    name = "BitShift"
    attributes: ClassVar[Mapping[str, Any]] = {"direction": REQUIRED}

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return x << n or x >> n."""
        shift = np.left_shift if attributes["direction"] == "LEFT" else np.right_shift
        return np.asarray(shift(arrays[0], arrays[1]))

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return both directions."""
        x = whole(2, 4, low=0, high=200, dtype=np.uint32)
        n = np.array([0, 1, 3, 9], dtype=np.uint32)
        return [
            Sample((x, n), {"direction": "LEFT"}, name="left"),
            Sample((x, n), {"direction": "RIGHT"}, name="right"),
        ]
