"""Pointwise operators as statements on vector registers of floats.

Whatever a value's type is, a register of floats stands for it between statements: bytes that come
from memory or from QuantizeLinear are whole numbers in floats. Int32 sums of an anchor are the one
exception; only a Cast may read them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from planish.backends.cpu.codegen.c_types import INTEGER_RANGES
from planish.backends.cpu.codegen.scalar import literal, scalar_constant
from planish.ir.dtypes import BF16, F32, I8, I32, U8, DType
from planish.ir.graph import Node, Value

FLOATS = (F32, BF16)
BYTES = (I8, U8)
BEYOND = 1e9  # floats above this lose nothing by being cut to it before they saturate as bytes

HEAVY = frozenset(
    ("Sigmoid", "Tanh", "Erf", "Exp", "Gelu", "Swish", "com.microsoft.Gelu",
     "com.microsoft.FastGelu", "com.microsoft.QuickGelu")
)  # fmt: skip
VectorTemplate = Callable[[Node, Sequence[str], str], str]


def _chain(operator: str) -> VectorTemplate:
    return lambda node, arguments, v: f" {operator} ".join(arguments)


def _call(name: str) -> VectorTemplate:
    return lambda node, arguments, v: f"{v}_{name}({', '.join(arguments)})"


def _nested(name: str) -> VectorTemplate:
    def expression(node: Node, arguments: Sequence[str], v: str) -> str:
        total = arguments[0]
        for argument in arguments[1:]:
            total = f"{v}_{name}({total}, {argument})"
        return total

    return expression


def _set(value: float, v: str) -> str:
    return f"{v}_set1({literal(value, F32)})"


def _clip(node: Node, arguments: Sequence[str], v: str) -> str:
    bounds = [scalar_constant(node.input(index)) for index in (1, 2)]
    total = arguments[0]
    if bounds[0] is not None:
        total = f"{v}_max({_set(float(bounds[0]), v)}, {total})"
    if bounds[1] is not None:
        total = f"{v}_min({_set(float(bounds[1]), v)}, {total})"
    return total


def _hard_sigmoid(node: Node, arguments: Sequence[str], v: str) -> str:
    return _ramp(arguments[0], node.attributes["alpha"], node.attributes["beta"], v)


def _ramp(x: str, alpha: float, beta: float, v: str) -> str:
    line = f"{v}_fma({x}, {_set(alpha, v)}, {_set(beta, v)})"
    return f"{v}_clip({line}, {v}_zero(), {_set(1.0, v)})"


def _leaky(node: Node, arguments: Sequence[str], v: str) -> str:
    x = arguments[0]
    return f"{v}_if_negative({x}, {x} * {_set(node.attributes['alpha'], v)}, {x})"


def _prelu(node: Node, arguments: Sequence[str], v: str) -> str:
    x, slope = arguments
    return f"{v}_if_negative({x}, {x} * {slope}, {x})"


def _gelu(node: Node, arguments: Sequence[str], v: str) -> str:
    tanh = str(node.attributes.get("approximate", "none")) == "tanh"
    return f"{v}_gelu{'_tanh' if tanh else ''}({arguments[0]})"


def _swish(node: Node, arguments: Sequence[str], v: str) -> str:
    x, alpha = arguments[0], float(node.attributes.get("alpha", 1.0))
    return f"{x} * {v}_sigmoid({x if alpha == 1.0 else f'{x} * {_set(alpha, v)}'})"


def _quantize(node: Node, arguments: Sequence[str], v: str) -> str:
    """Return the quantized number as a float."""
    zero = arguments[2:]
    bounds = ", ".join(_set(float(bound), v) for bound in INTEGER_RANGES[node.output.dtype])
    return f"{v}_clip({' + '.join((f'{v}_round({scaled(node, arguments, v)})', *zero))}, {bounds})"


def scaled(node: Node, arguments: Sequence[str], v: str) -> str:
    """Return what a QuantizeLinear node rounds, for its zero point to be added then."""
    x, scale = arguments[:2]
    number = scalar_constant(node.input(1))
    if number is None or not 1e-25 < float(number) < 1e25:
        return f"{x} / {scale}"
    inverse = 1.0 / float(number)
    if float(np.float32(inverse)) == inverse:
        return x if inverse == 1.0 else f"{x} * {_set(inverse, v)}"
    return f"{v}_quotient({x}, {scale}, {_set(inverse, v)})"


def _dequantize(node: Node, arguments: Sequence[str], v: str) -> str:
    x, scale, *zero = arguments
    return f"({' - '.join((x, *zero))}) * {scale}"


VECTOR_TEMPLATES: dict[str, VectorTemplate] = {
    "Abs": _call("abs"),
    "Add": _chain("+"),
    "Cast": lambda node, a, v: (
        f"{v}_from_i32({a[0]})" if node.present_inputs[0].dtype is I32 else a[0]
    ),
    "CastLike": lambda node, arguments, v: arguments[0],
    "Clip": _clip,
    "DequantizeLinear": _dequantize,
    "Div": _chain("/"),
    "Erf": _call("erf"),
    "Exp": _call("exp"),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda node, a, v: f"{a[0]} * {_ramp(a[0], 1 / 6, 0.5, v)}",
    "Identity": lambda node, arguments, v: arguments[0],
    "LeakyRelu": _leaky,
    "Max": _nested("max"),
    "Min": _nested("min"),
    "Mul": _chain("*"),
    "Neg": lambda node, arguments, v: f"{v}_zero() - {arguments[0]}",
    "PRelu": _prelu,
    "QuantizeLinear": _quantize,
    "Relu": _call("relu"),
    "Round": _call("round"),
    "Sigmoid": _call("sigmoid"),
    "Sqrt": _call("sqrt"),
    "Sub": _chain("-"),
    "Sum": _chain("+"),
    "Swish": _swish,
    "Tanh": _call("tanh"),
    "com.microsoft.FastGelu": lambda n, a, v: f"{v}_gelu_tanh({' + '.join(a)})",
    "com.microsoft.Gelu": _call("gelu"),
    "com.microsoft.QuickGelu": _swish,
}


def has_vector_form(node: Node, sums: Value | None = None) -> bool:
    """Whether `print_vector_statements` can print a node; `sums` is what accumulators hold."""
    if node.op not in VECTOR_TEMPLATES:
        return False
    if node.op in ("QuantizeLinear", "DequantizeLinear"):
        return _quantization_has_vector_form(node)
    inputs = node.present_inputs
    if node.op == "Cast" and sums is not None and inputs[0] is sums and sums.dtype is I32:
        inputs = []
    if any(value.dtype not in FLOATS for value in (*inputs, *node.outputs)):
        return False
    if node.op != "Clip":
        return None not in node.inputs
    bounds = [value for value in node.inputs[1:] if value is not None]
    return all(scalar_constant(value) is not None for value in bounds)


def _quantization_has_vector_form(node: Node) -> bool:
    """Whether the integers are bytes in memory, or only ever floats between the two operators."""
    data, scale, zero = node.input(0), node.input(1), node.input(2)
    if data is None or scale is None or scale.dtype not in FLOATS:
        return False
    if zero is not None and scalar_constant(zero) is None:
        return False
    if node.op == "DequantizeLinear":
        paired = data.producer is not None and data.producer.op == "QuantizeLinear"
        read = data.producer is None and data.dtype in BYTES
        return (paired or read) and node.output.dtype in FLOATS
    pairs = all(reader.op == "DequantizeLinear" for reader, _ in node.output.uses)
    return pairs and data.dtype in FLOATS


def print_vector_statements(nodes: Sequence[Node], names: dict[Value, str], v: str) -> list[str]:
    """Return one ``const planish_v16 v3 = ...;`` for each node; `names` gains their outputs."""
    lines = []
    for index, node in enumerate(nodes):
        arguments = [vector_argument(value, names, v) for value in node.present_inputs]
        name = f"v{index}"
        lines.append(f"const {v} {name} = {VECTOR_TEMPLATES[node.op](node, arguments, v)};")
        names[node.output] = name
    return lines


def vector_argument(value: Value, names: Mapping[Value, str], v: str) -> str:
    """Return the register that stands for `value`: a name, or a constant in every lane."""
    if value in names:
        return names[value]
    return _set(float(value.array.reshape(-1)[0]), v)


# -- bytes that are only stored --------------------------------------------------------------------


def stored_quantizations(stored: Iterable[tuple[Value, DType]]) -> set[Node | None]:
    """Return the QuantizeLinear nodes whose results are only stored: the store saturates."""
    return {
        value.producer
        for value, dtype in stored
        if dtype in BYTES and value.producer is not None and not value.uses
    }


def quantizing_store(
    value: Value, names: Mapping[Value, str], v: str, most: Mapping[Value, float] | None = None
) -> tuple[str, str]:
    """Return the function that rounds, saturates and stores, and its arguments but the pointer."""
    text, zero = rounded_number(value, names, v, most)
    return f"{v}_quantize_{value.dtype}", f"{text}, {zero}"


def rounded_number(
    value: Value, names: Mapping[Value, str], v: str, most: Mapping[Value, float] | None = None
) -> tuple[str, int]:
    """Return what the QuantizeLinear of a stored value rounds, and the zero point to be added then.

    `most` are known bounds of magnitudes (see `magnitude`): within reach of int32, rounding needs
    no other bound.
    """
    node = value.producer
    if node is None:
        raise ValueError(f"%{value.name} is not quantized here")
    arguments = [vector_argument(operand, names, v) for operand in node.present_inputs]
    zero, scale = scalar_constant(node.input(2)), scalar_constant(node.input(1))
    number, text = 0 if zero is None else int(zero), scaled(node, arguments, v)
    if scale is None or not magnitude(node.present_inputs[0], most or {}) < BEYOND * float(scale):
        text = f"{v}_min({_set(BEYOND, v)}, {text})"
    return text, number


def magnitude(value: Value, known: Mapping[Value, float]) -> float:
    """Return a bound of |value|, infinite where there is none; `known` are given ones."""
    if value in known:
        return known[value]
    if value.constant is not None:
        return float(np.abs(value.array.astype(np.float64)).max(initial=0.0))
    node = value.producer
    if node is None:
        return 256.0 if value.dtype in BYTES else math.inf
    operands = [magnitude(operand, known) for operand in node.present_inputs]
    match node.op:
        case "Cast" | "Identity" | "Relu":
            return operands[0]
        case "Add" | "Sub":
            return operands[0] + operands[1]
        case "Mul":
            return operands[0] * operands[1]
        case "Max" | "Min":
            return max(operands)
        case "DequantizeLinear":
            return (operands[0] + 256.0) * operands[1]
        case "QuantizeLinear":
            return 256.0 if node.output.dtype in BYTES else math.inf
    return math.inf
