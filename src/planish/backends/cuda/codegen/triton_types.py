"""Element types, constants and extents as Triton text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from planish.errors import TacticError
from planish.ir.dtypes import (
    BF16,
    BOOL,
    F8E4M3,
    F16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    DType,
)
from planish.ir.shape import Atom, Dim

# element types in memory: as parameters of a kernel's signature, and inside of its source
POINTERS: dict[DType, str] = {
    F32: "*fp32", F64: "*fp64", F16: "*fp16", BF16: "*bf16", F8E4M3: "*fp8e4nv",
    BOOL: "*i8", I8: "*i8", I16: "*i16", I32: "*i32", I64: "*i64",
    U8: "*u8", U16: "*u16", U32: "*u32", U64: "*u64",
}  # fmt: skip
ELEMENTS: dict[DType, str] = {
    F32: "tl.float32", F64: "tl.float64", F16: "tl.float16", BF16: "tl.bfloat16",
    F8E4M3: "tl.float8e4nv", BOOL: "tl.int8", I8: "tl.int8", I16: "tl.int16", I32: "tl.int32",
    I64: "tl.int64", U8: "tl.uint8", U16: "tl.uint16", U32: "tl.uint32", U64: "tl.uint64",
}  # fmt: skip
SMALL_FLOATS = (F32, F16, BF16, F8E4M3)


def compute_type(dtype: DType) -> str:
    """Return the Triton type in which values of `dtype` are computed."""
    if dtype in SMALL_FLOATS:
        return "tl.float32"
    return "tl.int1" if dtype is BOOL else ELEMENTS[dtype]


def sum_type(dtype: DType) -> DType:
    """Return the type that elements or products of `dtype` are summed in."""
    if dtype.is_float:
        return F64 if dtype is F64 else F32
    return U64 if dtype is U64 else I64


def literal(value: Any, dtype: DType) -> str:
    """Return a number as Triton text; where the type matters the context has to cast it."""
    if dtype is BOOL:
        return "True" if value else "False"
    if dtype.is_integer:
        return str(int(value))
    number = float(value)
    if math.isnan(number) or math.isinf(number):
        return f'float("{number}")'
    return repr(number)


def print_dim(dim: Dim, symbols: Sequence[str]) -> str:
    """Return an extent as Triton text over the parameters ``s0``, ``s1``... of the symbols.

    Raise TacticError when `dim` uses a symbol that is not in `symbols`.
    """
    if isinstance(dim, int):
        return str(dim)
    terms = []
    for monomial, coefficient in dim.terms:
        factors = [_print_atom(atom, symbols) for atom in monomial]
        if coefficient != 1 or not factors:
            factors.insert(0, f"({coefficient})")
        terms.append(" * ".join(factors))
    return f"({' + '.join(terms)})"


def _print_atom(atom: Atom, symbols: Sequence[str]) -> str:
    if not atom.arguments:
        if atom.name not in symbols:
            raise TacticError(f"the extent {atom.name} is known only after data was read")
        return f"s{list(symbols).index(atom.name)}"
    first, second = (print_dim(argument, symbols) for argument in atom.arguments)
    operators = {"floordiv": "//", "mod": "%"}
    if atom.name in operators:
        return f"({first} {operators[atom.name]} {second})"
    return f"{atom.name}({first}, {second})"
