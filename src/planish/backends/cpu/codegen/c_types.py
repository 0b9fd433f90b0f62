"""Element types, constants and extents as C."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from planish.ir.graph import Value
from planish.ir.shape import Atom, Dim

MEMORY_TYPES: dict[DType, str] = {
    F32: "float", F64: "double", BF16: "uint16_t", F16: "uint16_t", BOOL: "uint8_t",
    I8: "int8_t", I16: "int16_t", I32: "int32_t", I64: "int64_t", I4: "int8_t",
    U8: "uint8_t", U16: "uint16_t", U32: "uint32_t", U64: "uint64_t", U4: "uint8_t",
}  # fmt: skip
SMALL_FLOATS = (F32, F16, BF16)
INTEGER_RANGES = {
    I4: (-8, 7), U4: (0, 15), I8: (-128, 127), U8: (0, 255),
    I16: (-32768, 32767), U16: (0, 65535), I32: (-(2**31), 2**31 - 1),
}  # fmt: skip


def memory_type(dtype: DType) -> str:
    """Return the C type of one element in memory; raise KeyError when there is none."""
    return MEMORY_TYPES[dtype]


def compute_type(dtype: DType) -> str:
    """Return the C type in which values of `dtype` are computed."""
    if dtype in SMALL_FLOATS:
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
    if dtype in SMALL_FLOATS:
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


def scalar_constant(value: Value | None) -> Any | None:
    """Return the only element of a constant of one element, else None."""
    if value is None or value.constant is None or value.array.size != 1:
        return None
    return value.array.reshape(-1)[0]
