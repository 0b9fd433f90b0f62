"""Pointwise operators as Triton expressions: one row of `EXPRESSIONS` each.

An expression receives the node and the Triton text of its inputs (None where absent) and returns
its output's text in the compute type: float32 for all small floats, int1 for booleans.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from planish.backends.cuda.codegen.triton_types import POINTERS, compute_type, literal
from planish.ir.dtypes import BOOL, F8E4M3, I8, I16, I32, U8, U16, DType
from planish.ir.graph import Node
from planish.ir.rewrite import scalar_of

Arguments = Sequence[str | None]
Expression = Callable[[Node, Arguments], str]
INTEGER_RANGES = {
    I8: (-128, 127), U8: (0, 255), I16: (-32768, 32767), U16: (0, 65535),
    I32: (-(2**31), 2**31 - 1),
}  # fmt: skip


def supported(node: Node) -> str | None:
    """Return why `node` cannot be printed as Triton, or None when it can."""
    if node.op not in EXPRESSIONS or len(node.outputs) != 1:
        return f"{node.op} has no Triton form"
    for value in (*node.present_inputs, *node.outputs):
        if value.dtype not in POINTERS:
            return f"{value.dtype} has no Triton type"
    if int(node.attributes.get("block_size", 0) or 0):
        return "blocked quantization parameters have no Triton form"
    if node.outputs[0].dtype is F8E4M3 and node.op not in ("QuantizeLinear", "Identity"):
        return "conversions to f8e4m3 have no Triton form"
    if node.op == "QuantizeLinear" and node.output.dtype not in (*INTEGER_RANGES, F8E4M3):
        return f"quantization to {node.output.dtype} has no Triton form"
    if node.op in FLOAT_ONLY and not operand_type(node).is_float:
        return f"{node.op} of {operand_type(node)} has no Triton form"
    return None


def operand_type(node: Node) -> DType:
    """Return the dtype that decides how `node` computes: its first input's."""
    return node.present_inputs[0].dtype if node.present_inputs else node.outputs[0].dtype


def convert(text: str, source: DType, target: DType) -> str:
    """Return `text` (compute type of `source`) in the compute type of `target`."""
    if target is BOOL:
        return text if source is BOOL else f"({text} != 0)"
    if compute_type(source) == compute_type(target):
        return text
    return f"({text}).to({compute_type(target)})"


def _text(template: str) -> Expression:
    """{0} {1} are arguments, other fields attributes."""

    def expression(node: Node, arguments: Arguments) -> str:
        numbers = {
            key: f"({literal(value, operand_type(node))})"
            for key, value in node.attributes.items()
            if isinstance(value, int | float)
        }
        return template.format(*arguments, **numbers)

    return expression


def _fold(combine: str) -> Expression:
    def expression(_: Node, arguments: Arguments) -> str:
        total = str(arguments[0])
        for argument in arguments[1:]:
            total = combine.format(total, argument)
        return total

    return expression


def _divide(node: Node, arguments: Arguments) -> str:
    if operand_type(node).is_float:
        return f"({arguments[0]} / {arguments[1]})"
    return f"planish_floordiv({arguments[0]}, {arguments[1]})"


def _modulo(node: Node, arguments: Arguments) -> str:
    a, b = arguments
    c_like = bool(node.attributes.get("fmod", 0))
    if operand_type(node).is_float:
        return f"libdevice.fmod({a}, {b})" if c_like else f"planish_floormod({a}, {b})"
    return f"({a} % {b})" if c_like else f"planish_mod({a}, {b})"


def _power(node: Node, arguments: Arguments) -> str:
    a, b = arguments
    exponent = node.inputs[1]
    if exponent is not None and exponent.is_constant and exponent.array.size == 1:
        power = float(exponent.array.reshape(-1)[0])
        simple = {1.0: "{0}", 2.0: "({0} * {0})", 3.0: "({0} * {0} * {0})", 0.5: "tl.sqrt({0})",
                  -0.5: "(1.0 / tl.sqrt({0}))", -1.0: "(1.0 / {0})"}  # fmt: skip
        if power in simple and operand_type(node).is_float:
            return simple[power].format(a)
    dtype = operand_type(node)
    if dtype.is_float:
        return f"libdevice.pow({a}, ({b}) + tl.zeros_like({a}))"
    raised = f"libdevice.pow(({a}).to(tl.float64), ({b}) + tl.zeros_like({a}).to(tl.float64))"
    return f"{raised}.to({compute_type(dtype)})"


