"""Lifetimes in loops, and the proofs about plans with loops."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planish.errors import PlanError
from planish.ir.shape import symbol
from planish.passes.graph_pass import run_pipeline
from planish.plan.lifetimes import LoopSpan, collect_lifetimes
from planish.plan.plan import Binding, Plan
from planish.plan.schedule import make_plan
from planish.plan.verify import verify_plan
from planish.tactics.region import regions_of
from tests.passes.checks import parse
from tests.passes.loop_graphs import LOOPS
from tests.passes.test_native_loops import PLACING
from tests.plan.simulator import simulated_choices

CAPTURED = """
graph captured(%x: f32[3,4], %h: f32[3,4]) {
  @trips: i64[] = [70]
  %outer = Exp(%x)
  %last = Loop(@trips, _, %h) {body=graph body(%i: i64[], %go: bool[], %s: f32[3,4]) {
    %still = Identity(%go)
    %mean = ReduceMean(%s, _) {keepdims=1}
    %new = Add(%mean, %outer)
    return %still, %new
  }}
  return %last
}"""


def plan_of(text: str) -> Plan:
    graph = parse(text)
    run_pipeline(graph, PLACING)
    return make_plan(graph, simulated_choices(graph))


def test_what_a_loop_reads_from_outside_lives_until_its_end() -> None:
    graph = parse(CAPTURED)
    run_pipeline(graph, PLACING)
    (loop,) = [node for node in graph if node.op == "Loop"]
    order = [(node, ()) for node in regions_of(graph)]
    inside = [index for index, (node, _) in enumerate(order) if node.graph is loop.body]
    span = LoopSpan(loop, inside[0], inside[-1] + 1, ())
    inputs = {value: index for index, value in enumerate(graph.inputs)}
    outputs = {value: index for index, value in enumerate(graph.outputs)}
    lifetimes = collect_lifetimes(order, inputs, outputs, graph.ranges, [span])
    outer = next(buffer for buffer in lifetimes.buffers if buffer.label.startswith("outer"))
    assert (outer.first, outer.last) == (0, inside[-1])
    # nothing overwrites it: it is read again in the next iteration
    assert all(len(owners) == 1 for owners in lifetimes.owners)


@pytest.fixture
def plan() -> Plan:
    return plan_of(LOOPS["nested"])


def test_a_sound_plan_passes(plan: Plan) -> None:
    verify_plan(plan)
    assert [loop.parent for loop in plan.loops] == [None, 0]


def test_steps_name_their_loop(plan: Plan) -> None:
    steps = tuple(replace(step, loop=None) for step in plan.steps)
    with pytest.raises(PlanError, match="not in loop"):
        verify_plan(replace(plan, steps=steps))


def test_loops_are_nested(plan: Plan) -> None:
    outer, inner = plan.loops
    with pytest.raises(PlanError, match="not inside loop 0"):
        verify_plan(replace(plan, loops=(outer, replace(inner, first=0))))
    with pytest.raises(PlanError, match="it has steps"):
        verify_plan(replace(plan, loops=(replace(outer, last=99), inner)))


def test_addresses_in_the_last_iteration_are_checked() -> None:
    plan = plan_of(CAPTURED)
    index = next(i for i, step in enumerate(plan.steps) if step.loop == 0)
    step, name = plan.steps[index], plan.loops[0].symbol
    far = Binding("arena", 0, symbol(name) * 64)
    steps = list(plan.steps)
    steps[index] = replace(step, bindings=(*step.bindings[:-1], far))
    with pytest.raises(PlanError, match="outside arena"):
        verify_plan(replace(plan, steps=tuple(steps)))


def test_what_ends_a_loop_is_written_before_it() -> None:
    plan = plan_of(LOOPS["while"])
    (loop,) = plan.loops
    assert loop.condition is not None
    unwritten = replace(loop, condition=replace(loop.condition, offset=plan.arena_bytes - 1))
    with pytest.raises(PlanError, match="nothing has written"):
        verify_plan(replace(plan, loops=(unwritten,)))
