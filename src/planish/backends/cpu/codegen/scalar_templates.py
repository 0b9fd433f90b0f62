"""Expressions of the pointwise operators: one row of `TEMPLATES` each.

A template receives the node and the C expressions of its inputs (None where absent), and returns
the expression of its output in the compute type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from planish.backends.cpu.codegen.c_types import (
    INTEGER_RANGES,
    compute_type,
    literal,
    scalar_constant,
)
from planish.ir.dtypes import (
    BOOL,
    F32,
    F64,
    I32,
    I64,
    DType,
)
from planish.ir.graph import Node, Value

Arguments = Sequence[str | None]
Template = Callable[[Node, Arguments], str]


def _suffix(dtype: DType) -> str:
    return "_f64" if dtype is F64 else ""


def _kind(dtype: DType) -> str:
    return "float" if dtype.is_float else dtype.kind


def _function(name: str) -> Template:
    """Return a template that calls a prelude function of floats (``_f64`` for doubles)."""

    def expression(node: Node, arguments: Arguments) -> str:
        given = ", ".join(str(argument) for argument in arguments)
        return f"planish_{name}{_suffix(operand_type(node))}({given})"

    return expression


def _text(template: str) -> Template:
    """Return a template from text; {0} {1} are arguments, {alpha} attributes, {s} the suffix.

    A number in the text is written ``[1.5]`` and becomes a literal of the compute type.
    """

    def expression(node: Node, arguments: Arguments) -> str:
        dtype = operand_type(node)
        fields = {
            name: factor(value, dtype)
            for name, value in node.attributes.items()
            if isinstance(value, int | float)
        }
        text = template
        while "[" in text:
            before, rest = text.split("[", 1)
            number, after = rest.split("]", 1)
            text = before + factor(float(number), dtype) + after
        return text.format(*arguments, s=_suffix(dtype), **fields)

    return expression


def factor(value: Any, dtype: DType) -> str:
    """Return `literal`, in parentheses where a sign could meet another operator."""
    text = literal(value, dtype)
    return f"({text})" if text.startswith("-") else text


def operand_type(node: Node) -> DType:
    """Return the dtype that decides how `node` computes: its first input's."""
    return node.present_inputs[0].dtype if node.present_inputs else node.outputs[0].dtype


def _arithmetic(operator: str) -> Template:
    """Return a template for + - *, with wraparound for signed integers."""

    def expression(node: Node, arguments: Arguments) -> str:
        dtype = operand_type(node)
        if dtype not in (I32, I64):
            return _fold(arguments, lambda a, b: f"{a} {operator} {b}")
        unsigned = "uint32_t" if dtype is I32 else "uint64_t"
        return _fold(arguments, lambda a, b: f"({unsigned})({a}) {operator} ({unsigned})({b})")

    return expression


def _fold(arguments: Arguments, combine: Callable[[str, str], str]) -> str:
    total = str(arguments[0])
    for argument in arguments[1:]:
        total = combine(f"({total})" if total != arguments[0] else total, str(argument))
    return total


def _divide(node: Node, arguments: Arguments) -> str:
    dtype, (a, b) = operand_type(node), arguments
    if dtype.is_float:
        divisor = node.input(1)
        constant = scalar_constant(divisor) if divisor is not None else None
        if constant is not None and _exact_reciprocal(float(constant)):
            return f"{a} * {literal(1.0 / float(constant), dtype)}"
        return f"{a} / {b}"
    if dtype.kind == "uint":
        return f"planish_div_u64({a}, {b})"
    return f"planish_div_{'i64' if dtype is I64 else 'i32'}({a}, {b})"


def _exact_reciprocal(value: float) -> bool:
    """Whether dividing by `value` is the same as multiplying by 1 / value (a power of two)."""
    return math.isfinite(value) and 1e-30 < abs(value) < 1e30 and abs(math.frexp(value)[0]) == 0.5


def _modulo(node: Node, arguments: Arguments) -> str:
    dtype, (a, b) = operand_type(node), arguments
    c_like = bool(node.attributes.get("fmod", 0))
    if dtype.is_float:
        return f"planish_{'fmod' if c_like else 'floormod'}{_suffix(dtype)}({a}, {b})"
    if dtype.kind == "uint":
        return f"planish_rem_u64({a}, {b})"
    return f"planish_{'rem' if c_like else 'mod'}_i64({a}, {b})"


def _power(node: Node, arguments: Arguments) -> str:
    dtype, (a, b) = operand_type(node), arguments
    exponent = scalar_constant(node.inputs[1])
    if dtype.is_integer:
        if node.inputs[1] is not None and node.inputs[1].dtype.is_float:
            return f"planish_pow_f64((double)({a}), (double)({b}))"
        return f"planish_ipow_i64({a}, (int64_t)({b}))"
    power = None if exponent is None else float(exponent)
    simple = {
        1.0: f"{a}",
        2.0: f"{a} * {a}",
        3.0: f"{a} * {a} * {a}",
        4.0: f"({a} * {a}) * ({a} * {a})",
        -1.0: f"{literal(1.0, dtype)} / {a}",
        -2.0: f"{literal(1.0, dtype)} / ({a} * {a})",
        0.5: f"planish_sqrt{_suffix(dtype)}({a})",
        -0.5: f"{literal(1.0, dtype)} / planish_sqrt{_suffix(dtype)}({a})",
    }
    if power in simple:
        return simple[power]
    return f"planish_pow{_suffix(dtype)}({a}, ({compute_type(dtype)})({b}))"


