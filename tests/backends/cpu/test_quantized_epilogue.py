"""Quantization behind an anchor of floats: integers that are floats until they are stored."""

from __future__ import annotations

import numpy as np
import pytest

from planish.backends.cpu.codegen.epilogue import make_epilogue, split_body
from planish.backends.cpu.device import detect
from planish.backends.cpu.tactics.convolution import GemmConvolution
from planish.ir.dtypes import F32, I8, U8, DType
from planish.ir.graph import Graph, Value
from planish.ir.layout import Layout
from planish.ops.infer import infer_node
from planish.ops.interpreter import run_graph
from planish.tactics.region import make_region
from planish.tactics.tactic import Region
from planish.tactics.target import Target
from tests.backends.cpu.convolution_cases import add_node
from tests.backends.cpu.kernel_harness import Case, Library, run_case

TARGET = Target("cpu", detect().features, threads=1, l1=32 << 10, l2=1 << 20)
NARROW = Target("cpu", TARGET.features - {"avx512f", "avx512_bf16"}, threads=1, l1=16 << 10)


def quantize(graph: Graph, value: Value, dtype: DType, zero: int) -> Value:
    parameters = [
        graph.constant(np.array(0.37, np.float32)),
        graph.constant(np.array(zero, dtype.numpy)),
    ]
    result = add_node(graph, "QuantizeLinear", [value, *parameters])
    assert result.producer is not None
    infer_node(result.producer)
    return result


def region(form: str) -> Region:
    """A convolution of small integers (its sums are exact) with a quantized result."""
    random = np.random.default_rng(3)
    graph = Graph("conv")
    x = graph.add_input("x", F32, (1, 5, 6, 7))
    weights = graph.constant(random.integers(-4, 5, (18, 5, 1, 1)).astype(np.float32))
    y = add_node(
        graph, "Conv", [x, weights], group=1, kernel_shape=(1, 1), pads=(0,) * 4,
        strides=(1, 1), dilations=(1, 1),
    )  # fmt: skip
    dtype, zero = (U8, 17) if form == "vector" else (I8, -20)
    if form == "vector":
        y = add_node(graph, "Sigmoid", [add_node(graph, "Relu", [y])])
    result = quantize(graph, y, dtype, zero)
    if form != "stored":
        assert result.producer is not None
        result = add_node(graph, "DequantizeLinear", [result, *result.producer.present_inputs[1:]])
        result = add_node(graph, "Relu", [result])
    graph.add_output(result)
    layout = Layout((0, 2, 3, 1), ((0, 0),) * 4)
    return make_region(graph, "Conv", {v.name: layout for v in (x, result)})


@pytest.mark.parametrize("target", [TARGET, NARROW], ids=["widest", "avx2"])
@pytest.mark.parametrize("form", ["inline", "vector", "stored"])
def test_integers_are_those_of_the_reference(form: str, target: Target) -> None:
    if not target.has("avx2", "fma"):
        pytest.skip("the CPU has no AVX2")
    given = region(form)
    anchor = given.anchor
    assert anchor is not None
    printed = make_epilogue(given, split_body(given.body, anchor), 1, None).form
    assert printed == ("inline" if form == "stored" else form)
    tactic = GemmConvolution()
    assert tactic.supports(given, target)
    x = np.random.default_rng(5).integers(-9, 10, (1, 5, 6, 7)).astype(np.float32)
    expected = run_graph(given.body, [x])
    kernel = tactic.build(given, tactic.configs(given, target)[0], target)
    case = Case(form, given, kernel, [x], expected)
    (got,) = run_case(Library([kernel], target.features), 0, case)
    assert got.dtype == expected[0].dtype
    np.testing.assert_allclose(
        got.astype(np.float64), expected[0].astype(np.float64), rtol=0, atol=1e-6
    )
