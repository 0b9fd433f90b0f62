"""Products of bytes, and what surrounds them, through the CUDA tactics.

Without a GPU the kernels run in Triton's interpreter, the quick ones by default; with one (marker
gpu) several configurations of each case run there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from planish.backends.cuda.codegen.compile import compile_kernels
from planish.backends.cuda.device import detect
from planish.backends.cuda.tactics.convolution import ImplicitProduct
from planish.backends.cuda.tactics.depthwise import Depthwise
from planish.backends.cuda.tactics.matmul import MatrixProduct
from planish.backends.cuda.tactics.pool import Pool
from planish.errors import CompileError
from planish.ir.dtypes import I8, U8, DType
from planish.ir.graph import Graph
from planish.ir.layout import Layout
from planish.ops.interpreter import run_graph
from planish.tactics.region import make_region
from planish.tactics.tactic import Config, Region, Tactic, TritonKernel
from tests.backends.cpu.convolution_cases import add_node
from tests.backends.cpu.quantized_cases import Quantized, difference, region_of
from tests.backends.cpu.test_quantized_products import (
    CONVOLUTIONS,
    DEPTHWISE,
    MEANS,
    OTHERS,
    PRODUCTS,
)
from tests.backends.cuda.interpreter import interpret
from tests.backends.cuda.kernel_harness import run_kernel

pytest.importorskip("triton")

TARGET = detect("sm_90")
Found = tuple[str, TritonKernel, Region, list[np.ndarray], np.ndarray]
CASES: list[tuple[Tactic, Sequence[Quantized]]] = [
    (ImplicitProduct(), [*CONVOLUTIONS, *OTHERS[:1]]),
    (Depthwise(), [*DEPTHWISE, *MEANS]),
    (MatrixProduct(), PRODUCTS),
]
QUICK = (
    "signed", "residual_u8", "zero_padding", "runtime_padding", "unsigned", "one_scale", "wide",
    "dw_signed", "dw_line", "mean", "mean_line", "plain", "zero", "runtime",
)  # fmt: skip
ON_DEVICE = 4  # configurations of a case
IDS = ["convolution", "depthwise", "matmul"]


def _kernels(tactic: Tactic, cases: Sequence[Quantized], configs: int) -> Iterator[Found]:
    for case in cases:
        region, arrays = region_of(case)
        support = tactic.supports(region, TARGET)
        assert support, f"{case.label}: {support.reason}"
        (expected,) = run_graph(region.body, arrays)
        for config in _chosen(tactic.configs(region, TARGET), configs):
            kernel = tactic.build(region, config, TARGET)
            assert isinstance(kernel, TritonKernel)
            yield f"{case.label} {dict(config)}", kernel, region, arrays, expected


def _chosen(configs: list[Config], count: int) -> list[Config]:
    """Return `count` configurations: the first, and those that split the sum."""
    splits = [config for config in configs[1:] if config.get("split", 1) > 1]
    return [*configs[:1], *splits, *configs[1:]][:count]


def _problems(found: Sequence[Found], results: Sequence[list[np.ndarray] | str]) -> list[str]:
    problems = []
    for (label, *_, expected), result in zip(found, results, strict=True):
        problem = result if isinstance(result, str) else difference(result[0], expected)
        if problem is not None:
            problems.append(f"{label}: {problem}")
    return problems


@pytest.mark.parametrize(("tactic", "cases"), CASES, ids=IDS)
def test_interpreted_kernels_agree_with_the_reference(
    tactic: Tactic, cases: Sequence[Quantized]
) -> None:
    _interpret(list(_kernels(tactic, [case for case in cases if case.label in QUICK], 2)))


@pytest.mark.slow
@pytest.mark.parametrize(("tactic", "cases"), CASES, ids=IDS)
def test_every_interpreted_kernel_agrees(tactic: Tactic, cases: Sequence[Quantized]) -> None:
    _interpret(list(_kernels(tactic, cases, 1)))


def _interpret(found: Sequence[Found]) -> None:
    results = interpret([(kernel, region, arrays, {}) for _, kernel, region, arrays, _ in found])
    problems = _problems(found, results)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("dtype", [I8, U8], ids=["i8", "u8"])
def test_the_largest_byte_of_a_window(dtype: DType) -> None:
    graph = Graph("pool")
    x = graph.add_input("x", dtype, (2, 20, 9, 8))
    window = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}
    graph.add_output(add_node(graph, "MaxPool", [x], **window))
    last = Layout((0, 2, 3, 1), ((0, 0),) * 4)
    region = make_region(graph, "MaxPool", {v.name: last for v in (*graph.inputs, *graph.outputs)})
    limits = np.iinfo(dtype.numpy)
    # all small, so that padding that was not the smallest number would win
    data = np.random.default_rng(3).integers(limits.min, limits.min + 20, (2, 20, 9, 8))
    arrays = [data.astype(dtype.numpy)]
    tactic = Pool()
    assert tactic.supports(region, TARGET)
    kernel = tactic.build(region, tactic.configs(region, TARGET)[0], TARGET)
    assert isinstance(kernel, TritonKernel)
    (result,) = interpret([(kernel, region, arrays, {})])
    assert not isinstance(result, str), result
    np.testing.assert_array_equal(result[0], run_graph(region.body, arrays)[0])


@pytest.mark.gpu
@pytest.mark.parametrize(("tactic", "cases"), CASES, ids=IDS)
def test_kernels_agree_with_the_reference(tactic: Tactic, cases: Sequence[Quantized]) -> None:
    found = list(_kernels(tactic, cases, ON_DEVICE))
    arch = int(next(iter(detect(None).features))[3:])
    results: list[list[np.ndarray] | str] = []
    cubins = compile_kernels([kernel for _, kernel, *_ in found], arch)
    for (_, kernel, region, arrays, _), cubin in zip(found, cubins, strict=True):
        failed = isinstance(cubin, CompileError)
        results.append(str(cubin) if failed else run_kernel(kernel, cubin, region, arrays, {}))
    problems = _problems(found, results)
    assert not problems, "\n".join(problems)
