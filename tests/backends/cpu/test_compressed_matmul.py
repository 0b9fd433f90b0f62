"""Products by weights of few bits: every configuration against the numpy reference."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest

from planish.backends.cpu.device import detect
from planish.backends.cpu.tactics.compressed_matmul import CompressedMatMul
from planish.ir.dtypes import BF16, F32, I4, I8, U4, U8, DType
from planish.ir.graph import Graph
from planish.ir.shape import evaluate, symbol
from planish.ops.interpreter import run_graph
from planish.ops.quantize import LIMITS
from planish.ops.tolerance import mismatch, tolerance_of
from planish.tactics.region import make_region
from planish.tactics.tactic import Kernel, Region
from planish.tactics.target import Target
from tests.backends.cpu.convolution_cases import SIZES, add_node, epilogue_of, ranges_of
from tests.backends.cpu.kernel_harness import Case, Library, run_case

FEATURES = detect().features
TARGET = Target("cpu", FEATURES, threads=2, l1=32 << 10, l2=1 << 20)
NARROW = Target("cpu", FEATURES - {"avx512f", "f16c"}, threads=1, l1=16 << 10)


@dataclass(frozen=True)
class Product:
    """One product; `block` 0 is a scale for each column, -1 one scale."""

    label: str
    a: tuple[int | str, ...]
    columns: int
    dtype: DType
    block: int
    zeros: bool = False
    epilogue: str = ""


PRODUCTS = [
    Product("one row", (1, 256), 72, I4, 32),
    Product("one row of two", (2, 256), 72, U4, 64, zeros=True, epilogue="relu"),
    Product("three rows, odd depth", (3, 331), 50, I4, 32, epilogue="residual"),
    Product("short last block", (4, 300), 80, U4, 128, zeros=True),
    Product("seven rows", (1, 7, 264), 130, I4, 16, epilogue="gelu"),
    Product("many rows", (2, 19, 512), 100, I4, 128, epilogue="bias"),
    Product("many rows, prime depth", (23, 509), 48, U4, 64, zeros=True),
    Product("a column", (1, 600), 40, I8, 0, epilogue="bias"),
    Product("a column, zero points", (5, 333), 64, U8, 0, zeros=True),
    Product("a column of four bits", (3, 777), 33, I4, 0, zeros=True, epilogue="relu"),
    Product("one scale", (30, 250), 96, I8, -1),
    Product("bytes in blocks", (2, 400), 70, U8, 64, zeros=True, epilogue="bias"),
    Product("bytes of four bits", (1, 320), 60, U8, 32),
    Product("dynamic rows", ("N", 384), 90, I4, 64, epilogue="bias"),
    Product("dynamic length", (2, "S", 264), 64, I8, 0),
    Product("uneven batch", ("N", 3, 520), 64, U4, 40, zeros=True),
]


def region_of_product(case: Product, dtype: str) -> tuple[Region, list[np.ndarray], dict[str, int]]:
    """Return the region, its inputs, and the symbols' values."""
    floats = np.dtype(np.float32 if dtype == "f32" else ml_dtypes.bfloat16)
    random = np.random.default_rng(len(case.label))
    graph = Graph("product")
    dims = tuple(symbol(e) if isinstance(e, str) else e for e in case.a)
    x = graph.add_input("a", F32 if dtype == "f32" else BF16, dims)
    depth = int(case.a[-1])
    weights = graph.constant(_integers(random, case, (depth, case.columns)))
    shape, attributes = _parameters(case, depth)
    scales = random.uniform(0.01, 0.03, shape).astype(np.float16).astype(floats)
    operands = [weights, graph.constant(scales)]
    if case.zeros:
        operands.append(graph.constant(_integers(random, case, shape)))
    real = add_node(graph, "DequantizeLinear", operands, **attributes)
    result = add_node(graph, "MatMul", [x, real])
    if case.epilogue == "bias":
        bias = random.standard_normal(case.columns).astype(floats)
        result = add_node(graph, "Add", [result, graph.constant(bias)])
    else:
        result = epilogue_of(graph, result, case.epilogue, case.columns)
    graph.add_output(result)
    region = make_region(graph, "MatMul", {}, ranges_of(graph))
    bindings = {name: SIZES[name] for name in ranges_of(graph)}
    arrays = [
        random.standard_normal([evaluate(d, bindings) for d in v.known_shape]).astype(floats)
        for v in graph.inputs
    ]
    return region, arrays, bindings


