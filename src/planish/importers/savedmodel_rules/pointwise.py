"""Arithmetic, comparisons, logic and activations, element by element."""

from __future__ import annotations

import math

import numpy as np

from planish.importers.tensorflow_builder import Builder, rule
from planish.importers.tensorflow_graph import TfNode
from planish.ir.dtypes import STRING
from planish.ir.graph import Value
from planish.ops.content import integers

# TensorFlow's operation to the operator that computes the same
SAME = {
    "Abs": "Abs", "Acos": "Acos", "Acosh": "Acosh", "Asin": "Asin", "Asinh": "Asinh",
    "Atan": "Atan", "Atanh": "Atanh", "BitwiseAnd": "BitwiseAnd", "BitwiseOr": "BitwiseOr",
    "BitwiseXor": "BitwiseXor", "Cos": "Cos", "Cosh": "Cosh", "Div": "Div", "Equal": "Equal",
    "Erf": "Erf", "Exp": "Exp", "Greater": "Greater", "GreaterEqual": "GreaterOrEqual",
    "Invert": "BitwiseNot", "IsNan": "IsNaN", "Less": "Less", "LessEqual": "LessOrEqual",
    "Log": "Log", "LogicalAnd": "And", "LogicalNot": "Not", "LogicalOr": "Or", "Maximum": "Max",
    "Mul": "Mul", "Neg": "Neg", "Pow": "Pow", "Relu": "Relu",
    "Sigmoid": "Sigmoid", "Sign": "Sign", "Sin": "Sin", "Sinh": "Sinh", "Softplus": "Softplus",
    "Softsign": "Softsign", "Sqrt": "Sqrt", "Sub": "Sub", "Tan": "Tan", "Tanh": "Tanh",
    "TruncateDiv": "Div", "RealDiv": "Div",
}  # fmt: skip

BINARY = frozenset(
    {
        "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterEqual", "Less",
        "LessEqual", "LogicalAnd", "LogicalOr", "Maximum", "Mul", "Pow", "RealDiv", "Sub",
        "TruncateDiv",
    }
)  # fmt: skip


@rule(*SAME)
def same(node: TfNode, builder: Builder) -> Value:
    """Emit the operator of the same meaning; of strings only equality has one."""
    expected = 2 if node.op in BINARY else 1
    if len(builder.inputs) != expected:
        builder.refuse(f"it has {len(builder.inputs)} operands, expected {expected}")
    for index, value in enumerate(builder.inputs):
        if value.dtype is STRING and node.op != "Equal":
            builder.refuse(f"input {index} is a string")
    return builder.emit(SAME[node.op], *builder.inputs)


@rule("Add", "AddV2")
def add(node: TfNode, builder: Builder) -> Value:
    """Add numbers; strings, which TensorFlow joins, are refused."""
    if len(builder.inputs) != 2:
        builder.refuse(f"it has {len(builder.inputs)} operands, expected 2")
    if builder.input(0).dtype.kind == "string":
        builder.refuse("it joins strings")
    return builder.emit("Add", *builder.inputs)


@rule("Minimum")
def minimum(node: TfNode, builder: Builder) -> Value:
    """Return the smaller number; min(c, max(c, x)) is c, which tells layers the size of a table."""
    for limit, other in (builder.inputs, builder.inputs[::-1]):
        inner = other.producer
        if not limit.dtype.is_integer or integers(limit) is None or limit.shape != ():
            continue
        if inner is None or inner.op != "Max":
            continue
        floors = [integers(each) for each in inner.present_inputs if each.shape == ()]
        if other.shape == () and integers(limit) in floors:
            return limit
    return builder.emit("Min", *builder.inputs)


@rule("MulNoNan")
def mul_no_nan(node: TfNode, builder: Builder) -> Value:
    """Return x * y, 0 where y is 0."""
    x, y = builder.inputs
    zero = builder.scalar(0, y)
    return builder.emit("Where", builder.emit("Equal", y, zero), zero, builder.emit("Mul", x, y))


@rule("Ceil", "Floor", "Round", "Rint")
def rounding(node: TfNode, builder: Builder) -> Value:
    """Round (halves to even); integers are whole already."""
    x = builder.input()
    op = "Round" if node.op == "Rint" else node.op
    return builder.emit(op, x) if x.dtype.is_float else x


@rule("AddN", "AccumulateNV2")
def add_n(node: TfNode, builder: Builder) -> Value:
    """Add any number of tensors."""
    total = builder.input(0)
    for value in builder.inputs[1:]:
        total = builder.emit("Add", total, value)
    return total


@rule("NotEqual")
def not_equal(node: TfNode, builder: Builder) -> Value:
    """Return not (a == b)."""
    return builder.emit("Not", builder.emit("Equal", *builder.inputs))


@rule("LogicalXor")
def logical_xor(node: TfNode, builder: Builder) -> Value:
    """Return a != b of booleans."""
    return builder.emit("Xor", *builder.inputs)


