"""Pointwise operators as scalar C statements.

Every pointwise node becomes one statement ``const float v3 = planish_exp(v2);``. Statements are
printed inside loops that the C compiler vectorises, so each expression is branch-free. Values are
computed in the type of their dtype: f16, bf16 and f32 as ``float`` (values between nodes are not
rounded to 16 bits), f64 as ``double``, integers in their own width with wraparound, bool as
``int`` 0 or 1. `TEMPLATES` maps an operator to its expression: adding a pointwise operator to
generated code is adding a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from planish.errors import TacticError
from planish.ir.dtypes import (
    BF16,
    BOOL,
    F16,
    F32,
    F64,
    I4,
    I8,
    I16,
    I32,
    I64,
    U4,
    U8,
    U16,
    U32,
    U64,
    DType,
)
from planish.ir.graph import Node, Value
from planish.ir.shape import Atom, Dim

MEMORY_TYPES: dict[DType, str] = {
    F32: "float", F64: "double", BF16: "uint16_t", F16: "uint16_t", BOOL: "uint8_t",
    I8: "int8_t", I16: "int16_t", I32: "int32_t", I64: "int64_t", I4: "int8_t",
    U8: "uint8_t", U16: "uint16_t", U32: "uint32_t", U64: "uint64_t", U4: "uint8_t",
}  # fmt: skip
_SMALL_FLOATS = (F32, F16, BF16)
_RANGES = {
    I4: (-8, 7), U4: (0, 15), I8: (-128, 127), U8: (0, 255),
    I16: (-32768, 32767), U16: (0, 65535), I32: (-(2**31), 2**31 - 1),
}  # fmt: skip

Arguments = Sequence[str | None]
Template = Callable[[Node, Arguments], str]


def memory_type(dtype: DType) -> str:
    """Return the C type of one element in memory; raise KeyError when there is none."""
    return MEMORY_TYPES[dtype]


def compute_type(dtype: DType) -> str:
    """Return the C type in which values of `dtype` are computed."""
    if dtype in _SMALL_FLOATS:
        return "float"
    if dtype is BOOL:
        return "int"
    return MEMORY_TYPES[dtype]


def load(dtype: DType, pointer: str, index: str) -> str:
    """Return the expression that reads element `index` of `pointer` into its compute type."""
    element = f"{pointer}[{index}]"
    if dtype is BF16:
        return f"planish_from_bf16({element})"
    if dtype is F16:
        return f"planish_from_f16({element})"
    if dtype is BOOL:
        return f"({element} != 0)"
    return element


def store(dtype: DType, pointer: str, index: str, expression: str) -> str:
    """Return the statement that writes `expression` (of the compute type) to `pointer[index]`."""
    return f"{pointer}[{index}] = {to_memory(dtype, expression)};"


def to_memory(dtype: DType, expression: str) -> str:
    """Return `expression` (of the compute type) converted to the memory type of `dtype`."""
    if dtype is BF16:
        return f"planish_to_bf16({expression})"
    if dtype is F16:
        return f"planish_to_f16({expression})"
    if dtype is BOOL:
        return f"(uint8_t)({expression})"
    return expression


def literal(value: Any, dtype: DType) -> str:
    """Return `value` as a C constant of the compute type of `dtype`, exactly."""
    if dtype in _SMALL_FLOATS:
        return _float_literal(float(np.asarray(value).astype(np.float32)), "f")
    if dtype is F64:
        return _float_literal(float(value), "")
    if dtype is BOOL:
        return "1" if bool(value) else "0"
    number = int(value)
    if dtype is I64:
        return "INT64_MIN" if number == -(2**63) else f"INT64_C({number})"
    if dtype is U64:
        return f"UINT64_C({number})"
    if dtype is U32:
        return f"{number}u"
    return "(-2147483647 - 1)" if number == -(2**31) else str(number)


def _float_literal(value: float, suffix: str) -> str:
    if math.isnan(value):
        return f'__builtin_nan{suffix}("")'
    if math.isinf(value):
        return f"{'-' if value < 0 else ''}__builtin_inf{suffix}()"
    text = repr(value) if suffix == "" else np.format_float_scientific(np.float32(value), trim="0")
    if suffix and 1e-4 <= abs(value) < 1e7:
        text = np.format_float_positional(np.float32(value), trim="0")
    return text + suffix if ("." in text or "e" in text) else text + ".0" + suffix


def c_dim(dim: Dim, symbols: Sequence[str], array: str = "d") -> str:
    """Return an extent as a C expression (int64_t) over ``array[i]``, i the symbol's position.

    Raise TacticError when `dim` uses a symbol that is not in `symbols`.
    """
    if isinstance(dim, int):
        return f"INT64_C({dim})" if abs(dim) >= 2**31 else str(dim)
    terms = []
    for monomial, coefficient in dim.terms:
        factors = [_c_atom(atom, symbols, array) for atom in monomial]
        if coefficient != 1 or not factors:
            number = str(coefficient) if abs(coefficient) < 2**31 else f"INT64_C({coefficient})"
            factors.insert(0, f"({number})" if coefficient < 0 else number)
        terms.append("*".join(factors))
    return terms[0] if len(terms) == 1 and "*" not in terms[0] else f"({' + '.join(terms)})"


def _c_atom(atom: Atom, symbols: Sequence[str], array: str) -> str:
    if not atom.arguments:
        if atom.name not in symbols:
            raise TacticError(f"the extent {atom.name} is known only after data was read")
        return f"{array}[{list(symbols).index(atom.name)}]"
    function = {"floordiv": "floordiv", "mod": "mod", "max": "max", "min": "min"}[atom.name]
    arguments = ", ".join(c_dim(argument, symbols, array) for argument in atom.arguments)
    return f"planish_{function}_i64({arguments})"


# -- templates -----------------------------------------------------------------------------------


def _suffix(dtype: DType) -> str:
    return "_f64" if dtype is F64 else ""


def _kind(dtype: DType) -> str:
    return "float" if dtype.is_float else dtype.kind


def _function(name: str) -> Template:
    """Return a template that calls a prelude function of floats (``_f64`` for doubles)."""

    def expression(node: Node, arguments: Arguments) -> str:
        given = ", ".join(str(argument) for argument in arguments)
        return f"planish_{name}{_suffix(_operand_type(node))}({given})"

    return expression


def _text(template: str) -> Template:
    """Return a template from text; {0} {1} are arguments, {alpha} attributes, {s} the suffix.

    A number in the text is written ``[1.5]`` and becomes a literal of the compute type.
    """

    def expression(node: Node, arguments: Arguments) -> str:
        dtype = _operand_type(node)
        fields = {
            name: _factor(value, dtype)
            for name, value in node.attributes.items()
            if isinstance(value, int | float)
        }
        text = template
        while "[" in text:
            before, rest = text.split("[", 1)
            number, after = rest.split("]", 1)
            text = before + _factor(float(number), dtype) + after
        return text.format(*arguments, s=_suffix(dtype), **fields)

    return expression


def _factor(value: Any, dtype: DType) -> str:
    """Return `literal`, in parentheses where a sign could meet another operator."""
    text = literal(value, dtype)
    return f"({text})" if text.startswith("-") else text


def _operand_type(node: Node) -> DType:
    """Return the dtype that decides how `node` computes: its first input's."""
    return node.present_inputs[0].dtype if node.present_inputs else node.outputs[0].dtype


