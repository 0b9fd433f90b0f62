"""Generated kernels beside oneDNN on the shapes of ResNet-50 and BERT: two independent results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from planish.backends.cpu.device import detect
from planish.backends.cpu.tactics import discover
from planish.backends.cpu.tactics.onednn import OneDnn
from planish.ir.dtypes import F32
from planish.ir.graph import Graph, Value
from planish.ir.layout import Layout
from planish.ops.tolerance import mismatch, tolerance_of
from planish.tactics.tactic import Kernel, Region
from tests.backends.cpu.kernel_harness import Case, Library, run_case
from tests.backends.cpu.onednn.harness import (
    DTYPES,
    IR,
    add_node,
    convolution_region,
    make_runner,
    needs_onednn,
    product_region,
    random_inputs,
    run,
)

pytestmark = [pytest.mark.slow, needs_onednn]

TARGET = detect(2)
GENERATED = ("amx_", "gemm_", "winograd", "direct_conv", "depthwise_conv")
CONFIGURATIONS = 2  # the best guesses of every generated tactic; their own tests run them all

# input channels, output channels, input size, kernel, stride, residual
RESNET50 = [
    (3, 64, 224, 7, 2, False), (64, 64, 56, 1, 1, False), (64, 64, 56, 3, 1, False),
    (64, 256, 56, 1, 1, True), (256, 64, 56, 1, 1, False), (256, 128, 56, 1, 1, False),
    (128, 128, 56, 3, 2, False), (256, 512, 56, 1, 2, True), (128, 512, 28, 1, 1, True),
    (512, 128, 28, 1, 1, False), (128, 128, 28, 3, 1, False), (512, 256, 28, 1, 1, False),
    (256, 256, 28, 3, 2, False), (512, 1024, 28, 1, 2, True), (256, 1024, 14, 1, 1, True),
    (1024, 256, 14, 1, 1, False), (256, 256, 14, 3, 1, False), (1024, 512, 14, 1, 1, False),
    (512, 512, 14, 3, 2, False), (1024, 2048, 14, 1, 2, True), (512, 2048, 7, 1, 1, True),
    (2048, 512, 7, 1, 1, False), (512, 512, 7, 3, 1, False),
]  # fmt: skip
# rows, depth, columns, epilogue
BERT = [
    (128, 768, 2304, "bias"), (128, 768, 768, "residual"), (128, 768, 3072, "gelu"),
    (128, 3072, 768, "residual"), (1, 768, 768, "tanh"),
]  # fmt: skip


def residual(graph: Graph, value: Value) -> Value:
    other = graph.add_input("r", value.dtype, value.known_shape)
    return add_node(graph, "Relu", [add_node(graph, "Add", [value, other])])


def relu(graph: Graph, value: Value) -> Value:
    return add_node(graph, "Relu", [value])


def gelu(graph: Graph, value: Value) -> Value:
    return add_node(graph, "Gelu", [value])


def tanh(graph: Graph, value: Value) -> Value:
    return add_node(graph, "Tanh", [value])


def bias(graph: Graph, value: Value) -> Value:
    columns = np.linspace(-1, 1, int(str(value.known_shape[-1]))).astype(value.dtype.numpy)
    return add_node(graph, "Add", [value, graph.constant(columns)])


EPILOGUES = {"bias": bias, "residual": residual, "gelu": gelu, "tanh": tanh}


def compare(region: Region, dtype: str) -> None:
    """Compare all generated tactics that support a region with every form of oneDNN's."""
    arrays = random_inputs(region)
    theirs = [
        run(make_runner(region, OneDnn().build(region, config, TARGET), 2), region, arrays)
        for config in OneDnn().configs(region, TARGET)
    ]
    assert theirs
    results = dict(generated_results(region, arrays))
    assert results
    for label, ours in results.items():
        for other in theirs:
            problem = mismatch(ours, other, tolerance_of(IR[dtype]))
            assert problem is None, f"{label}: {problem}"


def generated_results(region: Region, arrays: Sequence[np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """Return what the generated tactics compute."""
    cases = []
    for tactic in discover():
        if not tactic.name.startswith(GENERATED) or not tactic.supports(region, TARGET):
            continue
        for config in tactic.configs(region, TARGET)[:CONFIGURATIONS]:
            kernel = tactic.build(region, config, TARGET)
            assert isinstance(kernel, Kernel)
            cases.append(Case(f"{tactic.name} {dict(config)}", region, kernel, arrays))
    library = Library([case.kernel for case in cases], TARGET.features)
    return [(c.label, run_case(library, i, c)[0]) for i, c in enumerate(cases)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", RESNET50, ids=lambda c: f"{c[0]}-{c[1]}-{c[3]}x{c[3]}-{c[2]}")
def test_resnet50(case: tuple[int, int, int, int, int, bool], dtype: str) -> None:
    channels, outputs, size, kernel, stride, adds = case
    pad = kernel // 2
    halo = ((0, 0), (0, 0), (pad, pad), (pad, pad))
    region = convolution_region(
        dtype, residual if adds else relu, shape=(1, channels, size, size), outputs=outputs,
        kernel=kernel, pad=pad, stride=stride, layouts={"x": Layout((0, 2, 3, 1), halo)},
    )  # fmt: skip
    compare(region, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", BERT, ids=lambda c: f"{c[0]}x{c[1]}x{c[2]}")
def test_bert(case: tuple[int, int, int, str], dtype: str) -> None:
    rows, depth, columns, epilogue = case
    region = product_region(
        dtype, EPILOGUES[epilogue], left=(1, rows, depth), right=(depth, columns)
    )
    compare(region, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_products(dtype: str) -> None:
    heads = Layout((0, 2, 1, 3), ((0, 0),) * 4)
    keys = Layout((0, 3, 1, 2), ((0, 0),) * 4)
    scores = product_region(
        dtype, left=(1, 12, 128, 64), right=(1, 12, 64, 128), constant=False,
        layouts={"a": heads, "b": keys},
    )  # fmt: skip
    compare(scores, dtype)
    weighted = product_region(
        dtype, left=(1, 12, 128, 128), right=(1, 12, 128, 64), constant=False,
        layouts={"b": heads, "y": heads},
    )  # fmt: skip
    compare(weighted, dtype)


def test_the_comparison_can_fail() -> None:
    region = product_region("f32", relu, left=(1, 16, 24), right=(24, 32))
    arrays = random_inputs(region)
    (_, ours), *_ = generated_results(region, arrays)
    ours[0, 3, 5] += 0.01
    (config,) = OneDnn().configs(region, TARGET)
    theirs = run(make_runner(region, OneDnn().build(region, config, TARGET)), region, arrays)
    assert mismatch(ours, theirs, tolerance_of(F32)) is not None
