"""ONNX Runtime's quantized pointwise operators: dequantize, compute in float, quantize.

y = saturate(round(f((a - a_zero) * a_scale, ...) / y_scale) + y_zero), printed into one loop over
the elements; scales and zero points are constants. Bound by the conversions, a dozen instructions a
vector, not by memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from planish.backends.cpu.codegen.c_types import INTEGER_RANGES
from planish.backends.cpu.codegen.indexing import identity_map, shifted_map
from planish.backends.cpu.codegen.injection import Builder, Describe, Injection, InjectiveTactic
from planish.backends.cpu.codegen.scalar import literal, scalar_constant
from planish.ir.dtypes import F32
from planish.ir.shape import Dim

UNKNOWN = "a scale or zero point is not one constant"


def _real(builder: Builder, first: int, name: str) -> str | None:
    """Return the dequantized value of the triple at input `first`, whose element is `name`."""
    scale, zero = builder.node.input(first + 1), builder.node.input(first + 2)
    factor = scalar_constant(scale)
    offset = 0 if zero is None else scalar_constant(zero)
    if factor is None or offset is None:
        return None
    return f"((float)((int32_t){name} - {int(offset)}) * {literal(factor, F32)})"


def _quantized(builder: Builder, first: int, text: str) -> str | None:
    """Return `text` quantized by the scale at input `first` and the zero point after it."""
    zero = builder.node.input(first + 1)
    scale, offset = scalar_constant(builder.node.input(first)), 0
    if zero is not None:
        known = scalar_constant(zero)
        if known is None:
            return None
        offset = int(known)
    if scale is None:
        return None
    low, high = INTEGER_RANGES[builder.node.outputs[0].dtype]
    return f"planish_quantize({text}, {literal(scale, F32)}, {offset}, {low}, {high})"


def _binary(operator: str) -> Describe:
    def describe(builder: Builder) -> list[Injection] | str:
        shape = builder.node.outputs[0].known_shape
        index = identity_map(len(shape))
        a, b = builder.node.inputs[0], builder.node.inputs[3]
        if a is None or b is None:
            return "an operand is absent"

        def text(names: Sequence[str]) -> str | None:
            left, right = _real(builder, 0, names[0]), _real(builder, 3, names[1])
            if left is None or right is None:
                return None
            return _quantized(builder, 6, f"{left} {operator} {right}")

        if text(("a", "b")) is None:
            return UNKNOWN
        # an index as long as the output's rank is taken in the output's space: operands broadcast
        return [
            Injection(shape, ((a, index), (b, index)), index, 0, lambda names: text(names) or "")
        ]

    return describe


def _unary(template: str) -> Describe:
    """Return a description of f, with {x} for the dequantized element and attributes."""

    def describe(builder: Builder) -> list[Injection] | str:
        shape = builder.shape(0)
        index = identity_map(len(shape))
        numbers = {
            key: literal(value, F32)
            for key, value in builder.node.attributes.items()
            if isinstance(value, float)
        }

        def text(names: Sequence[str]) -> str | None:
            x = _real(builder, 0, names[0])
            return None if x is None else _quantized(builder, 3, template.format(x=x, **numbers))

        if text(("a",)) is None:
            return UNKNOWN
        reads = ((builder.value(0), index),)
        return [Injection(shape, reads, index, 0, lambda names: text(names) or "")]

    return describe


def _concat(builder: Builder) -> list[Injection] | str:
    """One nest for each tensor, requantized to the common scale."""
    node = builder.node
    rank = node.outputs[0].rank
    axis = int(node.attributes["axis"]) % rank
    injections: list[Injection] = []
    at: Dim = 0
    for first in range(2, len(node.inputs), 3):
        value = node.inputs[first]
        if value is None:
            return "an operand is absent"
        shape = value.known_shape
        x = _real(builder, first, "NAME")
        whole = None if x is None else _quantized(builder, 0, x)
        if whole is None:
            return UNKNOWN
        write = shifted_map([at if k == axis else 0 for k in range(rank)])

        def expression(names: Sequence[str], whole: str = whole) -> str:
            return whole.replace("NAME", names[0])

        injections.append(Injection(shape, ((value, identity_map(rank)),), write, 0, expression))
        at = at + shape[axis]
    return injections


class QuantizedPointwiseTactic(InjectiveTactic):
    """Float arithmetic between dequantization and quantization."""

    name: ClassVar[str] = "quantized_pointwise"
    describe: ClassVar[dict[str, Describe]] = {
        "com.microsoft.QLinearAdd": _binary("+"),
        "com.microsoft.QLinearConcat": _concat,
        "com.microsoft.QLinearLeakyRelu": _unary("({x} >= 0 ? {x} : {x} * {alpha})"),
        "com.microsoft.QLinearMul": _binary("*"),
        "com.microsoft.QLinearSigmoid": _unary("planish_sigmoid({x})"),
    }