def _extreme(name: str, operator: str) -> Template:
    def expression(node: Node, arguments: Arguments) -> str:
        dtype = operand_type(node)
        if dtype.is_float:
            function = f"planish_{name}{_suffix(dtype)}"
            return _fold(arguments, lambda a, b: f"{function}({a}, {b})")
        return _fold(arguments, lambda a, b: f"({a} {operator} {b} ? {a} : {b})")

    return expression


def _mean(node: Node, arguments: Arguments) -> str:
    total = " + ".join(str(argument) for argument in arguments)
    return f"({total}) * {literal(1.0 / len(arguments), operand_type(node))}"


def _relu(node: Node, arguments: Arguments) -> str:
    dtype, a = operand_type(node), arguments[0]
    if dtype.is_float:
        return f"planish_relu{_suffix(dtype)}({a})"
    return f"({a} > 0 ? {a} : 0)"


def _absolute(node: Node, arguments: Arguments) -> str:
    dtype, a = operand_type(node), arguments[0]
    if dtype.is_float:
        return f"planish_abs{_suffix(dtype)}({a})"
    return str(a) if dtype.kind == "uint" else f"({a} < 0 ? 0 - (uint64_t)({a}) : (uint64_t)({a}))"


def _negative(node: Node, arguments: Arguments) -> str:
    if operand_type(node).is_float:
        return f"-{arguments[0]}"
    return f"0 - (uint64_t)({arguments[0]})"


def _sign(node: Node, arguments: Arguments) -> str:
    dtype, a = operand_type(node), arguments[0]
    if dtype.is_float:
        return f"planish_sign{_suffix(dtype)}({a})"
    return f"({a} > 0) - ({a} < 0)"


def _clip(node: Node, arguments: Arguments) -> str:
    dtype = operand_type(node)
    low, high = (arguments[i] if i < len(arguments) else None for i in (1, 2))
    expression = str(arguments[0])
    if dtype.is_float and low is not None and high is not None:
        return f"planish_clip{_suffix(dtype)}({expression}, {low}, {high})"
    if low is not None:
        expression = f"({low} > {expression} ? {low} : {expression})"
    if high is not None:
        expression = f"({high} < {expression} ? {high} : {expression})"
    return expression


def _cast(node: Node, arguments: Arguments) -> str:
    return convert(str(arguments[0]), operand_type(node), node.output.dtype)


def convert(expression: str, source: DType, target: DType) -> str:
    """Return `expression` (compute type of `source`) converted to the compute type of `target`."""
    if target is BOOL:
        return expression if source is BOOL else f"({expression} != 0)"
    if compute_type(source) == compute_type(target):
        return expression
    if source.is_float and target.is_integer and target.bits < 32:
        return f"({compute_type(target)})(int32_t)({expression})"
    return f"({compute_type(target)})({expression})"


def _where(node: Node, arguments: Arguments) -> str:
    condition, a, b = arguments
    return f"{condition} ? {a} : {b}"


def _shift(node: Node, arguments: Arguments) -> str:
    name = "shl" if str(node.attributes["direction"]) in ("LEFT", "b'LEFT'") else "shr"
    if name == "shr" and operand_type(node).kind == "int":
        # sign bits move in, also where the amount is negative or at least the type's width
        amount = f"((uint64_t){arguments[1]} > 63 ? 63 : (int64_t){arguments[1]})"
        return f"((int64_t){arguments[0]} >> {amount})"
    return f"planish_{name}_u64({arguments[0]}, {arguments[1]})"


def _is_infinite(node: Node, arguments: Arguments) -> str:
    positive = int(node.attributes.get("detect_positive", 1))
    negative = int(node.attributes.get("detect_negative", 1))
    return f"planish_isinf{_suffix(operand_type(node))}({arguments[0]}, {positive}, {negative})"


def _gelu(node: Node, arguments: Arguments) -> str:
    tanh = str(node.attributes.get("approximate", "none")) == "tanh"
    function = f"planish_gelu{'_tanh' if tanh else ''}{_suffix(operand_type(node))}"
    return f"{function}({arguments[0]})"


def _with_bias(function: str) -> Template:
    """Return a template of contrib operators that add an optional second input first."""

    def expression(node: Node, arguments: Arguments) -> str:
        total = " + ".join(str(argument) for argument in arguments if argument is not None)
        return f"planish_{function}{_suffix(operand_type(node))}({total})"

    return expression