def _arithmetic(operator: str) -> Template:
    """Return a template for + - *, with wraparound for signed integers."""

    def expression(node: Node, arguments: Arguments) -> str:
        dtype = _operand_type(node)
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
    dtype, (a, b) = _operand_type(node), arguments
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
    dtype, (a, b) = _operand_type(node), arguments
    c_like = bool(node.attributes.get("fmod", 0))
    if dtype.is_float:
        return f"planish_{'fmod' if c_like else 'floormod'}{_suffix(dtype)}({a}, {b})"
    if dtype.kind == "uint":
        return f"planish_rem_u64({a}, {b})"
    return f"planish_{'rem' if c_like else 'mod'}_i64({a}, {b})"


def _power(node: Node, arguments: Arguments) -> str:
    dtype, (a, b) = _operand_type(node), arguments
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
        dtype = _operand_type(node)
        if dtype.is_float:
            function = f"planish_{name}{_suffix(dtype)}"
            return _fold(arguments, lambda a, b: f"{function}({a}, {b})")
        return _fold(arguments, lambda a, b: f"({a} {operator} {b} ? {a} : {b})")

    return expression


def _mean(node: Node, arguments: Arguments) -> str:
    total = " + ".join(str(argument) for argument in arguments)
    return f"({total}) * {literal(1.0 / len(arguments), _operand_type(node))}"


def _relu(node: Node, arguments: Arguments) -> str:
    dtype, a = _operand_type(node), arguments[0]
    if dtype.is_float:
        return f"planish_relu{_suffix(dtype)}({a})"
    return f"({a} > 0 ? {a} : 0)"


def _absolute(node: Node, arguments: Arguments) -> str:
    dtype, a = _operand_type(node), arguments[0]
    if dtype.is_float:
        return f"planish_abs{_suffix(dtype)}({a})"
    return str(a) if dtype.kind == "uint" else f"({a} < 0 ? 0 - (uint64_t)({a}) : (uint64_t)({a}))"


def _negative(node: Node, arguments: Arguments) -> str:
    if _operand_type(node).is_float:
        return f"-{arguments[0]}"
    return f"0 - (uint64_t)({arguments[0]})"


def _sign(node: Node, arguments: Arguments) -> str:
    dtype, a = _operand_type(node), arguments[0]
    if dtype.is_float:
        return f"planish_sign{_suffix(dtype)}({a})"
    return f"({a} > 0) - ({a} < 0)"


def _clip(node: Node, arguments: Arguments) -> str:
    dtype = _operand_type(node)
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
    return convert(str(arguments[0]), _operand_type(node), node.output.dtype)


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
    return f"planish_{name}_u64({arguments[0]}, {arguments[1]})"


