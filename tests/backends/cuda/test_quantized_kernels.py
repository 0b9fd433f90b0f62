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
from planish.backends.cuda.tactics.image_convolution import ImageConvolution
from planish.backends.cuda.tactics.matmul import MatrixProduct
from planish.backends.cuda.tactics.pool import Pool
from planish.errors import CompileError
from planish.ir.dtypes import F8E4M3, F32, I8, U8, DType
from planish.ir.graph import Graph, Value
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
    "residual_u8", "zero_padding", "runtime_padding", "wide", "dw_signed", "mean", "plain",
    "runtime",
)  # fmt: skip
ON_DEVICE = 3  # configurations of a case
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


@pytest.mark.parametrize("kind", ["Conv", "MatMul"])
def test_products_of_small_floats(kind: str) -> None:
    region, arrays = _small_floats(kind, "f32")
    (result,) = interpret([(_small_kernel(region), region, arrays, {})])
    assert not isinstance(result, str), result
    np.testing.assert_allclose(result[0], run_graph(region.body, arrays)[0], rtol=1e-4, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("result", ["f32", "f8"])
@pytest.mark.parametrize("kind", ["Conv", "MatMul"])
def test_products_of_small_floats_on_a_gpu(kind: str, result: str) -> None:
    region, arrays = _small_floats(kind, result)
    kernel = _small_kernel(region)
    (cubin,) = compile_kernels([kernel], int(next(iter(detect(None).features))[3:]))
    assert not isinstance(cubin, CompileError), cubin
    (got,) = (each.astype(np.float32) for each in run_kernel(kernel, cubin, region, arrays, {}))
    want = run_graph(region.body, arrays)[0].astype(np.float32)
    # tensor cores add these products with 14 bits; a float of eight bits has steps of 12 %
    assert (np.abs(got - want) <= (0.13 if result == "f8" else 2e-3) * np.abs(want) + 0.02).all()
    assert result == "f32" or (got == want).mean() > 0.99


def _small_kernel(region: Region) -> TritonKernel:
    tactic = ImplicitProduct() if region.kind == "Conv" else MatrixProduct()
    support = tactic.supports(region, TARGET)
    assert support, support.reason
    kernel = tactic.build(region, tactic.configs(region, TARGET)[0], TARGET)
    assert isinstance(kernel, TritonKernel)
    assert "*fp8e4nv" in kernel.pointers
    return kernel


def test_kernels_compile() -> None:
    wanted = {"long", "wide", "dw_signed"}
    kernels = []
    for tactic, cases in CASES:
        chosen = [case for case in cases if case.label in wanted]
        kernels += [kernel for _, kernel, *_ in _kernels(tactic, chosen, 2)]
    kernels.append(_small_kernel(_small_floats("Conv", "f8")[0]))
    assert any(kernel.counters for kernel in kernels)
    for kernel, cubin in zip(kernels, compile_kernels(kernels, 90), strict=True):
        assert not isinstance(cubin, CompileError), f"{kernel.source}: {cubin}"


def _small_floats(kind: str, result: str) -> tuple[Region, list[np.ndarray]]:
    """Return a product of floats of eight bits with ReLU, and its inputs."""
    random = np.random.default_rng(5)
    graph = Graph("small")
    shape, weights, axis = ((2, 24, 9, 8), (20, 24, 3, 3), 0)
    if kind == "MatMul":
        shape, weights, axis = (2, 9, 70), (70, 24), 1

    def real(value: Value, scale: np.ndarray) -> Value:
        zero = graph.constant(np.zeros(scale.shape, F8E4M3.numpy))
        return add_node(graph, "DequantizeLinear", [value, graph.constant(scale), zero], axis=axis)

    x = graph.add_input("x", F8E4M3, shape)
    w = graph.constant((random.standard_normal(weights) * 100).astype(F8E4M3.numpy))
    scales = random.uniform(0.5, 1.5, weights[axis]).astype(np.float32) * np.float32(1e-3)
    operands = [real(x, np.float32(0.01).reshape(())), real(w, scales)]
    window = {} if kind == "MatMul" else {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}
    y = add_node(graph, kind, operands, **window)
    y = add_node(graph, "Relu", [y])
    step, zero = np.array(0.02, np.float32), np.zeros((), F8E4M3.numpy)
    if result == "f8":
        y = add_node(graph, "QuantizeLinear", [y, graph.constant(step), graph.constant(zero)])
    graph.add_output(y)
    last = Layout((0, 2, 3, 1), ((0, 0),) * 4)
    values = (*graph.inputs, *graph.outputs)
    region = make_region(graph, kind, {v.name: last for v in values if v.rank == len(last.order)})
    return region, [(random.standard_normal(shape) * 100).astype(F8E4M3.numpy)]


@pytest.mark.parametrize("tactic", [ImageConvolution(), ImplicitProduct()], ids=["rows", "any"])
def test_an_image_is_rounded_where_it_is_read(tactic: Tactic) -> None:
    region, arrays = _image()
    support = tactic.supports(region, TARGET)
    assert support, support.reason
    kernel = tactic.build(region, tactic.configs(region, TARGET)[0], TARGET)
    assert isinstance(kernel, TritonKernel)
    (result,) = interpret([(kernel, region, arrays, {})])
    assert not isinstance(result, str), result
    assert difference(result[0], run_graph(region.body, arrays)[0]) is None


def _image() -> tuple[Region, list[np.ndarray]]:
    """Return a first convolution that quantizes an image of float32 planes."""
    random = np.random.default_rng(7)
    graph = Graph("image")
    x = graph.add_input("x", F32, (2, 3, 15, 18))
    step, zero = graph.constant(np.array(0.02, np.float32)), graph.constant(np.array(0, np.int8))
    data = add_node(graph, "QuantizeLinear", [x, step, zero])
    data = add_node(graph, "DequantizeLinear", [data, step, zero])
    w = graph.constant(random.integers(-127, 128, (20, 3, 5, 5)).astype(np.int8))
    scales = graph.constant(random.uniform(1e-3, 2e-3, 20).astype(np.float32))
    weights = add_node(graph, "DequantizeLinear", [w, scales], axis=0)
    window = {"kernel_shape": (5, 5), "strides": (2, 2), "pads": (2, 2, 2, 2)}
    y = add_node(graph, "Conv", [data, weights], **window)
    result = graph.constant(np.array(0.03, np.float32))
    graph.add_output(add_node(graph, "QuantizeLinear", [y, result, zero]))
    last = Layout((0, 2, 3, 1), ((0, 0),) * 4)
    region = make_region(graph, "Conv", {value.name: last for value in graph.outputs})
    return region, [random.standard_normal((2, 3, 15, 18)).astype(np.float32)]