def _quantize(node: Node, arguments: Arguments) -> str:
    low, high = INTEGER_RANGES[node.output.dtype]
    zero = arguments[2] if len(arguments) > 2 and arguments[2] is not None else "0"
    scale = arguments[1]
    number = str(arguments[0])
    if operand_type(node) is not F32 and not operand_type(node).is_float:
        number = f"(float)({number})"
    return f"planish_quantize({number}, {scale}, (int32_t)({zero}), {low}, {high})"


def _dequantize(node: Node, arguments: Arguments) -> str:
    x, scale = arguments[0], arguments[1]
    if len(arguments) > 2 and arguments[2] is not None and not _is_zero(node.input(2)):
        return f"(float)((int32_t)({x}) - (int32_t)({arguments[2]})) * {scale}"
    return f"(float)({x}) * {scale}"


def _is_zero(value: Value | None) -> bool:
    return value is not None and value.constant is not None and not np.any(value.array)


def _compare(operator: str) -> Template:
    return lambda _, arguments: f"({arguments[0]} {operator} {arguments[1]})"


def _identity(_: Node, arguments: Arguments) -> str:
    return str(arguments[0])


TEMPLATES: dict[str, Template] = {
    "Abs": _absolute,
    "Acos": _function("acos"),
    "Acosh": _function("acosh"),
    "Add": _arithmetic("+"),
    "And": _compare("&"),
    "Asin": _function("asin"),
    "Asinh": _function("asinh"),
    "Atan": _function("atan"),
    "Atanh": _function("atanh"),
    "BitShift": _shift,
    "BitwiseAnd": _compare("&"),
    "BitwiseNot": _text("~{0}"),
    "BitwiseOr": _compare("|"),
    "BitwiseXor": _compare("^"),
    "Cast": _cast,
    "CastLike": _cast,
    "Ceil": _function("ceil"),
    "Celu": _text(
        "planish_relu{s}({0}) + planish_min{s}([0], {alpha} * planish_expm1{s}({0} / {alpha}))"
    ),
    "Clip": _clip,
    "Cos": _function("cos"),
    "Cosh": _function("cosh"),
    "DequantizeLinear": _dequantize,
    "Div": _divide,
    "Dropout": _identity,
    "Elu": _text("({0} > [0] ? {0} : {alpha} * planish_expm1{s}({0}))"),
    "Equal": _compare("=="),
    "Erf": _function("erf"),
    "Exp": _function("exp"),
    "Floor": _function("floor"),
    "Gelu": _gelu,
    "Greater": _compare(">"),
    "GreaterOrEqual": _compare(">="),
    "HardSigmoid": _text("planish_clip{s}({alpha} * {0} + {beta}, [0], [1])"),
    "HardSwish": _text("{0} * planish_clip{s}({0} * [0.16666666666666666] + [0.5], [0], [1])"),
    "Identity": _identity,
    "IsInf": _is_infinite,
    "IsNaN": _text("({0} != {0})"),
    "LeakyRelu": _text("({0} < [0] ? {alpha} * {0} : {0})"),
    "Less": _compare("<"),
    "LessOrEqual": _compare("<="),
    "Log": _function("log"),
    "Max": _extreme("max", ">"),
    "Mean": _mean,
    "Min": _extreme("min", "<"),
    "Mish": _text("{0} * planish_tanh{s}(planish_softplus{s}({0}))"),
    "Mod": _modulo,
    "Mul": _arithmetic("*"),
    "Neg": _negative,
    "Not": _text("!{0}"),
    "Or": _compare("|"),
    "PRelu": _text("({0} < [0] ? {1} * {0} : {0})"),
    "Pow": _power,
    "QuantizeLinear": _quantize,
    "Reciprocal": _text("[1] / {0}"),
    "Relu": _relu,
    "Round": _function("round"),
    "Selu": _text("{gamma} * ({0} > [0] ? {0} : {alpha} * planish_expm1{s}({0}))"),
    "Shrink": _text("({0} < -{lambd} ? {0} + {bias} : {0} > {lambd} ? {0} - {bias} : [0])"),
    "Sigmoid": _function("sigmoid"),
    "Sign": _sign,
    "Sin": _function("sin"),
    "Sinh": _function("sinh"),
    "Softplus": _function("softplus"),
    "Softsign": _text("{0} / ([1] + planish_abs{s}({0}))"),
    "Sqrt": _function("sqrt"),
    "Sub": _arithmetic("-"),
    "Sum": _arithmetic("+"),
    "Swish": _text("{0} * planish_sigmoid{s}({alpha} * {0})"),
    "Tan": _function("tan"),
    "Tanh": _function("tanh"),
    "ThresholdedRelu": _text("({0} > {alpha} ? {0} : [0])"),
    "Where": _where,
    "Xor": _compare("^"),
    "com.microsoft.BiasGelu": _with_bias("gelu"),
    "com.microsoft.FastGelu": _with_bias("gelu_tanh"),
    "com.microsoft.Gelu": _with_bias("gelu"),
    "com.microsoft.QuickGelu": _text("{0} * planish_sigmoid{s}({alpha} * {0})"),
}
