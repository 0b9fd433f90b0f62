"""Matrix products as GEMM: every configuration against the numpy reference."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest

from planish.backends.cpu.device import detect
from planish.backends.cpu.tactics.matmul import GemmMatMul
from planish.ir.dtypes import BF16, F32
from planish.ir.graph import Graph
from planish.ir.layout import Layout
from planish.ir.shape import Dim, evaluate, symbol
from planish.ops.interpreter import run_graph
from planish.ops.tolerance import mismatch, tolerance_of
from planish.tactics.region import make_region
from planish.tactics.tactic import Kernel, Region
from planish.tactics.target import Target
from tests.backends.cpu.convolution_cases import SIZES, add_node, epilogue_of, ranges_of
from tests.backends.cpu.kernel_harness import Case, Library, run_case

TARGET = Target("cpu", detect().features, threads=2, l1=32 << 10, l2=1 << 20)
NARROW = Target("cpu", TARGET.features - {"avx512f", "avx512_bf16"}, threads=1, l1=16 << 10)
NO_PAIRS = Target("cpu", TARGET.features - {"avx512_bf16"}, threads=1, l1=16 << 10)

Extent = int | str


@dataclass(frozen=True)
class Product:
    """One product; `constant` says which operands are constants, `order` how b lies."""

    label: str
    a: tuple[Extent, ...]
    b: tuple[Extent, ...]
    constant: str = "b"
    epilogue: str = ""
    a_order: tuple[int, ...] | None = None
    b_order: tuple[int, ...] | None = None


PRODUCTS = [
    Product("plain", (37, 65), (65, 48)),
    Product("bias", (4, 30, 64), (64, 100), epilogue="bias"),
    Product("one row", (1, 300), (300, 250), epilogue="bias"),
    Product("three rows", (3, 40), (40, 1000), epilogue="relu"),
    Product("one column", (20, 33), (33, 1)),
    Product("gelu", (2, 17, 32), (32, 64), epilogue="gelu"),
    Product("residual", (2, 17, 32), (32, 40), epilogue="residual"),
    Product("dynamic rows", (2, "S", 48), (48, 72), epilogue="bias"),
    Product("dynamic batch", ("N", 16, 24), (24, 40), epilogue="relu"),
    Product("long", (18, 3072), (3072, 32), epilogue="bias"),
    Product("batched weights", (3, 5, 24), (3, 24, 40), epilogue="bias"),
    Product("strided left", (2, 3, 20, 16), (16, 24), a_order=(0, 2, 1, 3)),
    Product("constant left", (24, 40), (2, 40, 33), constant="a"),
    Product("dynamic right", (2, 3, 20, 40), (2, 3, 40, 33), constant=""),
    Product("broadcast right", (2, 3, 20, 41), (1, 1, 41, 20), constant="", epilogue="relu"),
    Product("broadcast left", (20, 16), (3, 16, 32), constant=""),
    Product("scores", (2, 3, "S", 32), (2, 3, 32, "S"), constant="", b_order=(0, 1, 3, 2)),
    Product("odd scores", (2, 20, 31), (2, 31, 37), constant="", b_order=(0, 2, 1)),
    Product("weighted", ("N", 2, "S", "S"), ("N", 2, "S", 40), constant="", epilogue="sigmoid"),
    Product("one row right", (2, 1, 33), (2, 33, 20), constant=""),
]  # fmt: skip


def region_of_product(case: Product, dtype: str) -> tuple[Region, list[np.ndarray], dict[str, int]]:
    """Return the region, its inputs, and the symbols' values."""
    numpy_type = np.dtype(np.float32 if dtype == "f32" else ml_dtypes.bfloat16)
    random = np.random.default_rng(7)
    graph = Graph("product")
    values = []
    for name, shape in (("a", case.a), ("b", case.b)):
        dims: tuple[Dim, ...] = tuple(symbol(e) if isinstance(e, str) else e for e in shape)
        if name in case.constant:
            array = random.standard_normal([int(str(d)) for d in dims]).astype(numpy_type)
            values.append(graph.constant(array))
            continue
        values.append(graph.add_input(name, F32 if dtype == "f32" else BF16, dims))
    result = add_node(graph, "MatMul", values)
    columns = int(str(result.known_shape[-1])) if case.epilogue == "bias" else 0
    if case.epilogue == "bias":
        bias = random.standard_normal(columns).astype(numpy_type)
        result = add_node(graph, "Add", [result, graph.constant(bias)])
    else:
        result = epilogue_of(graph, result, case.epilogue, columns)
    graph.add_output(result)
    layouts = {}
    for name, order in (("a", case.a_order), ("b", case.b_order)):
        if order is not None:
            layouts[name] = Layout(order, ((0, 0),) * len(order))
    region = make_region(graph, "MatMul", layouts, ranges_of(graph))
    bindings = {name: SIZES[name] for name in ranges_of(graph)}
    arrays = [
        random.standard_normal([evaluate(d, bindings) for d in v.known_shape]).astype(numpy_type)
        for v in graph.inputs
    ]
    return region, arrays, bindings


@pytest.mark.parametrize(
    ("target", "dtype"),
    [(TARGET, "f32"), (TARGET, "bf16"), (NARROW, "f32"), (NARROW, "bf16"), (NO_PAIRS, "bf16")],
    ids=["f32", "bf16", "avx2-f32", "avx2-bf16", "no_bf16-bf16"],
)
def test_every_configuration_matches_the_reference(dtype: str, target: Target) -> None:
    if not TARGET.has("avx2", "fma") or (target is NO_PAIRS and not target.has("avx512f")):
        pytest.skip("the CPU does not have it")
    limit = 1 if target is not TARGET else 2 if dtype == "bf16" else None
    tactic, found = GemmMatMul(), []
    for case in PRODUCTS:
        region, arrays, bindings = region_of_product(case, dtype)
        support = tactic.supports(region, target)
        assert support, f"{case.label}: {support.reason}"
        expected = run_graph(region.body, arrays)
        for config in tactic.configs(region, target)[:limit]:
            kernel = tactic.build(region, config, target)
            assert isinstance(kernel, Kernel)
            label = f"{case.label} {dict(config)}"
            found.append(Case(label, region, kernel, arrays, expected, bindings))
    library = Library([case.kernel for case in found], target.features)
    failures = []
    for index, case in enumerate(found):
        for got, want in zip(run_case(library, index, case), case.expected, strict=True):
            problem = mismatch(got, want, tolerance_of(BF16 if dtype == "bf16" else F32))
            failures += [] if problem is None else [f"{case.label}: {problem}"]
    assert not failures, f"{len(failures)} of {len(found)} differ:\n" + "\n".join(failures[:12])
