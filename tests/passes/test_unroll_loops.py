"""Loops with a small, known number of iterations are written out; others stay."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir.graph import Graph
from planish.ir.verify import verify
from planish.ops import OPS, Sample
from planish.ops.infer import infer_node
from planish.ops.interpreter import run_graph
from planish.ops.op import Op
from planish.passes.inline_if import InlineIf
from planish.passes.unroll_loops import MOST_ITERATIONS, UnrollLoops
from tests.ops.onnx_oracle import node_of
from tests.passes.checks import parse

COUNTED = """
graph example(%x: f32[3], %n: i64[]) {
  @go: bool[] = [1]
  @trips: i64[] = [TRIPS]
  %y, %all = Loop(LIMIT, @go, %x) {body=graph body(%i: i64[], %c: bool[], %s: f32[3]) {
    %k: f32[] = Cast(%i) {to=f32}
    %t: f32[3] = Add(%s, %k)
    %p: f32[3] = Mul(%t, %x)
    %d: bool[] = Identity(%c)
    return %d, %t, %p
  }}
  return %y, %all
}"""


def counted(trips: int, limit: str = "@trips") -> Graph:
    return parse(COUNTED.replace("TRIPS", str(trips)).replace("LIMIT", limit))


def sample_graph(op: type[Op], sample: Sample) -> Graph:
    """Return a typed graph of one node, whose inputs are the sample's."""
    node = node_of(op, sample)
    infer_node(node)
    graph = node.graph
    assert graph is not None
    for value in node.outputs:
        graph.add_output(value)
    return graph


def operators(graph: Graph) -> list[str]:
    return [node.op for node in graph]


@pytest.mark.parametrize("index", range(len(OPS["Scan"].samples())))
def test_scans_keep_their_results(index: int) -> None:
    sample = OPS["Scan"].samples()[index]
    graph = sample_graph(OPS["Scan"], sample)
    inputs = [array for array in sample.inputs if array is not None]
    want = run_graph(graph, inputs)
    types = [(value.dtype, value.shape) for value in graph.outputs]
    InlineIf().run(graph)
    assert UnrollLoops().run(graph)
    verify(graph)
    assert "Scan" not in operators(graph)
    assert [(value.dtype, value.shape) for value in graph.outputs] == types
    for got, expected in zip(run_graph(graph, inputs), want, strict=True):
        np.testing.assert_array_equal(got, expected)
    assert not UnrollLoops().run(graph)


def test_a_counted_loop_is_written_out() -> None:
    graph = counted(4)
    inputs = [np.array([1, 2, 3], np.float32), np.array(0)]
    want = run_graph(graph, inputs)
    unroll = UnrollLoops()
    assert unroll.run(graph)
    assert unroll.counts == {"unrolled Loop": 1}
    verify(graph)
    assert operators(graph).count("Mul") == 4
    assert operators(graph)[-1] == "Concat"
    for got, expected in zip(run_graph(graph, inputs), want, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("trips", "limit"), [(0, "@trips"), (MOST_ITERATIONS + 1, "@trips"), (3, "%n"), (3, "_")]
)
def test_other_loops_stay(trips: int, limit: str) -> None:
    graph = counted(trips, limit)
    assert not UnrollLoops().run(graph)
    assert operators(graph) == ["Loop"]


def test_a_loop_that_ends_itself_stays() -> None:
    text = COUNTED.replace("%d: bool[] = Identity(%c)", "%d: bool[] = Less(%k, %f)")
    text = text.replace("%t: f32[3] = Add", "%f: f32[] = Cast(%n) {to=f32}\n    %t: f32[3] = Add")
    graph = parse(text.replace("TRIPS", "3").replace("LIMIT", "@trips"))
    assert not UnrollLoops().run(graph)


def test_a_loop_that_never_starts_gives_what_it_was_given() -> None:
    text = COUNTED.replace("@go: bool[] = [1]", "@go: bool[] = [0]")
    text = text.replace("return %y, %all", "return %y")
    text = text.replace("%y, %all = Loop", "%y = Loop").replace(
        "return %d, %t, %p", "return %d, %t"
    )
    graph = parse(text.replace("TRIPS", "3").replace("LIMIT", "@trips"))
    assert UnrollLoops().run(graph)
    verify(graph)
    x = np.array([1, 2, 3], np.float32)
    np.testing.assert_array_equal(run_graph(graph, [x, np.array(0)])[0], x)
    assert operators(graph) == ["Identity"]  # an output is computed by its graph


def test_nested_control_flow_is_copied_with_the_body() -> None:
    graph = parse("""
    graph example(%x: f32[3], %c: bool[]) {
      @go: bool[] = [1]
      @n: i64[] = [3]
      %y = Loop(@n, @go, %x) {body=graph body(%i: i64[], %g: bool[], %s: f32[3]) {
        %t: f32[3] = If(%c) {else_branch=graph e() {
          %a: f32[3] = Neg(%s)
          return %a
        }, then_branch=graph t() {
          %b: f32[3] = Add(%s, %x)
          return %b
        }}
        return %g, %t
      }}
      return %y
    }""")
    x = np.array([1, 2, 3], np.float32)
    want = [run_graph(graph, [x, np.array(taken)])[0] for taken in (True, False)]
    InlineIf().run(graph)
    assert UnrollLoops().run(graph)
    verify(graph)
    assert operators(graph).count("If") == 3
    assert "Loop" not in operators(graph)
    for taken, expected in zip((True, False), want, strict=True):
        np.testing.assert_array_equal(run_graph(graph, [x, np.array(taken)])[0], expected)
