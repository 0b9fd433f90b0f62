"""Comparisons, boolean logic, and selection; results are booleans except for Where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.dtypes import BOOL, DType
from planish.ir.graph import Node
from planish.ir.shape import Dim
from planish.ops.content import equal, less, ranges_of
from planish.ops.elementwise import Binary, Pointwise, Unary
from planish.ops.op import Array, Attributes, Inferred, Inputs, Sample
from planish.ops.sample_data import f32, floats, truths, whole


def _truth(known: bool | None) -> Dim | None:
    """Return a truth value as contents hold it."""
    return None if known is None else int(known)


def _not(known: bool | None) -> bool | None:
    return None if known is None else not known


class Comparison(Binary):
    """Base: two tensors of one type give booleans."""

    @classmethod
    def result_type(cls, node: Node) -> DType:
        """Return bool."""
        return BOOL

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Compare the elements as they are."""
        arrays = [array for array in inputs if array is not None]
        return [np.asarray(cls.compute(arrays, attributes)).astype(np.bool_)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return float and integer comparisons with equal pairs and a NaN."""
        left, right = whole(2, 3, 4, low=0, high=4), whole(3, 1, low=0, high=4, seed=1)
        nan = f32([1.0, np.nan, np.inf, 2.0])
        return [
            Sample((left, right), name="i64"),
            Sample((left.astype(np.float32), right.astype(np.float32)), name="f32"),
            Sample((nan, f32([1.0, np.nan, np.inf, 3.0])), name="nan"),
            Sample((floats(4), floats(2, 3, 4, seed=1)), name="broadcast_left"),
        ]


class Equal(Comparison):
    """Whether a == b, also for strings."""

    name = "Equal"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the truth of the comparison."""
        return np.asarray(arrays[0] == arrays[1])

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return 0 or 1 where bounds of the extents decide."""
        return _truth(equal(operands[0], operands[1], ranges_of(node)))

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return numbers, booleans and strings."""
        words = np.array(["a", "b", "b"], dtype=object), np.array(["a", "c", "b"], dtype=object)
        return [
            *super().samples(),
            Sample((truths(2, 3), truths(3, seed=1)), name="bool"),
            Sample(words, name="string"),
        ]


class Less(Comparison):
    """Whether a < b."""

    name = "Less"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the truth of the comparison."""
        return np.asarray(arrays[0] < arrays[1])

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return 0 or 1 where bounds of the extents decide."""
        return _truth(less(operands[0], operands[1], ranges_of(node)))


class LessOrEqual(Comparison):
    """Whether a <= b."""

    name = "LessOrEqual"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the truth of the comparison."""
        return np.asarray(arrays[0] <= arrays[1])

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return 0 or 1 where bounds of the extents decide."""
        return _truth(_not(less(operands[1], operands[0], ranges_of(node))))


class Greater(Comparison):
    """Whether a > b."""

    name = "Greater"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the truth of the comparison."""
        return np.asarray(arrays[0] > arrays[1])

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return 0 or 1 where bounds of the extents decide."""
        return _truth(less(operands[1], operands[0], ranges_of(node)))


class GreaterOrEqual(Comparison):
    """Whether a >= b."""

    name = "GreaterOrEqual"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the truth of the comparison."""
        return np.asarray(arrays[0] >= arrays[1])

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return 0 or 1 where bounds of the extents decide."""
        return _truth(_not(less(operands[0], operands[1], ranges_of(node))))


class Logic(Binary):
    """Base: two boolean tensors give a boolean one."""

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return equal and broadcast shapes."""
        return [
            Sample((truths(2, 3, 4), truths(2, 3, 4, seed=1))),
            Sample((truths(2, 3, 4), truths(3, 1, seed=1)), name="broadcast_right"),
            Sample((truths(4), truths(2, 3, 4, seed=1)), name="broadcast_left"),
        ]


class And(Logic):
    """Whether both are true."""

    name = "And"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the truth value."""
        return np.asarray(arrays[0] & arrays[1])

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return 0 or 1 where the operands decide."""
        if 0 in operands:
            return 0
        return 1 if tuple(operands) == (1, 1) else None


class Or(Logic):
    """Whether at least one is true."""

    name = "Or"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the truth value."""
        return np.asarray(arrays[0] | arrays[1])

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return 0 or 1 where the operands decide."""
        if 1 in operands:
            return 1
        return 0 if tuple(operands) == (0, 0) else None


class Xor(Logic):
    """Whether exactly one is true."""

    name = "Xor"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the truth value."""
        return np.asarray(arrays[0] ^ arrays[1])

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return 0 or 1 where the operands decide."""
        a, b = operands
        return a ^ b if isinstance(a, int) and isinstance(b, int) else None


class Not(Unary):
    """Whether the operand is false."""

    name = "Not"

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the negation."""
        return np.asarray(~arrays[0])

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return 1 - x."""
        return 1 - operands[0]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return a tensor and a scalar."""
        return [Sample((truths(2, 3),)), Sample((truths(),), name="scalar")]


class IsNaN(Unary):
    """Whether x is not a number."""

    name = "IsNaN"

    @classmethod
    def result_type(cls, node: Node) -> DType:
        """Return bool."""
        return BOOL

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Return the truth values."""
        return [
            np.asarray(cls.compute([array for array in inputs if array is not None], attributes))
        ]

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return where x differs from itself."""
        return np.asarray(arrays[0] != arrays[0])

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return 0: contents are whole numbers."""
        return 0

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return NaN among infinities, in two types."""
        special = f32([1.0, np.nan, np.inf, -np.inf])
        return [Sample((special,)), Sample((special.astype(np.float16),), name="f16")]


class IsInf(Unary):
    """Whether x is infinite; the attributes select the signs that count."""

    name = "IsInf"
    attributes: ClassVar[Mapping[str, Any]] = {"detect_negative": 1, "detect_positive": 1}

    @classmethod
    def result_type(cls, node: Node) -> DType:
        """Return bool."""
        return BOOL

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Return the truth values."""
        return [
            np.asarray(cls.compute([array for array in inputs if array is not None], attributes))
        ]

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return where x is an infinity of a selected sign."""
        x = arrays[0]
        found = np.zeros(x.shape, dtype=np.bool_)
        if attributes["detect_positive"]:
            found |= x == np.inf
        if attributes["detect_negative"]:
            found |= x == -np.inf
        return found

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return both signs and each one."""
        special = f32([[1.0, np.nan], [np.inf, -np.inf]])
        return [
            Sample((special,)),
            Sample((special,), {"detect_negative": 0}, name="positive"),
            Sample((special,), {"detect_positive": 0}, name="negative"),
        ]


class Where(Pointwise):
    """x where the condition (input 0) is true, else y; all three broadcast."""

    name = "Where"
    same_types = False

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the broadcast of all three shapes; x and y must have one type."""
        _, x, y = node.present_inputs
        if x.dtype != y.dtype:
            raise ShapeError(f"Where selects between {x.dtype} and {y.dtype}", where=str(node))
        return super().infer(node)

    @classmethod
    def result_type(cls, node: Node) -> DType:
        """Return the type of x."""
        return node.present_inputs[1].dtype

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return the selected extent where the condition is known or does not matter."""
        condition, x, y = operands
        if x == y:
            return x
        return (x if condition else y) if isinstance(condition, int) else None

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Select element by element."""
        condition, x, y = (np.asarray(array) for array in inputs)
        return [np.where(condition, x, y).astype(x.dtype, copy=False)]

    @classmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Select element by element."""
        return np.where(arrays[0], arrays[1], arrays[2])

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return equal and broadcast shapes of floats, integers and booleans."""
        x, y = floats(2, 3, 4), floats(2, 3, 4, seed=1)
        low = f32(-1e9)
        return [
            Sample((truths(2, 3, 4), x, y), name="same"),
            Sample((truths(3, 1), x, low), {}, (2,), name="mask"),
            Sample((truths(2, 3, 4), floats(4), floats(3, 1, seed=1)), name="condition_largest"),
            Sample((truths(3), whole(2, 3), whole(3, seed=1)), name="i64"),
        ]
