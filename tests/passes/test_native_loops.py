"""Loops whose bodies are planned: what is marked, and that every address is right."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir.graph import Graph, Node
from planish.ir.verify import verify
from planish.ops.interpreter import run_graph
from planish.passes.assign_layouts import AssignLayouts
from planish.passes.assign_storage import AssignStorage
from planish.passes.dead_code import DeadCode
from planish.passes.fuse_regions import FuseRegions
from planish.passes.graph_pass import graphs_of, run_pipeline
from planish.passes.hoist_projections import HoistProjections
from planish.passes.inline_if import InlineIf
from planish.passes.native_loops import NativeLoops, is_native_loop, is_plannable, loop_symbol
from planish.passes.tidy_loops import TidyLoops
from planish.tactics.region import repetitions
from tests.passes.checks import assert_equal_results, parse, random_inputs
from tests.passes.loop_graphs import COUNTED, LOOPS, SYMBOLIC, WHILE, random_loop
from tests.plan.simulator import assert_simulation

PLACING = [InlineIf(), DeadCode(), NativeLoops(), FuseRegions(), AssignLayouts(), AssignStorage()]


def loops_of(graph: Graph) -> list[Node]:
    return [node for each in graphs_of(graph) for node in each if node.op == "Loop"]


def marked(text: str) -> Graph:
    graph = parse(text)
    run_pipeline(graph, [InlineIf(), NativeLoops()])
    return graph


@pytest.mark.parametrize("name", LOOPS)
def test_every_address_is_right(name: str) -> None:
    graph = parse(LOOPS[name])
    for seed in (0, 1):
        graph = parse(LOOPS[name])
        inputs = random_inputs(graph, seed=seed)
        expected = run_graph(graph, inputs)
        run_pipeline(graph, [InlineIf(), NativeLoops()])
        assert_equal_results(expected, graph, inputs)
        run_pipeline(graph, [FuseRegions(), AssignLayouts(), AssignStorage()])
        assert all(map(is_native_loop, loops_of(graph)))
        assert_simulation(graph, inputs, expected)


@pytest.mark.parametrize("seed", range(60))
def test_random_loops_keep_their_results(seed: int) -> None:
    graph = random_loop(seed)
    inputs = random_inputs(graph, seed)
    expected = run_graph(graph, inputs)
    run_pipeline(graph, PLACING if seed % 2 else [InlineIf(), TidyLoops(), *PLACING])
    assert_simulation(graph, inputs, expected)


def test_elements_by_the_iteration_are_views() -> None:
    graph = marked(COUNTED)
    (loop,) = loops_of(graph)
    ops = [node.op for node in loop.body]
    assert "planish.Element" in ops
    assert "Gather" not in ops
    assert graph.ranges[loop_symbol(loop)] == (0, 69, 69)


@pytest.mark.parametrize(
    ("index", "is_view"),
    [("Sub(@last, %i)", True), ("Add(%i, @one)", False), ("Mul(%i, %i)", False)],
)
def test_only_indices_in_range_become_views(index: str, is_view: bool) -> None:
    text = COUNTED.replace(
        "%row = Gather(%x, %i)",
        f"""@last: i64[] = [69]
    @one: i64[] = [1]
    %index = {index}
    %row = Gather(%x, %index)""",
    )
    lines = text.split("\n")
    constants = [line for line in lines if line.strip().startswith(("@last", "@one"))]
    body = [line for line in lines if line not in constants]
    text = "\n".join([*body[:3], *constants, *body[3:]])
    (loop,) = loops_of(marked(text))
    assert ("planish.Element" in [node.op for node in loop.body]) == is_view


def test_a_scan_becomes_a_loop_of_symbolic_length() -> None:
    graph = marked(SYMBOLIC)
    (loop,) = loops_of(graph)
    assert is_native_loop(loop)
    assert graph.ranges[loop_symbol(loop)] == (0, 4, 8)
    verify(graph)


@pytest.mark.parametrize(
    "change",
    [
        ("%twice = Mul(%a, @two)", "%twice = Concat(%a, %a) {axis=0}"),  # the shape changes
        ("Loop(_, %go, %x)", "Loop(_, _, %x)"),  # still ends itself: native
    ],
)
def test_only_bodies_of_known_extents_are_native(change: tuple[str, str]) -> None:
    (loop,) = loops_of(marked(WHILE.replace(*change)))
    assert is_plannable(loop) == ("Concat" not in change[1])
    assert is_native_loop(loop) == ("Concat" not in change[1])


def test_marking_twice_changes_nothing() -> None:
    graph = marked(COUNTED)
    statistics = run_pipeline(graph, [NativeLoops()])
    assert not statistics[0].modified


def test_projections_of_all_steps_move_out() -> None:
    text = COUNTED.replace("%2 = Add(%1, %row)", "%p = MatMul(%row, @w)\n    %2 = Add(%1, %p)")
    graph = parse(text)
    inputs = random_inputs(graph)
    expected = run_graph(graph, inputs)
    run_pipeline(graph, [HoistProjections()])
    (loop,) = loops_of(graph)
    assert [node.op for node in loop.body].count("MatMul") == 1
    assert [node.op for node in graph] == ["MatMul", "Loop"]
    assert_equal_results(expected, graph, inputs)


TIDY = """
graph tidy(%x: f32[4], %y: f32[4], %z: f32[4]) {
  @trips: i64[] = [70]
  @last: i64[] = [-1]
  %a, %b, %c, %all, %twice = Loop(@trips, _, %x, %y, %z) {body=graph body(
    %i: i64[], %go: bool[], %p: f32[4], %q: f32[4], %r: f32[4]
  ) {
    %still = Identity(%go)
    %fixed = Exp(%q)
    %new = Add(%p, %fixed)
    %same = Identity(%q)
    %unread = Neg(%r)
    %s = Identity(%new)
    %t = Identity(%new)
    return %still, %new, %same, %unread, %s, %t
  }}
  %end = Gather(%all, @last) {axis=0}
  return %end, %b, OUTPUTS
}"""


def test_loops_carry_only_what_changes_and_is_read() -> None:
    graph = parse(TIDY.replace("OUTPUTS", "%twice"))
    inputs = random_inputs(graph)
    expected = run_graph(graph, inputs)
    while run_pipeline(graph, [TidyLoops()])[0].modified:
        verify(graph)
    (loop,) = loops_of(graph)
    assert len(loop.inputs) == 3  # one carried value
    assert len(loop.outputs) == 2
    assert "Exp" in [node.op for node in graph]
    assert_equal_results(expected, graph, inputs)


def test_regions_know_how_often_they_run() -> None:
    graph = parse(LOOPS["nested"])
    run_pipeline(graph, PLACING)
    times = set(repetitions(graph, graph.ranges).values())
    assert times == {70, 70 * 66}


def test_a_carried_tensor_is_written_in_place() -> None:
    graph = parse(LOOPS["written"])
    counts = run_pipeline(graph, PLACING)[-1].counts
    assert "copies of loop results" not in counts
    assert counts["loop results written in place"] == 3


def test_a_loop_that_may_not_run_keeps_its_nodes() -> None:
    graph = parse(LOOPS["limited"].replace("Add(%a, %number)", "Add(%a, %x)"))
    assert not run_pipeline(graph, [TidyLoops()])[0].counts.get("loop-invariant nodes")
    for trips in (0, 3):
        inputs = [*random_inputs(graph)[:1], np.array(trips, np.int64)]
        expected = run_graph(graph, inputs)
        copy = parse(LOOPS["limited"].replace("Add(%a, %number)", "Add(%a, %x)"))
        run_pipeline(copy, PLACING)
        assert_simulation(copy, inputs, expected)