def _clip(node: Node, arguments: Arguments) -> str:
    text = str(arguments[0])
    low, high = (arguments[i] if i < len(arguments) else None for i in (1, 2))
    if low is not None:
        text = f"planish_max({text}, {low})"
    return text if high is None else f"planish_min({text}, {high})"


def _cast(node: Node, arguments: Arguments) -> str:
    return convert(str(arguments[0]), operand_type(node), node.output.dtype)


def _gelu(node: Node, arguments: Arguments) -> str:
    tanh = str(node.attributes.get("approximate", "none")) == "tanh"
    return f"planish_gelu{'_tanh' if tanh else ''}({arguments[0]})"


def _summed(function: str) -> Expression:
    def expression(_: Node, arguments: Arguments) -> str:
        return f"{function}({' + '.join(str(a) for a in arguments if a is not None)})"

    return expression


def _mean(_: Node, arguments: Arguments) -> str:
    return f"(({' + '.join(map(str, arguments))}) * {1.0 / len(arguments)!r})"


def _quantize(node: Node, arguments: Arguments) -> str:
    dtype, point = node.output.dtype, node.input(2)
    scaled = str(arguments[0])
    if scalar_of(node.input(1)) != 1:
        scaled = f"{scaled} / {arguments[1]}"
    is_plain = point is None or scalar_of(point) == 0
    if dtype in (I8, U8) and is_plain and compute_type(operand_type(node)) == "tl.float32":
        return f"planish_{dtype}({scaled})"
    if dtype is F8E4M3:
        return f"planish_f8({scaled})"
    low, high = INTEGER_RANGES[dtype]
    zero = arguments[2] if len(arguments) > 2 and arguments[2] is not None else "0"
    quantized = f"planish_quantize({arguments[0]}, {arguments[1]}, {zero}, {low}, {high})"
    return f"{quantized}.to({compute_type(node.output.dtype)})"


def _dequantize(_: Node, arguments: Arguments) -> str:
    number = f"({arguments[0]}).to(tl.float32)"
    if len(arguments) > 2 and arguments[2] is not None:
        number = f"({number} - {arguments[2]})"
    return f"({number} * {arguments[1]})"


def _is_infinite(node: Node, arguments: Arguments) -> str:
    tests = []
    if node.attributes.get("detect_positive", 1):
        tests.append(f'({arguments[0]} == float("inf"))')
    if node.attributes.get("detect_negative", 1):
        tests.append(f'({arguments[0]} == float("-inf"))')
    return f"({' | '.join(tests)})" if tests else f"({arguments[0]} != {arguments[0]}) & False"


def _bit_shift(node: Node, arguments: Arguments) -> str:
    sign = "<<" if str(node.attributes["direction"]) == "LEFT" else ">>"
    bits = operand_type(node).bits
    shifted = f"({arguments[0]} {sign} tl.minimum({arguments[1]}, {bits - 1}))"
    return f"tl.where({arguments[1]} < {bits}, {shifted}, 0).to({compute_type(operand_type(node))})"


def _sign(node: Node, arguments: Arguments) -> str:
    dtype, a = operand_type(node), arguments[0]
    if dtype.is_float:
        return f"planish_sign({a})"
    return f"(({a} > 0).to({compute_type(dtype)}) - ({a} < 0).to({compute_type(dtype)}))"


def _negate(node: Node, arguments: Arguments) -> str:
    return f"(0 - {arguments[0]})" if operand_type(node).is_integer else f"(-{arguments[0]})"


def _identity(_: Node, arguments: Arguments) -> str:
    return str(arguments[0])


