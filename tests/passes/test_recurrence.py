"""Recurrent layers in loops: spellings that are recognised, and loops that are left alone."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir.graph import Graph
from planish.ops.interpreter import run_graph
from planish.passes.graph_pass import run_pipeline
from planish.passes.pipeline import recurrent, tidy_loops
from tests.passes.checks import assert_equal_results, parse, random_inputs

LOOP = """
graph cell(%x: f32[SHAPE], %h: f32[2,3], %c: f32[2,3]) {
  @one: f32[] = 1.0
  @w: f32[4,GATES] = [WEIGHTS]
  @r: f32[3,GATES] = [RECURRENCE]
  @both: f32[7,GATES] = [BOTH]
  @b: f32[GATES] = [BIAS]
  @u: f32[3,3] = [0.1,0.2,0.3,0.4,-0.5,0.6,0.7,-0.8,0.9]
  @v: f32[4,3] = [0.1,0.2,0.3,0.4,-0.5,0.6,0.7,-0.8,0.9,-0.3,0.2,0.1]
  @half: f32[] = 0.5
  @slope: f32[] = 0.2
  @low: f32[] = 0.0
  @high: f32[] = 1.0
  @steps: i64[] = [5]
  @last: i64[] = [4]
  OUTPUTS = Loop(@steps, _, STATES) {body=graph body(%i: i64[], %go: bool[], ARGUMENTS) {
    %still = Identity(%go)
    BODY
    return %still, RESULTS
  }}
  return OUTPUTS
}"""

STEP = "%t = Gather(%x, %i) {axis=0}"
LINEAR = "%xw = MatMul(%t, @w)\n%hr = MatMul(%p, @r)\n%xh = Add(%xw, %hr)\n%a = Add(%xh, @b)"
LSTM_SPLIT = "%i0, %f0, %g0, %o0 = Split(%a) {axis=1, num_outputs=4}"
LSTM_CELL = """%in = Sigmoid(%i0)
%fo = Sigmoid(%f0)
%g = Tanh(%g0)
%o = Sigmoid(%o0)
%k = Mul(%fo, %q)
%e = Mul(%in, %g)
%m = Add(%k, %e)
%s = Tanh(%m)
%n = Mul(%o, %s)
%y = Identity(%n)"""
GRU_GATES = """%z0, %r0, %g0 = Split(%xb) {axis=1, num_outputs=3}
%z1, %r1, %g1 = Split(%hr) {axis=1, num_outputs=3}
%za = Add(%z0, %z1)
%z = Sigmoid(%za)
%ra = Add(%r0, %r1)
%re = Sigmoid(%ra)"""
GRU_LINEAR = "%xw = MatMul(%t, @w)\n%xb = Add(%xw, @b)\n%hr = MatMul(%p, @r)"
AFTER = "%rg = Mul(%re, %g1)\n%ga = Add(%g0, %rg)\n%g = Tanh(%ga)"
BEFORE = "%rp = Mul(%re, %p)\n%rg = MatMul(%rp, @u)\n%ga = Add(%g0, %rg)\n%g = Tanh(%ga)"
BLEND = "%k = Mul(%z, %p)\n%w1 = Sub(@one, %z)\n%e = Mul(%w1, %g)\n%n = Add(%k, %e)"
TURNED = "%k = Mul(%z, %g)\n%w1 = Sub(@one, %z)\n%e = Mul(%w1, %p)\n%n = Add(%e, %k)"
TOWARDS = "%d = Sub(%p, %g)\n%e = Mul(%z, %d)\n%n = Add(%g, %e)"
Y = "%y = Identity(%n)"


def cell(body: str, gates: int, states: int, shape: str = "5,2,4") -> Graph:
    random = np.random.default_rng(gates)

    def numbers(*shape: int) -> str:
        return ",".join(f"{n:.4f}" for n in random.standard_normal(shape).reshape(-1))

    weights, recurrence = numbers(4, gates), numbers(3, gates)
    names, inner, carried = ("h", "c")[:states], ("p", "q")[:states], ("n", "m")[:states]
    text = LOOP.replace("WEIGHTS", weights).replace("RECURRENCE", recurrence)
    text = text.replace("BOTH", f"{weights},{recurrence}").replace("BIAS", numbers(gates))
    text = text.replace("OUTPUTS", ", ".join(f"%out{k}" for k in range(states + 1)))
    text = text.replace("STATES", ", ".join(f"%{name}" for name in names))
    text = text.replace("ARGUMENTS", ", ".join(f"%{name}: f32[2,3]" for name in inner))
    text = text.replace("RESULTS", ", ".join(f"%{name}" for name in (*carried, "y")))
    text = text.replace("GATES", str(gates)).replace("SHAPE", shape)
    return parse(text.replace("BODY", body))


def lstm(*lines: str) -> Graph:
    return cell("\n".join(lines), 12, 2)


def gru(*lines: str) -> Graph:
    return cell("\n".join(lines), 9, 1)


SPELLINGS = {
    "lstm": (lstm(STEP, LINEAR, LSTM_SPLIT, LSTM_CELL), "LSTM"),
    "lstm_of_joined_vectors": (
        lstm(
            STEP,
            "%xp = Concat(%t, %p) {axis=1}\n%ab = MatMul(%xp, @both)\n%a = Add(%ab, @b)",
            LSTM_SPLIT,
            LSTM_CELL,
        ),
        "LSTM",
    ),
    "lstm_with_other_gate_order": (
        lstm(STEP, LINEAR, LSTM_SPLIT.replace("%i0, %f0", "%f0, %i0"), LSTM_CELL),
        "LSTM",
    ),
    "lstm_with_hard_gates": (
        lstm(
            STEP,
            LINEAR,
            LSTM_SPLIT,
            *(
                f"%{n}1 = Mul(%{n}0, @slope)\n%{n}2 = Add(%{n}1, @half)\n"
                f"%{n}3 = Min(%{n}2, @high)\n%{n}4 = Max(%{n}3, @low)"
                for n in "ifo"
            ),
            LSTM_CELL.replace("Sigmoid(%i0)", "Identity(%i4)")
            .replace("Sigmoid(%f0)", "Identity(%f4)")
            .replace("Sigmoid(%o0)", "Identity(%o4)"),
        ),
        "LSTM",
    ),
    "lstm_over_the_second_axis": (
        cell(
            "\n".join([STEP.replace("axis=0", "axis=1"), LINEAR, LSTM_SPLIT, LSTM_CELL]),
            12,
            2,
            "2,5,4",
        ),
        "LSTM",
    ),
    "lstm_backwards": (
        lstm(
            "%back = Sub(@last, %i)\n%t = Gather(%x, %back) {axis=0}",
            LINEAR,
            LSTM_SPLIT,
            LSTM_CELL,
        ),
        "LSTM",
    ),
    "gru_reset_after": (gru(STEP, GRU_LINEAR, GRU_GATES, AFTER, BLEND, Y), "GRU"),
    "gru_reset_before": (gru(STEP, GRU_LINEAR, GRU_GATES, BEFORE, BLEND, Y), "GRU"),
    "gru_towards": (gru(STEP, GRU_LINEAR, GRU_GATES, AFTER, TOWARDS, Y), "GRU"),
    "gru_turned": (gru(STEP, GRU_LINEAR, GRU_GATES, AFTER, TURNED, Y), "GRU"),
    "rnn": (
        cell(f"{STEP}\n{LINEAR}\n%n = Relu(%a)\n{Y}", 3, 1),
        "RNN",
    ),
}

OTHERS = {
    "another_step": lstm(
        "@one64: i64[] = [0]\n%t = Gather(%x, @one64) {axis=0}", LINEAR, LSTM_SPLIT, LSTM_CELL
    ),
    "two_gate_activations": lstm(
        STEP, LINEAR, LSTM_SPLIT, LSTM_CELL.replace("%in = Sigmoid", "%in = Softsign")
    ),
    "another_output_is_stacked": lstm(
        STEP, LINEAR, LSTM_SPLIT, LSTM_CELL.replace("%y = Identity(%n)", "%y = Neg(%n)")
    ),
    "the_memory_is_squashed_twice": lstm(
        STEP, LINEAR, LSTM_SPLIT, LSTM_CELL.replace("Tanh(%m)", "Tanh(%k)")
    ),
    "the_candidate_reads_the_state_as_well": gru(
        STEP,
        GRU_LINEAR,
        GRU_GATES,
        "%pu = MatMul(%p, @u)\n%gs = Add(%g0, %pu)\n%rg = Mul(%re, %g1)\n%ga = Add(%gs, %rg)\n"
        "%g = Tanh(%ga)",
        BLEND,
        Y,
    ),
    "weights_do_not_add_up": gru(
        STEP, GRU_LINEAR, GRU_GATES, AFTER, BLEND.replace("Sub(@one", "Sub(@half"), Y
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_are_recognised(name: str) -> None:
    graph, op = SPELLINGS[name]
    inputs = random_inputs(graph)
    expected = run_graph(graph, inputs)
    run_pipeline(graph, [tidy_loops(), recurrent()])
    assert [node.op for node in graph if node.op in ("Loop", op)] == [op]
    assert_equal_results(expected, graph, inputs)


@pytest.mark.parametrize("name", OTHERS)
def test_other_loops_are_left_alone(name: str) -> None:
    graph = OTHERS[name]
    inputs = random_inputs(graph)
    expected = run_graph(graph, inputs)
    run_pipeline(graph, [tidy_loops(), recurrent()])
    assert "Loop" in [node.op for node in graph]
    assert not {"LSTM", "GRU", "RNN"} & {node.op for node in graph}
    assert_equal_results(expected, graph, inputs)


def test_scans_are_loops() -> None:
    graph = parse("""
    graph scan(%x: f32[5,2,2], %h: f32[2,2]) {
      %last, %all = Scan(%h, %x) {
        num_scan_inputs=1, scan_input_directions=[1], scan_output_directions=[1],
        body=graph body(%p: f32[2,2], %t: f32[2,2]) {
          @w: f32[2,2] = [0.1,0.2,0.3,0.4]
          @r: f32[2,2] = [0.5,-0.2,0.3,-0.4]
          %1 = MatMul(%t, @w)
          %2 = MatMul(%p, @r)
          %3 = Add(%1, %2)
          %n = Tanh(%3)
          %y = Identity(%n)
          return %n, %y
        }
      }
      return %last, %all
    }""")
    inputs = random_inputs(graph)
    expected = run_graph(graph, inputs)
    run_pipeline(graph, [tidy_loops(), recurrent()])
    assert "RNN" in [node.op for node in graph]
    assert_equal_results(expected, graph, inputs)
