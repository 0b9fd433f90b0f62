"""Pointwise operators as scalar C statements.

Every pointwise node becomes one statement ``const float v3 = planish_exp(v2);``. Statements are
printed inside loops that the C compiler vectorises, so each expression is branch-free. Values are
computed in the type of their dtype: f16, bf16 and f32 as ``float`` (values between nodes are not
rounded to 16 bits), f64 as ``double``, integers in their own width with wraparound, bool as
``int`` 0 or 1. `TEMPLATES` (scalar_templates.py) maps an operator to its expression: adding a
pointwise operator to generated code is adding a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from planish.backends.cpu.codegen.c_types import (
    INTEGER_RANGES,
    MEMORY_TYPES,
    c_dim,
    compute_type,
    literal,
    load,
    memory_type,
    scalar_constant,
    store,
    to_memory,
)
from planish.backends.cpu.codegen.scalar_templates import (
    TEMPLATES,
    convert,
    factor,
    operand_type,
)
from planish.errors import TacticError
from planish.ir.graph import Node, Value

__all__ = [
    "MEMORY_TYPES",
    "TEMPLATES",
    "c_dim",
    "compute_type",
    "constant_operands",
    "convert",
    "literal",
    "load",
    "memory_type",
    "print_statements",
    "scalar_constant",
    "store",
    "supported",
    "to_memory",
]

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
    if node.op in _FLOAT_ONLY and not operand_type(node).is_float:
        return f"{node.op} of {operand_type(node)} has no scalar C form"
    if node.op in ("QuantizeLinear", "DequantizeLinear"):
        return _quantization_supported(node)
    return None


def _quantization_supported(node: Node) -> str | None:
    if int(node.attributes.get("block_size", 0) or 0):
        return "blocked quantization parameters have no scalar C form"
    if node.op == "QuantizeLinear" and node.output.dtype not in INTEGER_RANGES:
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
        # a narrow variable between floats would make the compiler's vectors four times as long
        narrow = node.op == "QuantizeLinear" and dtype.bits < 32
        lines.append(f"const {'int32_t' if narrow else compute_type(dtype)} {name} = {expression};")
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
    return factor(constant, value.dtype)
