from __future__ import annotations

import pytest

from planish.ir.shape import product
from planish.ops.interpreter import run_graph
from planish.passes.assign_layouts import AssignLayouts
from planish.passes.assign_storage import AssignStorage
from planish.passes.data_dependent import KIND
from planish.passes.fuse_regions import FuseRegions
from planish.passes.graph_pass import run_pipeline
from planish.tactics.region import regions_of
from tests.passes.checks import assert_equal_results, parse, random_inputs
from tests.passes.test_assign_layouts import place

TAILS = {
    "only_the_tail_runs_as_a_whole": (
        """
        graph g(%x: f32[1,4,6,6]) {
          @w: f32[2,4,3,3]
          @flat: i64[1] = [32]
          %1: f32[1,2,4,4] = Conv(%x, @w) {kernel_shape=[3,3]}
          %2: f32[1,2,4,4] = Relu(%1)
          %3: f32[32] = Reshape(%2, @flat)
          %4: i64[1,?n] = NonZero(%3)
          %5: i64[?n,1] = Transpose(%4) {perm=[1,0]}
          %6: f32[32] = Neg(%3)
          %7: f32[?n,1] = Gather(%6, %5)
          return %6, %7
        }""",
        ["pointwise", "Conv", "pointwise", "pointwise", KIND],
    ),
    "what_lies_between_comes_along": (
        """
        graph g(%x: f32[6], %z: f32[3]) {
          %1: i64[1,?n] = NonZero(%x)
          %2: i64[1] = ReduceMax(%1) {keepdims=0}
          %3: i64[1] = Neg(%2)
          %4: f32[3] = Exp(%z)
          %5: i64[1] = Abs(%2)
          %6: i64[1,?m] = NonZero(%3)
          %7: f32[3] = Neg(%4)
          %8: i64[1] = Add(%5, %5)
          return %6, %7, %8
        }""",
        [KIND, "pointwise", "pointwise"],
    ),
}


@pytest.mark.parametrize("name", TAILS)
def test_meaning_is_kept(name: str) -> None:
    text, _ = TAILS[name]
    graph = parse(text)
    inputs = random_inputs(graph)
    expected = run_graph(graph, inputs)
    run_pipeline(graph, [FuseRegions(), AssignLayouts(), AssignStorage()])
    assert_equal_results(expected, graph, inputs)


@pytest.mark.parametrize("name", TAILS)
def test_the_rest_keeps_its_regions(name: str) -> None:
    text, kinds = TAILS[name]
    graph, _ = place(text)
    assert [str(node.attributes["kind"]) for node in regions_of(graph)] == kinds


def test_a_graph_of_known_extents_is_left_alone() -> None:
    graph, statistics = place("graph g(%x: f32[4]) {\n  %1: f32[4] = Exp(%x)\n  return %1\n}")
    assert statistics[1].counts == {}
    assert KIND not in {node.attributes["kind"] for node in regions_of(graph)}


def test_unknown_values_end_in_the_region_that_makes_them() -> None:
    graph, _ = place(TAILS["only_the_tail_runs_as_a_whole"][0])
    region = next(n for n in regions_of(graph) if n.attributes["kind"] == KIND)
    unknown = [value for value in graph.outputs if value.producer is region]
    assert [str(value.shape) for value in unknown] == ["(?4_1, 1)"]
    assert all(product(value.known_shape) == 32 for value in region.present_inputs)