EXPRESSIONS: dict[str, Expression] = {
    "Abs": _text("tl.abs({0})"),
    "Acos": _text("libdevice.acos({0})"),
    "Acosh": _text("libdevice.acosh({0})"),
    "Add": _fold("({} + {})"),
    "And": _text("({0} & {1})"),
    "Asin": _text("libdevice.asin({0})"),
    "Asinh": _text("libdevice.asinh({0})"),
    "Atan": _text("libdevice.atan({0})"),
    "Atanh": _text("libdevice.atanh({0})"),
    "BitwiseAnd": _text("({0} & {1})"),
    "BitwiseNot": _text("(~{0})"),
    "BitwiseOr": _text("({0} | {1})"),
    "BitwiseXor": _text("({0} ^ {1})"),
    "BitShift": _bit_shift,
    "Cast": _cast,
    "CastLike": _cast,
    "Ceil": _text("tl.ceil({0})"),
    "Celu": _text("tl.maximum({0}, 0.0) + tl.minimum(0.0, {alpha} * planish_expm1({0} / {alpha}))"),
    "Clip": _clip,
    "Cos": _text("tl.cos({0})"),
    "Cosh": _text("libdevice.cosh({0})"),
    "DequantizeLinear": _dequantize,
    "Div": _divide,
    "Dropout": _identity,
    "Elu": _text("tl.where({0} > 0, {0}, {alpha} * planish_expm1({0}))"),
    "Equal": _text("({0} == {1})"),
    "Erf": _text("tl.erf({0})"),
    "Exp": _text("tl.exp({0})"),
    "Floor": _text("tl.floor({0})"),
    "Gelu": _gelu,
    "Greater": _text("({0} > {1})"),
    "GreaterOrEqual": _text("({0} >= {1})"),
    "HardSigmoid": _text("planish_clip({alpha} * {0} + {beta}, 0.0, 1.0)"),
    "HardSwish": _text("({0} * planish_clip({0} * 0.16666666666666666 + 0.5, 0.0, 1.0))"),
    "Identity": _identity,
    "IsInf": _is_infinite,
    "IsNaN": _text("({0} != {0})"),
    "LeakyRelu": _text("tl.where({0} < 0, {alpha} * {0}, {0})"),
    "Less": _text("({0} < {1})"),
    "LessOrEqual": _text("({0} <= {1})"),
    "Log": _text("tl.log({0})"),
    "Max": _fold("planish_max({}, {})"),
    "Mean": _mean,
    "Min": _fold("planish_min({}, {})"),
    "Mish": _text("({0} * planish_tanh(planish_softplus({0})))"),
    "Mod": _modulo,
    "Mul": _fold("({} * {})"),
    "Neg": _negate,
    "Not": _text("({0} == 0)"),
    "Or": _text("({0} | {1})"),
    "PRelu": _text("tl.where({0} < 0, {1} * {0}, {0})"),
    "Pow": _power,
    "QuantizeLinear": _quantize,
    "Reciprocal": _text("(1.0 / {0})"),
    "Relu": _text("planish_max({0}, 0)"),
    "Round": _text("libdevice.rint({0})"),
    "Selu": _text("({gamma} * tl.where({0} > 0, {0}, {alpha} * planish_expm1({0})))"),
    "Sigmoid": _text("planish_sigmoid({0})"),
    "Shrink": _text(
        "tl.where({0} < -{lambd}, {0} + {bias}, tl.where({0} > {lambd}, {0} - {bias}, 0))"
    ),
    "Sign": _sign,
    "Sin": _text("tl.sin({0})"),
    "Sinh": _text("libdevice.sinh({0})"),
    "Softplus": _text("planish_softplus({0})"),
    "Softsign": _text("({0} / (1.0 + tl.abs({0})))"),
    "Sqrt": _text("tl.sqrt({0})"),
    "Sub": _text("({0} - {1})"),
    "Sum": _fold("({} + {})"),
    "Swish": _text("({0} * planish_sigmoid({alpha} * {0}))"),
    "Tan": _text("libdevice.tan({0})"),
    "Tanh": _text("planish_tanh({0})"),
    "ThresholdedRelu": _text("tl.where({0} > {alpha}, {0}, 0.0)"),
    "Where": _text("tl.where({0}, {1}, {2})"),
    "Xor": _text("({0} ^ {1})"),
    "com.microsoft.BiasGelu": _summed("planish_gelu"),
    "com.microsoft.FastGelu": _summed("planish_gelu_tanh"),
    "com.microsoft.Gelu": _summed("planish_gelu"),
    "com.microsoft.QuickGelu": _text("({0} * planish_sigmoid({alpha} * {0}))"),
}
FLOAT_ONLY = frozenset(EXPRESSIONS) - {
    "Abs", "Add", "And", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor",
    "Cast", "CastLike",
    "Clip", "DequantizeLinear", "Div", "Dropout", "Equal", "Greater", "GreaterOrEqual", "Identity",
    "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "PRelu", "Relu",
    "Shrink", "Sign", "Sub", "Sum", "Where", "Xor",
}  # fmt: skip
