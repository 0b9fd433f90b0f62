"""Base classes of pointwise operators: broadcast inference, float32 arithmetic for half types."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.dtypes import BF16, BOOL, DType
from planish.ir.graph import Node
from planish.ir.shape import Dim
from planish.ops.content import content_array, object_array, to_content
from planish.ops.numeric import widen
from planish.ops.op import Array, Attributes, Inferred, Inputs, Op, Sample, broadcast
from planish.ops.sample_data import floats


class Pointwise(Op):
    """Base: outputs have the broadcast shape of the inputs and, unless overridden, their dtype."""

    pointwise = True
    same_types: ClassVar[bool] = True

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the broadcast shape; contents where `symbolic` can express every element."""
        values = node.present_inputs
        if not values:
            raise ShapeError(f"{cls.name} needs at least one input", where=str(node))
        if cls.same_types and len({value.dtype for value in values}) > 1:
            types = ", ".join(str(value.dtype) for value in values)
            raise ShapeError(f"inputs of {cls.name} have different types: {types}", where=str(node))
        shapes = [value.shape for value in values if value.shape is not None]
        if len(shapes) < len(values):
            return [Inferred(cls.result_type(node), None)]
        shape = broadcast(shapes, str(node))
        return [Inferred(cls.result_type(node), shape, cls._content(node))]

    @classmethod
    def result_type(cls, node: Node) -> DType:
        """Return the output's dtype: the first input's."""
        return node.present_inputs[0].dtype

    @classmethod
    def symbolic(cls, operands: Sequence[Dim], node: Node) -> Dim | None:
        """Return one element of the result where operands are extents; None if inexpressible."""
        return None

    @classmethod
    def _content(cls, node: Node) -> tuple[Dim, ...] | None:
        if getattr(cls.symbolic, "__func__", None) is Pointwise.symbolic.__func__:  # type: ignore[attr-defined]
            return None
        dtype = cls.result_type(node)
        if dtype.bits < 32 and dtype is not BOOL:
            return None  # such a type may round or wrap around
        arrays = [content_array(value) for value in node.present_inputs]
        known = [array for array in arrays if array is not None]
        if len(known) < len(arrays):
            return None
        flat = [array.reshape(-1).tolist() for array in np.broadcast_arrays(*known)]
        return to_content(
            object_array(cls.symbolic(items, node) for items in zip(*flat, strict=True))
        )

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Compute in float32 where the inputs are narrower, then round once."""
        present = [array for array in inputs if array is not None]
        with np.errstate(all="ignore"):  # infinities and NaN are results like others
            result = cls.compute([widen(array) for array in present], attributes)
        return [np.asarray(result).astype(present[0].dtype, copy=False)]

    @classmethod
    @abstractmethod
    def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
        """Return the result for present inputs of at least 32 bits (or integers)."""


class Unary(Pointwise):
    """Base: one float tensor in, one out."""

    domain: ClassVar[tuple[float, float]] = (-3.0, 3.0)  # of the generated samples

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return a tensor, a scalar, and the two half types."""
        low, high = cls.domain

        def data(*shape: int, dtype: Any = np.float32) -> Array:
            return floats(*shape, low=low, high=high, dtype=dtype)

        return [
            Sample((data(2, 3, 5),)),
            Sample((data(),), name="scalar"),
            Sample((data(2, 7, dtype=BF16.numpy),), name="bf16"),
            Sample((data(2, 7, dtype=np.float16),), name="f16"),
        ]


class Binary(Pointwise):
    """Base: two tensors of one type, broadcast against each other."""

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return equal shapes, both broadcast directions, a scalar, and the half types."""
        bf16 = BF16.numpy
        return [
            Sample((floats(2, 3, 4), floats(2, 3, 4, seed=1)), name="same"),
            Sample((floats(2, 3, 4), floats(3, 1, seed=1)), name="broadcast_right"),
            Sample((floats(4), floats(2, 3, 4, seed=1)), name="broadcast_left"),
            Sample((floats(2, 1, 4), floats(3, 1, seed=1)), {}, (1,), name="both"),
            Sample((floats(2, 3), floats(seed=1)), {}, (1,), name="scalar"),
            Sample((floats(2, 3, dtype=bf16), floats(3, dtype=bf16, seed=1)), name="bf16"),
        ]
