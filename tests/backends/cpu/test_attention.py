"""Fused attention: every configuration against the numpy reference."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest

from planish.backends.cpu.device import detect
from planish.backends.cpu.tactics.attention import FusedAttention
from planish.ir.dtypes import BF16, BOOL, F32
from planish.ir.graph import Graph, Value
from planish.ir.layout import Layout
from planish.ir.shape import Dim, evaluate, symbol
from planish.ops.interpreter import run_graph
from planish.ops.tolerance import mismatch, tolerance_of
from planish.tactics.region import make_region
from planish.tactics.tactic import Kernel, Region
from planish.tactics.target import Target
from tests.backends.cpu.convolution_cases import SIZES, add_node, ranges_of
from tests.backends.cpu.kernel_harness import Case, Library, run_case

TARGET = Target("cpu", detect().features, threads=2)
NARROW = Target("cpu", TARGET.features - {"avx512f", "avx512_bf16"}, threads=1)
NO_PAIRS = Target("cpu", TARGET.features - {"avx512_bf16"}, threads=1)


@dataclass(frozen=True)
class Heads:
    """One attention: batch, query heads, key heads, queries, keys, features, value features."""

    label: str
    batch: int | str
    heads: tuple[int, int]
    lengths: tuple[int | str, int | str]
    sizes: tuple[int, int]
    mask: str = ""
    causal: int = 0
    scale: float | None = None
    merged: bool = False  # [B,S,H*D]
    order: tuple[int, ...] | None = None


HEADS = [
    Heads("plain", 2, (3, 3), (17, 17), (32, 32)),
    Heads("sizes", 1, (2, 2), (5, 39), (24, 40), scale=0.3),
    Heads("odd", 1, (2, 2), (13, 21), (31, 33)),
    Heads("mask", 2, (2, 2), (16, 20), (16, 16), mask="float"),
    Heads("bool mask", 2, (2, 2), (9, 20), (16, 16), mask="bool"),
    Heads("constant mask", 2, (2, 2), (9, 20), (16, 16), mask="constant"),
    Heads("causal", 1, (4, 2), (37, 37), (16, 16), causal=1),
    Heads("merged", 2, (4, 2), (10, 12), (16, 16), merged=True),
    Heads("interleaved", 2, (3, 3), (18, 18), (16, 16), order=(0, 2, 1, 3)),
    Heads("dynamic", "N", (2, 2), ("S", "S"), (32, 32), mask="float"),
    Heads("one query", 1, (4, 4), (1, 50), (64, 64)),
]


def region_of_heads(case: Heads, dtype: str) -> tuple[Region, list[np.ndarray], dict[str, int]]:
    """Return the region, its inputs, and the symbols' values."""
    random = np.random.default_rng(3)
    numpy_type = np.dtype(np.float32 if dtype == "f32" else ml_dtypes.bfloat16)
    graph = Graph("attention")
    element = F32 if dtype == "f32" else BF16
    b, q, k = (symbol(e) if isinstance(e, str) else e for e in (case.batch, *case.lengths))
    layouts: dict[str, Layout] = {}
    values: list[Value | None] = []
    for name, heads, length, size in (
        ("q", case.heads[0], q, case.sizes[0]),
        ("k", case.heads[1], k, case.sizes[0]),
        ("v", case.heads[1], k, case.sizes[1]),
    ):
        shape: tuple[Dim, ...] = (b, heads, length, size)
        if case.merged:
            shape = (b, length, heads * size)
        values.append(graph.add_input(name, element, shape))
        if case.order is not None:
            layouts[name] = Layout(case.order, ((0, 0),) * 4)
    if case.mask == "constant":
        array = random.random((1, 1, case.lengths[0], case.lengths[1])) < 0.7
        array[0, 0, 2] = False
        values.append(graph.constant(array))
    elif case.mask:
        values.append(graph.add_input("m", BOOL if case.mask == "bool" else element, (b, 1, 1, k)))
    heads = {"q_num_heads": case.heads[0], "kv_num_heads": case.heads[1]} if case.merged else {}
    attributes = {"is_causal": case.causal, "scale": case.scale, **heads}
    result = add_node(graph, "Attention", values, **attributes)  # type: ignore[arg-type]
    graph.add_output(result)
    if case.order is not None:
        layouts[result.name] = Layout(case.order, ((0, 0),) * 4)
    region = make_region(graph, "Attention", layouts, ranges_of(graph))
    bindings = {name: SIZES[name] for name in ranges_of(graph)}
    arrays = []
    for value in graph.inputs:
        shape = [evaluate(d, bindings) for d in value.known_shape]
        if value.dtype is BOOL:
            arrays.append(random.random(shape) < 0.6)
            continue
        array = random.standard_normal(shape)
        arrays.append((array * (3 if value.name == "m" else 1)).astype(numpy_type))
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
    tactic, found = FusedAttention(), []
    for case in HEADS:
        region, arrays, bindings = region_of_heads(case, dtype)
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
