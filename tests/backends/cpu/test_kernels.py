"""Kernels on shapes that take every form of loop, with fused prologues and epilogues."""

from __future__ import annotations

import numpy as np
import pytest

from planish.backends.cpu.device import detect
from planish.backends.cpu.tactics import discover
from planish.ir.dtypes import dtype_of
from planish.ops.infer import graph_from_text
from planish.ops.interpreter import run_graph
from planish.ops.tolerance import mismatch, tolerance_of
from planish.tactics.region import make_region
from planish.tactics.tactic import Kernel, Region
from tests.backends.cpu.kernel_bodies import BODIES, Body
from tests.backends.cpu.kernel_harness import Case, Library, run_case


@pytest.fixture(scope="module")
def library() -> tuple[Library, list[Case]]:
    cases = [_case(body) for body in BODIES]
    return Library([case.kernel for case in cases]), cases


@pytest.mark.parametrize("index", range(len(BODIES)), ids=[body.name for body in BODIES])
def test_kernel(library: tuple[Library, list[Case]], index: int) -> None:
    compiled, cases = library
    case = cases[index]
    for pieces in (1, 3):
        results = run_case(compiled, index, case, pieces)
        for got, expected in zip(results, case.expected, strict=True):
            types = [t for t in map(dtype_of, (*case.inputs, expected)) if t.is_float]
            tolerance = max(map(tolerance_of, types), key=lambda t: t.rtol)
            if not dtype_of(expected).is_float:
                tolerance = tolerance_of(dtype_of(expected))
            assert mismatch(got, expected, tolerance) is None


def test_long_loops_are_cut_into_items() -> None:
    for name in ("blocks", "tiles", "mean_columns", "max_pool"):
        case = _case(next(body for body in BODIES if body.name == name))
        assert int(str(case.kernel.items)) >= 2, name


def test_kernels_of_equal_regions_are_equal() -> None:
    body = next(body for body in BODIES if body.name == "layer_norm")
    assert _case(body).kernel.source == _case(body).kernel.source


def _case(body: Body) -> Case:
    region, graph = _region(body)
    inputs = [
        _array(v.dtype.numpy, _sizes(v.known_shape, body), k) for k, v in enumerate(graph.inputs)
    ]
    kernel = _kernel(region)
    return Case(body.name, region, kernel, inputs, run_graph(graph, inputs), body.sizes)


def _region(body: Body) -> tuple[Region, object]:
    graph = graph_from_text(body.text)
    return make_region(graph, body.kind, body.layouts, graph.ranges), graph


def _kernel(region: Region) -> Kernel:
    target = detect(threads=2)
    refusals = []
    for tactic in discover():
        answer = tactic.supports(region, target)
        if not answer:
            refusals.append(f"{tactic.name}: {answer.reason}")
            continue
        kernel = tactic.build(region, tactic.configs(region, target)[0], target)
        if isinstance(kernel, Kernel):
            return kernel
    raise AssertionError("\n".join(refusals))


def _sizes(shape: tuple, body: Body) -> tuple[int, ...]:
    return tuple(dim if isinstance(dim, int) else body.sizes[str(dim)] for dim in shape)


def _array(dtype: np.dtype, shape: tuple[int, ...], seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    if dtype.kind in "iu":
        return generator.integers(-20, 20, shape).astype(dtype)
    return generator.standard_normal(shape).astype(np.float32).astype(dtype)
