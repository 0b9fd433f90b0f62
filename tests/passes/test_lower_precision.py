from __future__ import annotations

import numpy as np
import pytest

from planish.ir.dtypes import BF16, F32
from planish.ir.graph import Graph
from planish.ir.text import to_text
from planish.ops.interpreter import run_graph
from planish.passes.assign_layouts import AssignLayouts
from planish.passes.assign_storage import AssignStorage
from planish.passes.fuse_regions import FuseRegions
from planish.passes.graph_pass import run_pipeline
from planish.passes.lower_precision import LowerPrecision
from planish.tactics.region import regions_of
from tests.conftest import Golden
from tests.passes.checks import parse, random_inputs
from tests.passes.placed_graphs import GRAPHS
from tests.plan.simulator import assert_simulation

LOWERED = {
    "between_products": """
        graph g(%x: f32[1,4,6,6]) {
          @w1: f32[8,4,3,3]
          @b1: f32[8]
          @w2: f32[8,8,1,1]
          @w3: f32[8,5]
          @c3: f32[5]
          @hw: i64[2] = [2, 3]
          @flat: i64[2] = [1, 8]
          %1: f32[1,8,6,6] = Conv(%x, @w1, @b1) {kernel_shape=[3,3], pads=[1,1,1,1]}
          %2: f32[1,8,6,6] = Relu(%1)
          %3: f32[1,8,6,6] = Conv(%2, @w2) {kernel_shape=[1,1]}
          %4: f32[1,8,6,6] = Add(%3, %2)
          %5: f32[1,8,1,1] = ReduceMean(%4, @hw)
          %6: f32[1,8] = Reshape(%5, @flat)
          %7: f32[1,5] = MatMul(%6, @w3)
          %8: f32[1,5] = Add(%7, @c3)
          %9: f32[1,5] = Softmax(%8)
          return %9, %4
        }""",
    "exact_operators_read_float32": """
        graph g(%x: f32[3,8]) {
          @w: f32[8,8]
          @k: i64[1] = [2]
          %1: f32[3,8] = MatMul(%x, @w)
          %2: f32[3,8] = Tanh(%1)
          %3: f32[3,8] = MatMul(%2, @w)
          %4: i64[3,1] = ArgMax(%2) {axis=1}
          %5: f32[3,2], %6: i64[3,2] = TopK(%2, @k)
          %7: f32[3,8] = Sin(%2)
          return %3, %4, %5, %6, %7
        }""",
    "masks_stay_finite": """
        graph g(%x: f32[2,4,4]) {
          @w: f32[4,4]
          @mask: f32[4] = [0.0, -3.4028235e+38, 0.0, -inf]
          %1: f32[2,4,4] = MatMul(%x, @w)
          %2: f32[2,4,4] = Add(%1, @mask)
          %3: f32[2,4,4] = Softmax(%2)
          %4: f32[2,4,4] = MatMul(%3, %1)
          return %4
        }""",
    "nothing_to_gain": """
        graph g(%x: f32[3,8]) {
          %1: f32[3,8] = Tanh(%x)
          %2: f32[3,8] = Softmax(%1)
          return %2
        }""",
}


def lowered(name: str) -> Graph:
    graph = parse(LOWERED[name])
    run_pipeline(graph, [LowerPrecision()])
    return graph


@pytest.mark.parametrize("name", LOWERED)
def test_text(name: str, golden: Golden) -> None:
    golden(f"lowered/{name}", to_text(lowered(name)))


@pytest.mark.parametrize("name", LOWERED)
def test_results_stay_near(name: str) -> None:
    graph = parse(LOWERED[name])
    inputs = random_inputs(graph)
    expected = run_graph(graph, inputs)
    statistics = run_pipeline(graph, [LowerPrecision()])
    assert statistics[0].modified == (name != "nothing_to_gain")
    results = run_graph(graph, inputs)
    for want, got in zip(expected, results, strict=True):
        assert got.dtype == want.dtype
        if want.dtype.kind == "f":
            scale = np.abs(want).max()
            np.testing.assert_allclose(got, want, rtol=0, atol=0.03 * scale)


@pytest.mark.parametrize("name", LOWERED)
def test_idempotent(name: str) -> None:
    graph = lowered(name)
    text = to_text(graph)
    assert not run_pipeline(graph, [LowerPrecision()])[0].modified
    assert to_text(graph) == text


def test_inputs_and_outputs_keep_their_types() -> None:
    for name in LOWERED:
        graph = lowered(name)
        assert all(value.dtype is F32 for value in graph.inputs)
        assert BF16 not in {value.dtype for value in graph.outputs}


def test_casts_fuse_into_regions_and_weights_are_bf16() -> None:
    graph = lowered("between_products")
    run_pipeline(graph, [FuseRegions(), AssignLayouts(), AssignStorage()])
    regions = regions_of(graph)
    assert [node.attributes["kind"] for node in regions[:2]] == ["pointwise", "Conv"]
    assert regions[0].outputs[0].layout is not None
    assert regions[0].outputs[0].layout.order == (0, 2, 3, 1)  # cast, reformat and halo in one
    for node in regions:
        if node.attributes["kind"] in ("Conv", "MatMul"):
            weights = [v for v in node.body.constants() if v.rank >= 2]
            assert weights
            assert all(value.dtype is BF16 for value in weights)
    assert regions[-1].outputs[0].dtype is F32


def test_finite_masks_stay_finite() -> None:
    graph = lowered("masks_stay_finite")
    mask = next(value for value in graph.constants() if value.rank == 1)
    assert mask.dtype is BF16
    assert np.isfinite(mask.array.astype(np.float32)).tolist() == [True, True, True, False]


@pytest.mark.parametrize("name", GRAPHS)
def test_lowered_graphs_have_right_addresses(name: str) -> None:
    graph = parse(GRAPHS[name])
    inputs = random_inputs(graph)
    run_pipeline(graph, [LowerPrecision(), FuseRegions()])
    expected = run_graph(graph, inputs)
    run_pipeline(graph, [AssignLayouts(), AssignStorage()])
    assert_simulation(graph, inputs, expected)
