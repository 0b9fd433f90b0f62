"""ONNX Runtime's normalizations: residual additions fused in, and the simplified (RMS) forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from planish.ir.graph import Node
from planish.ir.requirement import Requirement, broadcasts
from planish.ir.shape import Shape
from planish.ops.normalization import (
    divide_by_rms,
    standardize,
    trailing_samples,
    trailing_statistics_shape,
)
from planish.ops.numeric import narrow, optional, random_array, required, wide_dtype, widen
from planish.ops.op import Array, Attributes, Inferred, Inputs, Op, Sample, broadcast


class SimplifiedLayerNormalization(Op):
    """x / sqrt(mean(x^2) + epsilon) over the axes from `axis` on, times a scale.

    The optional second output is 1 / sqrt(mean(x^2) + epsilon).
    """

    name = "SimplifiedLayerNormalization"
    attributes: ClassVar[Mapping[str, Any]] = {"axis": -1, "epsilon": 1e-5, "stash_type": 1}
    operations_per_element = 5

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return types of the result and of the factor."""
        x = node.present_inputs[0]
        factor = Inferred(wide_dtype(x.dtype), trailing_statistics_shape(node))
        return [Inferred(x.dtype, x.shape), factor]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that every operand broadcasts to x."""
        return _skip_requirements(node)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Compute in float32 at least."""
        x, scale = required(inputs, 0), required(inputs, 1)
        normal, inverse = divide_by_rms(widen(x), attributes["axis"], attributes["epsilon"])
        return [narrow(normal * widen(scale), x), inverse]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover axes, epsilon and the factor."""
        return trailing_samples(bias=False, outputs=2)


def _skip_types(node: Node) -> list[Inferred]:
    x, skip = node.present_inputs[:2]
    statistics: Shape | None = None
    if x.shape is not None:
        statistics = (*x.shape[:-1], 1)
    if x.shape is not None and skip.shape is not None:
        broadcast([x.shape, skip.shape], str(node))
    kept = Inferred(wide_dtype(x.dtype), statistics)
    return [Inferred(x.dtype, x.shape), kept, kept, Inferred(x.dtype, x.shape)]


def _skip_requirements(node: Node) -> list[Requirement]:
    """Return that every operand broadcasts to x."""
    x = node.present_inputs[0]
    shapes = [value.shape for value in node.present_inputs[1:] if value.shape is not None]
    return [] if x.shape is None else broadcasts(shapes, x.shape)


def _skip_samples(beta: bool, bias: bool) -> list[Sample]:
    x, gamma = random_array(1, 2, 3, 8), random_array(3, 8)
    betas = (random_array(4, 8),) if beta else ()
    constant = tuple(range(2, 3 + len(betas)))
    cases = [
        Sample((x, random_array(2, 2, 3, 8), gamma, *betas), {}, constant),
        Sample(
            (x, random_array(2, 1, 3, 8), gamma, *betas), {"epsilon": 0.1}, constant, name="one"
        ),
        Sample((x, random_array(2, 3, 8), gamma, *betas), {}, constant, name="no_batch"),
    ]
    if bias:
        inputs = (x, random_array(2, 2, 3, 8), gamma, *betas, random_array(5, 8))
        cases.append(Sample(inputs, {}, tuple(range(2, len(inputs))), name="bias"))
    return cases


class SkipLayerNormalization(Op):
    """LayerNormalization over the last axis of input + skip + bias.

    Inputs x [B,S,H], skip (broadcast), gamma [H], and optionally beta [H], bias [H]. Outputs: the
    result, mean, 1 / deviation, and the sum that was normalized.
    """

    name = "com.microsoft.SkipLayerNormalization"
    attributes: ClassVar[Mapping[str, Any]] = {"epsilon": 1e-12}
    operations_per_element = 10

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return types of the four outputs."""
        return _skip_types(node)

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that every operand broadcasts to x."""
        return _skip_requirements(node)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Add, then standardize, in float32 at least."""
        x, skip, gamma = (required(inputs, index) for index in range(3))
        beta, bias = optional(inputs, 3), optional(inputs, 4)
        total = widen(x) + widen(skip)
        total = total if bias is None else total + widen(bias)
        normal, mean, inverse = standardize(total, (-1,), attributes["epsilon"])
        out = normal * widen(gamma)
        out = out if beta is None else out + widen(beta)
        return [narrow(out, x), mean, inverse, narrow(total, x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover broadcast skips, absent beta, bias and epsilon."""
        x, skip, gamma = random_array(1, 2, 3, 8), random_array(2, 2, 3, 8), random_array(3, 8)
        plain = Sample((x, skip, gamma), {}, (2,), name="no_beta")
        return [*_skip_samples(beta=True, bias=True), plain]


class SkipSimplifiedLayerNormalization(Op):
    """SimplifiedLayerNormalization over the last axis of input + skip + bias.

    Inputs x, skip, gamma, and optionally bias. Outputs: the result, an unused mean (zeros), the
    factor, and the sum that was normalized.
    """

    name = "com.microsoft.SkipSimplifiedLayerNormalization"
    attributes: ClassVar[Mapping[str, Any]] = {"epsilon": 1e-12}
    operations_per_element = 7

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return types of the four outputs."""
        return _skip_types(node)

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that every operand broadcasts to x."""
        return _skip_requirements(node)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Add, then divide by the root mean square, in float32 at least."""
        x, skip, gamma = (required(inputs, index) for index in range(3))
        bias = optional(inputs, 3)
        total = widen(x) + widen(skip)
        total = total if bias is None else total + widen(bias)
        normal, inverse = divide_by_rms(total, -1, attributes["epsilon"])
        return [narrow(normal * widen(gamma), x), np.zeros_like(inverse), inverse, narrow(total, x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover broadcast skips, bias and epsilon."""
        return _skip_samples(beta=False, bias=True)