def _is_infinite(node: Node, arguments: Arguments) -> str:
    positive = int(node.attributes.get("detect_positive", 1))
    negative = int(node.attributes.get("detect_negative", 1))
    return f"planish_isinf{_suffix(_operand_type(node))}({arguments[0]}, {positive}, {negative})"


def _gelu(node: Node, arguments: Arguments) -> str:
    tanh = str(node.attributes.get("approximate", "none")) == "tanh"
    function = f"planish_gelu{'_tanh' if tanh else ''}{_suffix(_operand_type(node))}"
    return f"{function}({arguments[0]})"


def _with_bias(function: str) -> Template:
    """Return a template of contrib operators that add an optional second input first."""

    def expression(node: Node, arguments: Arguments) -> str:
        total = " + ".join(str(argument) for argument in arguments if argument is not None)
        return f"planish_{function}{_suffix(_operand_type(node))}({total})"

    return expression


def _quantize(node: Node, arguments: Arguments) -> str:
    low, high = _RANGES[node.output.dtype]
    zero = arguments[2] if len(arguments) > 2 and arguments[2] is not None else "0"
    scale = arguments[1]
    number = str(arguments[0])
    if _operand_type(node) is not F32 and not _operand_type(node).is_float:
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

# functions that exist for floats only; ONNX allows nothing else for them
_FLOAT_ONLY = frozenset(
    name for name, template in TEMPLATES.items() if template.__qualname__.startswith("_function")
)


def supported(node: Node) -> str | None:
    """Return why `node` cannot be printed as scalar C, or None when it can."""
    if node.op not in TEMPLATES:
        return f"{node.op} has no scalar C form"
    if len(node.outputs) != 1:
        return f"{node.op} with {len(node.outputs)} outputs has no scalar C form"
    for value in (*node.present_inputs, *node.outputs):
        if value.dtype not in MEMORY_TYPES:
            return f"{value.dtype} has no C type"
    if node.op in _FLOAT_ONLY and not _operand_type(node).is_float:
        return f"{node.op} of {_operand_type(node)} has no scalar C form"
    if node.op in ("QuantizeLinear", "DequantizeLinear"):
        return _quantization_supported(node)
    return None


def _quantization_supported(node: Node) -> str | None:
    if int(node.attributes.get("block_size", 0) or 0):
        return "blocked quantization parameters have no scalar C form"
    if node.op == "QuantizeLinear" and node.output.dtype not in _RANGES:
        return f"quantization to {node.output.dtype} has no scalar C form"
    for value in node.inputs[1:]:
        if (
            value is not None
            and value.rank == 1
            and value.known_shape != (1,)
            and not value.is_constant
        ):
            return "per-axis quantization parameters are not constants"
    return None


# -- constants -----------------------------------------------------------------------------------


def scalar_constant(value: Value | None) -> Any | None:
    """Return the only element of a constant of one element, else None."""
    if value is None or value.constant is None or value.array.size != 1:
        return None
    return value.array.reshape(-1)[0]


def constant_operands(nodes: Sequence[Node]) -> dict[Value, np.ndarray[Any, Any]]:
    """Return the constants of more than one element that `nodes` read, ready to be broadcast.

    The array's axes align with the node's output from the right, as in numpy; per-axis
    quantization parameters are reshaped so that they do.
    """
    found: dict[Value, np.ndarray[Any, Any]] = {}
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value is None or value.constant is None or value.array.size == 1:
                continue
            found[value] = _aligned(node, index, value)
    return found


def _aligned(node: Node, index: int, value: Value) -> np.ndarray[Any, Any]:
    array = value.array
    if index == 0 or array.ndim != 1 or node.op not in ("QuantizeLinear", "DequantizeLinear"):
        return array
    rank = node.output.rank
    axis = int(node.attributes.get("axis", 1)) % max(rank, 1)
    return array.reshape(-1, *(1,) * (rank - axis - 1))


# -- statements ----------------------------------------------------------------------------------


def print_statements(
    nodes: Sequence[Node], names: dict[Value, str], prefix: str = "v"
) -> list[str]:
    """Return one ``const T v = ...;`` for each node, in order.

    Parameters
    ----------
    nodes : sequence of Node
        Pointwise nodes for which `supported` returns None, in topological order.
    names : dict
        C expressions of the values that the nodes read from outside (scalar constants may be
        missing: they are printed as literals). The nodes' outputs are added.
    prefix : str
        Stem of new variables' names.

    Raises
    ------
    TacticError
        When a value that is not a scalar constant has no name.
    """
    lines = []
    for node in nodes:
        arguments = [_argument(node, value, names) for value in node.inputs]
        name = f"{prefix}{len(names)}"
        dtype = node.output.dtype
        expression = TEMPLATES[node.op](node, arguments)
        lines.append(f"const {compute_type(dtype)} {name} = {expression};")
        names[node.output] = name
    return lines


def _argument(node: Node, value: Value | None, names: Mapping[Value, str]) -> str | None:
    if value is None:
        return None
    if value in names:
        return names[value]
    constant = scalar_constant(value)
    if constant is None:
        raise TacticError(f"%{value.name} has no C name", where=str(node))
    return _factor(constant, value.dtype)