def _integers(random: np.random.Generator, case: Product, shape: tuple[int, ...]) -> np.ndarray:
    low, high = LIMITS[case.dtype]
    if case.label == "bytes of four bits":
        high = 15
    return random.integers(low, high + 1, shape).astype(case.dtype.numpy)


def _parameters(case: Product, depth: int) -> tuple[tuple[int, ...], dict[str, int]]:
    if case.block <= 0:
        return ((case.columns,), {"axis": 1}) if case.block == 0 else ((), {})
    blocks = -(-depth // case.block)
    return (blocks, case.columns), {"axis": 0, "block_size": case.block}


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("target", [TARGET, NARROW], ids=["widest", "avx2"])
def test_every_configuration_matches_the_reference(
    dtype: str, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not target.has("avx2", "fma"):
        pytest.skip("the CPU has no AVX2")
    monkeypatch.setattr("planish.passes.compressed.SMALLEST", 1)
    limit = 2 if target is TARGET and dtype == "f32" else 1
    tactic, found = CompressedMatMul(), []
    for case in PRODUCTS:
        region, arrays, bindings = region_of_product(case, dtype)
        support = tactic.supports(region, target)
        assert support, f"{case.label}: {support.reason}"
        expected = run_graph(region.body, arrays)
        sizes = [bindings] if not bindings else [{**bindings, n: 2} for n in bindings] + [bindings]
        configs = tactic.configs(region, target)[:limit]
        if target is TARGET:  # sixteen bits are multiplied without a dot product of bytes
            configs.append({**configs[0], "digits": not configs[0]["digits"]})
        for config in configs:
            kernel = tactic.build(region, config, target)
            assert isinstance(kernel, Kernel)
            for each in sizes:
                inputs = [
                    array[tuple(slice(evaluate(d, each)) for d in value.known_shape)]
                    for array, value in zip(arrays, region.body.inputs, strict=True)
                ]
                want = expected if each == bindings else run_graph(region.body, inputs)
                label = f"{case.label} {dict(config)} {each}"
                found.append(Case(label, region, kernel, inputs, want, each))
    library = Library([case.kernel for case in found], target.features)
    failures = []
    for index, case in enumerate(found):
        for got, want in zip(run_case(library, index, case), case.expected, strict=True):
            problem = mismatch(got, want, tolerance_of(BF16 if dtype == "bf16" else F32))
            failures += [] if problem is None else [f"{case.label}: {problem}"]
    assert not failures, f"{len(failures)} of {len(found)} differ:\n" + "\n".join(failures[:12])


@pytest.mark.parametrize("digits", [False, True], ids=["floats", "digits"])
def test_rows_keep_to_themselves(digits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN stays in its row; zeros, tiny and huge numbers come out as in float32."""
    if not TARGET.has("avx2", "fma"):
        pytest.skip("the CPU has no AVX2")
    monkeypatch.setattr("planish.passes.compressed.SMALLEST", 1)
    case = Product("rows", (6, 160), 40, I4, 32, epilogue="bias")
    region, (x,), _ = region_of_product(case, "f32")
    x[0, 7] = np.nan
    x[1] = 0
    x[2] *= np.float32(1e-20)
    x[3] *= np.float32(1e20)
    x[4, ::9] *= np.float32(1e4)
    want = run_graph(region.body, [x])[0]
    config = CompressedMatMul().configs(region, TARGET)[0]
    kernel = CompressedMatMul().build(region, {**config, "few": 8, "digits": digits}, TARGET)
    library = Library([kernel], TARGET.features)
    (got,) = run_case(library, 0, Case("rows", region, kernel, [x]))
    assert np.isnan(got[0]).all()
    for row in range(1, 6):
        problem = mismatch(got[row], want[row], tolerance_of(F32))
        assert problem is None, f"row {row}: {problem}"
