"""Spellings that exporters use, beyond each rule's own example."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest

from planish.ir.graph import Graph
from planish.ops.interpreter import run_graph
from planish.passes.graph_pass import run_pipeline
from planish.passes.pipeline import recognise, simplify
from tests.passes.checks import assert_equal_results, parse, random_inputs

CONSTANTS = """
  @zero: f32[] = 0.0
  @half: f32[] = 0.5
  @one: f32[] = 1.0
  @three: f32[] = 3.0
  @six: f32[] = 6.0
  @sixth: f32[] = 0.16666667
  @root: f32[] = 0.70710678
  @root2: f32[] = 1.41421356
  @pi: f32[] = 0.7978845608
  @cubic: f32[] = 0.044715
  @low: f32[] = -1e9
"""


def check(body: str, wanted: str, inputs: str = "%x: f32[2,3]", symbols: str = "") -> Graph:
    """Simplify and recognise; the graph must end with one `wanted` and give the same results."""
    graph = parse(f"{symbols}\ngraph g({inputs}) {{{CONSTANTS}{body}}}")
    arrays = random_inputs(graph)
    expected = run_graph(graph, arrays)
    run_pipeline(graph, [simplify(), recognise(), simplify()])
    assert_equal_results(expected, graph, arrays)
    assert [node.op for node in graph].count(wanted) == 1, [node.op for node in graph]
    return graph


@pytest.mark.parametrize("order", list(permutations(["%x", "%gate", "@half"])))
def test_gelu_in_any_order(order: tuple[str, str, str]) -> None:
    first, second, third = order
    graph = check(
        f"""
        %1 = Mul(%x, @root)
        %2 = Erf(%1)
        %gate = Add(@one, %2)
        %3 = Mul({first}, {second})
        %4 = Mul({third}, %3)
        return %4
        """,
        "Gelu",
    )
    assert len(graph) == 1


def test_gelu_of_a_product() -> None:
    graph = check(
        """
        %p = Mul(%x, %x)
        %1 = Div(%p, @root2)
        %2 = Erf(%1)
        %3 = Add(%2, @one)
        %4 = Mul(%p, @half)
        %5 = Mul(%4, %3)
        return %5
        """,
        "Gelu",
    )
    assert [node.op for node in graph] == ["Mul", "Gelu"]


def test_gelu_tanh_with_products_and_factored() -> None:
    graph = check(
        """
        %1 = Mul(%x, %x)
        %2 = Mul(%1, @cubic)
        %3 = Add(%2, @one)
        %4 = Mul(%x, @pi)
        %5 = Mul(%4, %3)
        %6 = Tanh(%5)
        %7 = Add(%6, @one)
        %8 = Mul(%7, %x)
        %9 = Mul(%8, @half)
        return %9
        """,
        "Gelu",
    )
    assert len(graph) == 1


@pytest.mark.parametrize(
    "body",
    [
        "%2 = HardSigmoid(%x) {alpha=0.16666667, beta=0.5}\n%3 = Mul(%x, %2)\nreturn %3",
        "%1 = Add(%x, @three)\n%2 = Clip(%1, @zero, @six)\n%3 = Mul(%2, @sixth)\n"
        "%4 = Mul(%3, %x)\nreturn %4",
        "%1 = Add(@three, %x)\n%2 = Clip(%1, @zero, @six)\n%3 = Div(%2, @six)\n"
        "%4 = Mul(%x, %3)\nreturn %4",
    ],
)
def test_hard_swish(body: str) -> None:
    assert len(check(body, "HardSwish")) == 1


def test_rms_norm_with_scale() -> None:
    graph = check(
        """
        @g: f32[8]
        @axis: i64[1] = [-1]
        @e: f32[] = 0.000001
        @two: f32[] = 2.0
        %1 = Pow(%x, @two)
        %2 = ReduceMean(%1, @axis)
        %3 = Add(%2, @e)
        %4 = Sqrt(%3)
        %5 = Div(%x, %4)
        %6 = Mul(@g, %5)
        return %6
        """,
        "RMSNormalization",
        "%x: f32[2,3,8]",
    )
    assert len(graph) == 1


QKV = "%q: f32[B,2,5,8], %k: f32[B,2,7,8], %v: f32[B,2,7,4]"
SYMBOLS = "symbols B=(1,3,4)"
ATTENTION: dict[str, tuple[str, str]] = {
    "plain": (QKV, "%1 = Transpose(%k) {perm=[0,1,3,2]}\n%2 = MatMul(%q, %1)\n%s = Mul(%2, @half)"),
    "scales on both operands": (
        QKV,
        "%1 = Transpose(%k) {perm=[0,1,3,2]}\n%2 = Mul(%1, @root)\n%3 = Mul(%q, @root)\n"
        "%s = MatMul(%3, %2)",
    ),
    "flattened transpose": (
        QKV,
        "@flat: i64[3] = [-1, 7, 8]\n@back: i64[4] = [-1, 2, 8, 7]\n%1 = Reshape(%k, @flat)\n"
        "%2 = Transpose(%1) {perm=[0,2,1]}\n%3 = Reshape(%2, @back)\n%s = MatMul(%q, %3)",
    ),
    "divided, with a mask": (
        QKV + ", %m: f32[B,1,1,7]",
        "%1 = Transpose(%k) {perm=[0,1,3,2]}\n%2 = MatMul(%q, %1)\n%3 = Div(%2, @root2)\n"
        "%s = Add(%3, %m)",
    ),
    "a mask that is scaled as well": (
        QKV + ", %m: f32[5,7]",
        "%1 = Transpose(%k) {perm=[0,1,3,2]}\n%2 = MatMul(%q, %1)\n%3 = Add(%m, %2)\n"
        "%s = Mul(%3, @half)",
    ),
    "a boolean mask": (
        QKV + ", %m: bool[B,1,5,7]",
        "%1 = Transpose(%k) {perm=[0,1,3,2]}\n%2 = MatMul(%q, %1)\n%s = Where(%m, %2, @low)",
    ),
    "a mask of what to drop": (
        QKV + ", %m: bool[5,7]",
        "%1 = Transpose(%k) {perm=[0,1,3,2]}\n%2 = MatMul(%q, %1)\n%s = Where(%m, @low, %2)",
    ),
    "keys cached transposed": (
        QKV + ", %t: f32[B,2,8,7]",
        "%s = MatMul(%q, %t)",
    ),
    "two masks": (
        QKV + ", %m: f32[B,1,1,7]",
        "@bias: f32[1,2,5,7]\n%1 = Transpose(%k) {perm=[0,1,3,2]}\n%2 = MatMul(%q, %1)\n"
        "%3 = Add(%2, @bias)\n%s = Add(%3, %m)",
    ),
}


@pytest.mark.parametrize("spelling", ATTENTION)
def test_attention(spelling: str) -> None:
    inputs, body = ATTENTION[spelling]
    check(f"{body}\n%w = Softmax(%s)\n%y = MatMul(%w, %v)\nreturn %y", "Attention", inputs, SYMBOLS)


def test_attention_with_a_guard_against_nan() -> None:
    check(
        """
        %1 = Transpose(%k) {perm=[0,1,3,2]}
        %2 = MatMul(%q, %1)
        %w = Softmax(%2)
        %nan = IsNaN(%w)
        %g = Where(%nan, @zero, %w)
        %y = MatMul(%g, %v)
        return %y
        """,
        "Attention",
        QKV,
        SYMBOLS,
    )


def test_attention_with_three_axes() -> None:
    check(
        """
        %1 = Transpose(%k) {perm=[0,2,1]}
        %2 = MatMul(%q, %1)
        %w = Softmax(%2)
        %y = MatMul(%w, %v)
        return %y
        """,
        "Attention",
        "%q: f32[6,5,8], %k: f32[6,7,8], %v: f32[6,7,4]",
    )


def test_attention_with_grouped_heads() -> None:
    graph = check(
        """
        @wide: i64[5] = [1, 1, 3, 1, 1]
        @k6: i64[4] = [0, 6, 7, 8]
        @v6: i64[4] = [0, 6, 7, 4]
        @two: i64[1] = [2]
        %1 = Unsqueeze(%k, @two)
        %2 = Expand(%1, @wide)
        %3 = Reshape(%2, @k6)
        %4 = Transpose(%3) {perm=[0,1,3,2]}
        %5 = Unsqueeze(%v, @two)
        %6 = Expand(%5, @wide)
        %7 = Reshape(%6, @v6)
        %s = MatMul(%q, %4)
        %w = Softmax(%s)
        %y = MatMul(%w, %7)
        return %y
        """,
        "Attention",
        "%q: f32[B,6,5,8], %k: f32[B,2,7,8], %v: f32[B,2,7,4]",
        SYMBOLS,
    )
    (attention,) = graph
    assert attention.inputs[1] is graph.inputs[1]
    assert attention.inputs[2] is graph.inputs[2]


def test_attention_of_shifted_windows() -> None:
    check(
        """
        @bias: f32[1,2,5,5]
        @windows: f32[1,3,1,5,5]
        @grouped: i64[5] = [-1, 3, 2, 5, 5]
        @flat: i64[4] = [-1, 2, 5, 5]
        %1 = Transpose(%k) {perm=[0,1,3,2]}
        %2 = MatMul(%q, %1)
        %3 = Add(%2, @bias)
        %4 = Reshape(%3, @grouped)
        %5 = Add(%4, @windows)
        %6 = Reshape(%5, @flat)
        %w = Softmax(%6)
        %y = MatMul(%w, %v)
        return %y, %x
        """,
        "Attention",
        "%x: f32[B,4], %q: f32[3*B,2,5,8], %k: f32[3*B,2,5,8], %v: f32[3*B,2,5,8]",
        SYMBOLS,
    )


def test_nothing_is_recognised_twice() -> None:
    passes: Callable[[], list[object]] = lambda: [simplify(), recognise()]  # noqa: E731
    graph = parse("graph g(%x: f32[2,3]) {\n%1 = Sigmoid(%x)\n%2 = Mul(%x, %1)\nreturn %2\n}")
    first = run_pipeline(graph, passes())  # type: ignore[arg-type]
    second = run_pipeline(graph, passes())  # type: ignore[arg-type]
    assert [s.modified for s in first] == [False, True]
    assert [s.modified for s in second] == [False, False]


def test_gelu_with_the_complementary_error_function() -> None:
    """Keras 3: 0.5 x erfc(-x / sqrt(2))."""
    graph = check(
        """
        %1 = Neg(%x)
        %2 = Mul(%1, @root)
        %3 = Erf(%2)
        %4 = Sub(@one, %3)
        %5 = Mul(%x, @half)
        %6 = Mul(%5, %4)
        return %6
        """,
        "Gelu",
    )
    assert len(graph) == 1


@pytest.mark.parametrize("bias", ["%6 = Add(%5, @b)", "%6 = Identity(%5)"])
def test_layer_norm_with_a_negative_mean(bias: str) -> None:
    """Keras 3: x * (r * g) + (-mean * (r * g) + b)."""
    check(
        f"""
        @axis: i64[1] = [-1]
        @epsilon: f32[] = 0.001
        @g: f32[1,1,8]
        @b: f32[1,1,8]
        %mean = ReduceMean(%x, @axis)
        %d = Sub(%x, %mean)
        %square = Mul(%d, %d)
        %var = ReduceMean(%square, @axis)
        %1 = Add(%var, @epsilon)
        %2 = Sqrt(%1)
        %3 = Reciprocal(%2)
        %4 = Mul(%3, @g)
        %minus = Neg(%mean)
        %5 = Mul(%minus, %4)
        {bias}
        %7 = Mul(%x, %4)
        %8 = Add(%7, %6)
        return %8
        """,
        "LayerNormalization",
        "%x: f32[2,3,8]",
    )


def test_rows_that_a_mask_hides_as_a_whole_keep_equal_weights() -> None:
    """Where nothing may be attended a finite number gives the mean of the values, not zeros."""
    graph = parse(
        """
        graph g(%q: f32[1,2,3,4], %k: f32[1,2,5,4], %v: f32[1,2,5,4], %m: bool[1,1,3,5]) {
          @low: f32[] = -2e38
          %1 = Transpose(%k) {perm=[0,1,3,2]}
          %2 = MatMul(%q, %1)
          %3 = Where(%m, %2, @low)
          %4 = Softmax(%3) {axis=-1}
          %5 = MatMul(%4, %v)
          return %5
        }"""
    )
    arrays = random_inputs(graph)
    arrays[3] = np.array([[[[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]]], np.bool_)
    expected = run_graph(graph, arrays)
    run_pipeline(graph, [simplify(), recognise(), simplify()])
    assert "Attention" in [node.op for node in graph]
    assert_equal_results(expected, graph, arrays)
    np.testing.assert_allclose(expected[0][:, :, 1], arrays[2].mean(axis=2), rtol=1e-5)