@rule("LeftShift", "RightShift")
def shift(node: TfNode, builder: Builder) -> Value:
    """Shift bits of unsigned integers."""
    if builder.input().dtype.kind != "uint":
        builder.refuse("shifts of signed integers are not converted")
    direction = "LEFT" if node.op == "LeftShift" else "RIGHT"
    return builder.emit("BitShift", *builder.inputs, direction=direction)


@rule("Square")
def square(node: TfNode, builder: Builder) -> Value:
    """Return x * x."""
    x = builder.input()
    return builder.emit("Mul", x, x)


@rule("Rsqrt")
def rsqrt(node: TfNode, builder: Builder) -> Value:
    """Return 1 / sqrt(x)."""
    return builder.emit("Reciprocal", builder.emit("Sqrt", builder.input()))


@rule("Reciprocal", "Inv")
def reciprocal(node: TfNode, builder: Builder) -> Value:
    """Return 1 / x."""
    x = builder.input()
    if x.dtype.is_float:
        return builder.emit("Reciprocal", x)
    return builder.emit("Div", builder.scalar(1, x), x)


@rule("Erfc")
def erfc(node: TfNode, builder: Builder) -> Value:
    """Return 1 - erf(x)."""
    x = builder.input()
    return builder.emit("Sub", builder.scalar(1, x), builder.emit("Erf", x))


@rule("Expm1")
def expm1(node: TfNode, builder: Builder) -> Value:
    """Return exp(x) - 1 as 2 exp(x/2) sinh(x/2), exact near 0."""
    x = builder.input()
    half = builder.emit("Mul", x, builder.scalar(0.5, x))
    product = builder.emit("Mul", builder.emit("Exp", half), builder.emit("Sinh", half))
    return builder.emit("Mul", product, builder.scalar(2, x))


@rule("Log1p")
def log1p(node: TfNode, builder: Builder) -> Value:
    """Return log(1 + x); near 0 as 2 atanh(x / (2 + x)), which does not round 1 + x."""
    x = builder.input()
    ratio = builder.emit("Div", x, builder.emit("Add", x, builder.scalar(2, x)))
    near = builder.emit("Mul", builder.emit("Atanh", ratio), builder.scalar(2, x))
    far = builder.emit("Log", builder.emit("Add", x, builder.scalar(1, x)))
    small = builder.emit("Less", builder.emit("Abs", x), builder.scalar(0.5, x))
    return builder.emit("Where", small, near, far)


@rule("SquaredDifference")
def squared_difference(node: TfNode, builder: Builder) -> Value:
    """Return (a - b)^2."""
    difference = builder.emit("Sub", *builder.inputs)
    return builder.emit("Mul", difference, difference)


@rule("Xdivy", "Xlogy", "Xlog1py", "DivNoNan")
def guarded(node: TfNode, builder: Builder) -> Value:
    """Return x / y, x log(y), x log(1 + y): 0 where x is 0, for DivNoNan where y is 0."""
    x, y = builder.inputs
    zero = builder.scalar(0, x)
    tested = y if node.op == "DivNoNan" else x
    if node.op in ("Xdivy", "DivNoNan"):
        result = builder.emit("Div", x, y)
    else:
        moved = builder.emit("Add", y, builder.scalar(1, y)) if node.op == "Xlog1py" else y
        result = builder.emit("Mul", x, builder.emit("Log", moved))
    return builder.emit("Where", builder.emit("Equal", tested, zero), zero, result)


@rule("FloorDiv")
def floor_div(node: TfNode, builder: Builder) -> Value:
    """Return floor(a / b)."""
    a, b = builder.inputs
    quotient = builder.emit("Div", a, b)
    if a.dtype.is_float:
        return builder.emit("Floor", quotient)
    if a.dtype.kind == "uint" or quotient.content is not None:
        return quotient  # extents are not negative
    whole = builder.emit("Sub", a, builder.emit("Mod", a, b, fmod=0))
    return builder.emit("Div", whole, b)


@rule("FloorMod")
def floor_mod(node: TfNode, builder: Builder) -> Value:
    """Return the remainder with the sign of the divisor."""
    a, b = builder.inputs
    if not a.dtype.is_float:
        return builder.emit("Mod", a, b, fmod=0)
    rest = builder.emit("Mod", a, b, fmod=1)
    zero = builder.scalar(0, a)
    signs = builder.emit("Xor", builder.emit("Less", rest, zero), builder.emit("Less", b, zero))
    some = builder.emit("Not", builder.emit("Equal", rest, zero))
    other = builder.emit("And", signs, some)
    return builder.emit("Where", other, builder.emit("Add", rest, b), rest)


@rule("Mod", "TruncateMod")
def truncate_mod(node: TfNode, builder: Builder) -> Value:
    """Return the remainder with the sign of the dividend."""
    return builder.emit("Mod", *builder.inputs, fmod=1)


