"""Scalar C: literals, extents, and which nodes can be printed."""

from __future__ import annotations

import numpy as np
import pytest

from planish.backends.cpu.codegen.scalar import (
    c_dim,
    constant_operands,
    literal,
    print_statements,
    supported,
)
from planish.errors import TacticError
from planish.ir.dtypes import BF16, BOOL, F32, F64, I32, I64, U8, DType
from planish.ir.shape import parse_dim
from planish.ops.infer import graph_from_text


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (0.5, F32, "0.5f"),
        (3, F32, "3.0f"),
        (1e-30, F32, "1.0e-30f"),
        (0.1, BF16, "0.1f"),
        (0.1, F64, "0.1"),
        (float("inf"), F32, "__builtin_inff()"),
        (float("-inf"), F64, "-__builtin_inf()"),
        (True, BOOL, "1"),
        (-7, I32, "-7"),
        (-(2**31), I32, "(-2147483647 - 1)"),
        (2**40, I64, "INT64_C(1099511627776)"),
        (200, U8, "200"),
    ],
)
def test_literal(value: object, dtype: DType, text: str) -> None:
    assert literal(value, dtype) == text


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-38, 123456.789, 16777217.0, -2.5e20])
def test_float_literals_are_exact(value: float) -> None:
    assert np.float32(literal(value, F32).rstrip("f")) == np.float32(value)


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        ("12", "12"),
        ("N", "d[0]"),
        ("2*N*S-3", "(2*d[0]*d[1] + (-3))"),
        ("floordiv(S,2)+1", "(planish_floordiv_i64(d[1], 2) + 1)"),
        ("max(N,S)", "planish_max_i64(d[0], d[1])"),
    ],
)
def test_extent(dim: str, text: str) -> None:
    assert c_dim(parse_dim(dim), ("N", "S")) == text


def test_extent_that_only_data_decides_is_refused() -> None:
    with pytest.raises(TacticError, match="known only after data was read"):
        c_dim(parse_dim("?count"), ("N",))


def test_statements_print_scalars_and_name_results() -> None:
    graph = graph_from_text(
        """graph g(%a: f32[4], %b: f32[4]) {
            @h: f32[] = -0.5
            %c = Mul(%a, @h)
            %d = Add(%c, %b)
            return %d
        }"""
    )
    names = {graph.inputs[0]: "a", graph.inputs[1]: "b"}
    lines = print_statements(list(graph), names)
    assert lines == ["const float v2 = a * (-0.5f);", "const float v3 = v2 + b;"]
    assert names[graph.outputs[0]] == "v3"


def test_statements_ask_for_names() -> None:
    graph = graph_from_text("graph g(%a: f32[4]) { %b = Neg(%a) return %b }")
    with pytest.raises(TacticError, match="has no C name"):
        print_statements(list(graph), {})


def test_axis_parameters_are_aligned_to_broadcast() -> None:
    graph = graph_from_text(
        """graph g(%a: u8[2,3,4]) {
            @s: f32[3]
            %b = DequantizeLinear(%a, @s) {axis=1}
            return %b
        }"""
    )
    (array,) = constant_operands(list(graph)).values()
    assert array.shape == (3, 1)


def test_unknown_operators_are_refused_with_a_reason() -> None:
    graph = graph_from_text("graph g(%a: f32[4,4]) { %b = Det(%a) return %b }")
    assert supported(next(iter(graph))) == "Det has no scalar C form"
