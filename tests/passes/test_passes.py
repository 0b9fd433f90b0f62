"""Golden text of every pass on a small graph, with the results compared before and after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from planish.ir.graph import Graph
from planish.ir.text import to_text
from planish.ops.interpreter import run_graph
from planish.passes.common_subexpressions import CommonSubexpressions
from planish.passes.dead_code import DeadCode
from planish.passes.fold_constants import FoldConstants
from planish.passes.fold_shapes import FoldShapes
from planish.passes.fuse_regions import FuseRegions
from planish.passes.fuse_siblings import FuseSiblings
from planish.passes.graph_pass import GraphPass, run_pipeline
from planish.passes.inline_if import InlineIf
from planish.passes.pipeline import recognise, simplify
from planish.passes.refine_types import RefineTypes
from planish.passes.settle_extents import SettleExtents
from tests.passes.checks import assert_equal_results, parse, random_inputs


@dataclass(frozen=True)
class Case:
    """A pass on a graph, and what it counts there."""

    name: str
    passes: Callable[[], GraphPass]
    counts: dict[str, int]
    text: str
    point: int = 1  # which of (min, opt, max) the symbols take


CASES = [
    Case(
        "fold_constants",
        FoldConstants,
        {"constant folding": 2},
        """
        graph g(%x: f32[2]) {
          @a: f32[2] = [1.0, 2.0]
          @big: i64[2] = [2000, 2000]
          @one: f32[1] = [1.0]
          %1 = Add(@a, @a)
          %2 = Sqrt(%1)
          %3 = Mul(%x, %2)
          %4 = Expand(@one, @big)
          %5 = Relu(%4)
          return %3, %5
        }""",
    ),
    Case(
        "fold_shapes",
        FoldShapes,
        {"shape arithmetic": 2},
        """
        symbols N=(1,2,4), S=(1,3,9)
        graph g(%x: f32[N,S,6]) {
          @i0: i64[1] = [0]
          @i1: i64[1] = [1]
          @six: i64[1] = [6]
          %s = Shape(%x)
          %n = Gather(%s, @i0) {axis=0}
          %m = Gather(%s, @i1) {axis=0}
          %nm = Mul(%n, %m)
          %flat = Concat(%nm, @six) {axis=0}
          %1 = Reshape(%x, %flat)
          %back = Concat(%n, %m, @six) {axis=0}
          %2 = Reshape(%1, %back)
          return %2
        }""",
    ),
    Case(
        "dead_code",
        DeadCode,
        {"dead nodes": 2},
        """
        graph g(%x: f32[2]) {
          %1 = Relu(%x)
          %2 = Exp(%x)
          %3 = Neg(%2)
          return %1
        }""",
    ),
    Case(
        "common_subexpressions",
        CommonSubexpressions,
        {"common subexpressions": 3},
        """
        graph g(%x: f32[2,3]) {
          @a: f32[3] = [1.0, 2.0, 3.0]
          @b: f32[3] = [1.0, 2.0, 3.0]
          %1 = Mul(%x, @a)
          %2 = Mul(%x, @b)
          %3 = Softmax(%1) {axis=1}
          %4 = Softmax(%2) {axis=-1}
          %5 = Softmax(%2) {axis=1}
          %6 = Exp(%3)
          %7 = Exp(%5)
          %8 = Add(%6, %7)
          %9 = Add(%8, %4)
          return %9
        }""",
    ),
    Case(
        "inline_if",
        InlineIf,
        {"inlined If": 1},
        """
        graph g(%x: f32[2]) {
          @yes: bool[] = [1]
          %1 = If(@yes) {then_branch=graph a() {
            %2: f32[2] = Relu(%x)
            return %2
          }, else_branch=graph b() {
            %3: f32[2] = Neg(%x)
            return %3
          }}
          %4 = Exp(%1)
          return %4
        }""",
    ),
    Case(
        "own_branch_outputs",
        InlineIf,
        {},
        """
        graph g(%x: f32[2], %c: bool[]) {
          %1 = If(%c) {then_branch=graph a() {
            return %x
          }, else_branch=graph b() {
            %3: f32[2] = Neg(%x)
            return %3
          }}
          return %1
        }""",
    ),
    Case(
        "settle_extents",
        SettleExtents,
        {"extents that the model fixes": 1},
        """
        symbols N=(1,2,4)
        graph g(%x: f32[N,6]) {
          @shape: i64[3] = [2, 2, 3]
          %1 = Relu(%x)
          %2 = Reshape(%1, @shape)
          return %2, %1
        }""",
    ),
    Case(
        "fuse_siblings_matmul",
        FuseSiblings,
        {"joined MatMul nodes": 1, "sibling MatMul nodes": 3},
        """
        graph g(%x: f32[2,4]) {
          @q: f32[4,3]
          @k: f32[4,3]
          @v: f32[4,5]
          @b: f32[3]
          @heads: i64[3] = [2, 3, 1]
          %1 = MatMul(%x, @q)
          %2 = Add(%1, @b)
          %3 = MatMul(%x, @k)
          %4 = MatMul(%x, @v)
          %5 = Reshape(%2, @heads)
          %6 = Reshape(%3, @heads)
          %7 = Softmax(%4)
          return %5, %6, %7
        }""",
    ),
    Case(
        "fuse_siblings_conv",
        FuseSiblings,
        {"joined Conv nodes": 1, "sibling Conv nodes": 2},
        """
        graph g(%x: f32[1,4,5,5]) {
          @a: f32[2,4,1,1]
          @b: f32[3,4,1,1]
          @c: f32[4,4,1,1]
          @d: f32[2]
          %1 = Conv(%x, @a, @d) {kernel_shape=[1,1]}
          %2 = Conv(%x, @b) {kernel_shape=[1,1]}
          %3 = Conv(%x, @c) {kernel_shape=[1,1]}
          %4 = Relu(%1)
          %5 = Relu(%2)
          %6 = MaxPool(%4) {kernel_shape=[3,3]}
          %7 = MaxPool(%5) {kernel_shape=[3,3]}
          %8 = Concat(%3, %x) {axis=1}
          return %6, %7, %8
        }""",
    ),
    Case(
        "fuse_regions",
        FuseRegions,
        {
            "Conv regions": 2,
            "operations fused into Conv": 3,
            "pointwise regions": 1,
            "operations fused into pointwise": 1,
        },
        """
        graph g(%x: f32[1,4,5,5]) {
          @w1: f32[4,4,3,3]
          @w2: f32[4,4,3,3]
          @half: f32[] = 0.5
          %1 = Conv(%x, @w1) {kernel_shape=[3,3], pads=[1,1,1,1]}
          %2 = Relu(%1)
          %3 = Conv(%2, @w2) {kernel_shape=[3,3], pads=[1,1,1,1]}
          %4 = Add(%3, %x)
          %5 = Relu(%4)
          %6 = Sigmoid(%x)
          %7 = Mul(%6, @half)
          %8 = Transpose(%5) {perm=[0,2,3,1]}
          return %8, %7
        }""",
    ),
    Case(
        "fuse_later_anchor_takes_sum",
        FuseRegions,
        {"MatMul regions": 2, "operations fused into MatMul": 2},
        """
        graph g(%x: f32[2,4]) {
          @a: f32[4,3]
          @b: f32[4,3]
          %gate = MatMul(%x, @a)
          %silu = Swish(%gate)
          %up = MatMul(%x, @b)
          %out = Mul(%silu, %up)
          return %out
        }""",
    ),
    Case(
        "fuse_prologue",
        FuseRegions,
        {"Softmax regions": 1, "operations fused into Softmax": 2},
        """
        graph g(%x: f32[2,4], %m: f32[1,4]) {
          @scale: f32[] = 0.5
          %1 = Mul(%x, @scale)
          %2 = Add(%1, %m)
          %3 = Softmax(%2)
          return %3
        }""",
    ),
    Case(
        "fuse_second_reader",
        FuseRegions,
        {"Conv regions": 1, "operations fused into Conv": 1, "pointwise regions": 2},
        """
        graph g(%x: f32[1,4,5,5]) {
          @w: f32[4,4,1,1]
          %1 = Conv(%x, @w) {kernel_shape=[1,1]}
          %2 = Relu(%1)
          %3 = Exp(%2)
          %4 = Neg(%2)
          return %3, %4
        }""",
    ),
    Case(
        "simplify_conv_bn",
        simplify,
        {"BatchNorm folding": 1},
        """
        graph g(%x: f32[1,3,4,4]) {
          @w: f32[2,3,1,1]
          @s: f32[2] = [0.5, 2.0]
          @v: f32[2] = [1.0, 4.0]
          %1 = Conv(%x, @w) {kernel_shape=[1,1]}
          %2 = BatchNormalization(%1, @s, @s, @s, @v)
          return %2
        }""",
    ),
    Case(
        "recognise_norm_with_scale_and_bias",
        recognise,
        {"LayerNorm": 1, "norm bias folding": 1, "norm scale folding": 1},
        """
        graph g(%x: f32[2,8]) {
          @axis: i64[1] = [-1]
          @epsilon: f32[] = 0.00001
          @gain: f32[8]
          @bias: f32[8]
          %1 = ReduceMean(%x, @axis)
          %2 = Sub(%x, %1)
          %3 = Mul(%2, %2)
          %4 = ReduceMean(%3, @axis)
          %5 = Add(%4, @epsilon)
          %6 = Sqrt(%5)
          %7 = Reciprocal(%6)
          %8 = Mul(%2, %7)
          %9 = Mul(%8, @gain)
          %10 = Add(%9, @bias)
          return %10
        }""",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden(case: Case, golden: Callable[[str, str], None]) -> None:
    graph = parse(case.text)
    inputs = random_inputs(graph, point=case.point)
    expected = run_graph(graph, inputs)
    before = to_text(graph)

    (statistics,) = run_pipeline(graph, [case.passes()])

    assert statistics.modified
    assert {k: n for k, n in statistics.counts.items() if k != "dead nodes"} == {
        k: n for k, n in case.counts.items() if k != "dead nodes"
    }
    assert statistics.counts.get("dead nodes", 0) >= case.counts.get("dead nodes", 0)
    assert_equal_results(expected, graph, inputs)
    golden(f"passes/{case.name}", f"{before}-- after --\n{to_text(graph)}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_second_run_changes_nothing(case: Case) -> None:
    graph = parse(case.text)
    run_pipeline(graph, [case.passes()])
    text = to_text(graph)
    (again,) = run_pipeline(graph, [case.passes()])
    assert not again.modified
    assert to_text(graph) == text


def test_types_travel_on_from_a_refined_branch() -> None:
    graph = parse(
        """
        graph g(%x: f32[2,3], %c: bool[]) {
          %1 = If(%c) {then_branch=graph a() {
            %2: f32[2,3] = Relu(%x)
            return %2
          }, else_branch=graph b() {
            %3: f32[2,3] = Neg(%x)
            return %3
          }}
          %4 = Exp(%1)
          return %4
        }"""
    )
    for node in graph:
        node.outputs[0].shape = None
    assert RefineTypes().run(graph)
    assert graph.outputs[0].shape == (2, 3)
    assert not RefineTypes().run(graph)


def layers(graph: Graph) -> list[str]:
    return [str(node.attributes.get("kind", node.op)) for node in graph]


def test_extents_serve_all_readers_of_equal_contents() -> None:
    graph = parse(
        """
        symbols N=(1,2,4), S=(1,3,9)
        graph g(%x: f32[N,S,6], %y: f32[N,S,6]) {
          @six: i64[1] = [6]
          %n = Shape(%x) {end=2}
          %shape = Concat(%n, @six) {axis=0}
          %m = Shape(%y) {end=2}
          %other = Concat(%m, @six) {axis=0}
          @flat: i64[1] = [-1]
          %1 = Reshape(%x, @flat)
          %2 = Reshape(%y, @flat)
          %3 = Reshape(%1, %shape)
          %4 = Reshape(%2, %other)
          return %3, %4
        }"""
    )
    run_pipeline(graph, [FoldShapes(), DeadCode()])
    assert layers(graph).count("planish.Extents") == 1
    assert "Shape" not in layers(graph)
