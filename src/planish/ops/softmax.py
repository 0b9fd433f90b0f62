"""Softmax and its relatives: normalised exponentials along one axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from planish.ir.graph import Node
from planish.ops.numeric import narrow, random_array, required, widen
from planish.ops.op import Array, Attributes, Inferred, Inputs, Op, Sample, normalize_axis


def softmax(x: Array, axis: int) -> Array:
    """Return exp(x) / sum(exp(x)) along `axis`, shifted by the maximum so that nothing overflows.

    A slice of minus infinities gives NaN, as the formula does.
    """
    with np.errstate(invalid="ignore"):
        powers: Array = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
        return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


class _AlongAxis(Op):
    """Base: same type out as in, `axis` may be negative."""

    attributes: ClassVar[Mapping[str, Any]] = {"axis": -1}
    operations_per_element = 5

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the input's type."""
        x = node.present_inputs[0]
        if x.shape is not None:
            normalize_axis(node.attributes["axis"], len(x.shape), node)
        return [Inferred(x.dtype, x.shape)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover axes from both ends and large magnitudes."""
        x = random_array(1, 2, 3, 5)
        return [
            Sample((x,)),
            Sample((x,), {"axis": 1}, name="middle"),
            Sample((x,), {"axis": -3}, name="first"),
            Sample((random_array(2, 4, 7) * 100,), name="large"),
            Sample((random_array(3, 9),), {"axis": 0}, name="vector"),
        ]


class Softmax(_AlongAxis):
    """exp(x) / sum(exp(x)) along one axis."""

    name = "Softmax"

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Compute in float32 at least."""
        x = required(inputs, 0)
        return [narrow(softmax(widen(x), attributes["axis"]), x)]


class LogSoftmax(_AlongAxis):
    """x - log(sum(exp(x))) along one axis."""

    name = "LogSoftmax"

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Shift by the maximum; compute in float32 at least."""
        x, axis = required(inputs, 0), attributes["axis"]
        wide = widen(x)
        shifted = wide - wide.max(axis=axis, keepdims=True, initial=-np.inf)
        return [narrow(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)), x)]


class Hardmax(_AlongAxis):
    """One at the first maximum along one axis, zero elsewhere."""

    name = "Hardmax"
    operations_per_element = 1

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Mark numpy's argmax."""
        x, axis = required(inputs, 0), attributes["axis"]
        out = np.zeros_like(x)
        np.put_along_axis(out, np.expand_dims(x.argmax(axis=axis), axis), 1, axis)
        return [out]