@rule("Atan2")
def atan2(node: TfNode, builder: Builder) -> Value:
    """Return the angle of (x, y): atan(y / x), turned where x is negative."""
    y, x = builder.inputs
    zero, pi = builder.scalar(0, x), builder.scalar(math.pi, x)
    angle = builder.emit("Atan", builder.emit("Div", y, x))
    below = builder.emit("Less", y, zero)
    turn = builder.emit("Where", below, builder.emit("Neg", pi), pi)
    turned = builder.emit("Add", angle, turn)
    angle = builder.emit("Where", builder.emit("Less", x, zero), turned, angle)
    still = builder.emit("And", builder.emit("Equal", x, zero), builder.emit("Equal", y, zero))
    return builder.emit("Where", still, zero, angle)


@rule("IsInf")
def is_inf(node: TfNode, builder: Builder) -> Value:
    """Whether elements are infinite."""
    return builder.emit("IsInf", builder.input())


@rule("IsFinite")
def is_finite(node: TfNode, builder: Builder) -> Value:
    """Whether elements are neither infinite nor NaN."""
    x = builder.input()
    odd = builder.emit("Or", builder.emit("IsInf", x), builder.emit("IsNaN", x))
    return builder.emit("Not", odd)


@rule("ClipByValue")
def clip_by_value(node: TfNode, builder: Builder) -> Value:
    """Return min(max(x, low), high)."""
    x, low, high = builder.inputs
    if low.shape == () and high.shape == ():
        return builder.emit("Clip", x, low, high)
    return builder.emit("Min", builder.emit("Max", x, low), high)


@rule("Relu6")
def relu6(node: TfNode, builder: Builder) -> Value:
    """Return x between 0 and 6."""
    x = builder.input()
    return builder.emit("Clip", x, builder.scalar(0, x), builder.scalar(6, x))


@rule("LeakyRelu")
def leaky_relu(node: TfNode, builder: Builder) -> Value:
    """Return x, alpha * x where it is negative."""
    alpha = float(builder.attribute("alpha", 0.2))
    return builder.emit("LeakyRelu", builder.input(), alpha=alpha)


@rule("Elu")
def elu(node: TfNode, builder: Builder) -> Value:
    """Return x, exp(x) - 1 where it is negative."""
    return builder.emit("Elu", builder.input())


@rule("Selu")
def selu(node: TfNode, builder: Builder) -> Value:
    """Return the scaled exponential linear unit."""
    return builder.emit(
        "Selu",
        builder.input(),
        alpha=1.6732632423543772848170429916717,
        gamma=1.0507009873554804934193349852946,
    )


@rule("Select", "SelectV2")
def select(node: TfNode, builder: Builder) -> Value:
    """Choose between two tensors; Select's vector condition chooses whole rows."""
    condition, then, other = builder.inputs
    if node.op == "Select" and condition.shape is not None and len(condition.shape) == 1:
        rank = builder.rank(then)
        if rank > 1:
            condition = builder.unsqueeze(condition, *range(1, rank))
    return builder.emit("Where", condition, then, other)


@rule("Cast")
def cast(node: TfNode, builder: Builder) -> Value:
    """Convert the element type, rounding towards zero to integers."""
    return builder.cast(builder.input(), builder.dtype(builder.attribute("DstT"), "the result"))


@rule("Bitcast")
def bitcast(node: TfNode, builder: Builder) -> Value:
    """Pass a tensor on whose type does not change."""
    if builder.dtype(builder.attribute("type")) is not builder.input().dtype:
        builder.refuse("it reads the bits of one type as another")
    return builder.input()


@rule(
    "Identity", "StopGradient", "Snapshot", "PreventGradient", "CheckNumerics", "CheckNumericsV2",
    "EnsureShape", "DebugGradientIdentity", "PlaceholderWithDefault", "OptimizationBarrier",
    "ReadVariableOp",
)  # fmt: skip
def passed_on(node: TfNode, builder: Builder) -> Value:
    """Return the operand; lists of tensors pass as well."""
    if not builder.operands:
        builder.refuse("it has no operand")
    operand: Value = builder.operands[0]
    return operand


@rule("IdentityN")
def identity_n(node: TfNode, builder: Builder) -> list[Value]:
    """Return the operands."""
    return list(builder.operands)


@rule("NoOp", "Assert", "Print", "PrintV2")
def dropped(node: TfNode, builder: Builder) -> list[Value]:
    """Leave out what only checks or prints; Print hands its first operand on."""
    return list(builder.operands[:1]) if node.op == "Print" else []


@rule("ZerosLike", "zeros_like", "OnesLike", "ones_like")
def constant_like(node: TfNode, builder: Builder) -> Value:
    """Return zeros or ones in the shape and type of the operand."""
    operand = builder.operands[0] if builder.operands else None
    if not isinstance(operand, Value):
        if node.op in ("OnesLike", "ones_like"):
            builder.refuse("its operand is no tensor")
        return operand  # type: ignore[return-value] # an empty list stays one
    number = 1 if node.op in ("OnesLike", "ones_like") else 0
    one = np.full(1, number, operand.dtype.numpy)
    return builder.emit("ConstantOfShape", builder.shape_of(operand), value=one)
