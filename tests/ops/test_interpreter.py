from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from planish.errors import GraphError, InputError
from planish.ir.graph import Value
from planish.ops.infer import graph_from_text
from planish.ops.interpreter import run_graph, run_node

CHAIN = """\
graph g(%x: f32[4]) {
  @b: f32[4] = [1.0, 2.0, 3.0, 4.0]
  %1 = Add(%x, @b)
  %2 = Mul(%1, %1)
  %3 = Add(%2, %x)
  return %3, %1, @b
}
"""


def test_a_chain_gives_what_numpy_gives() -> None:
    x = np.array([1, -1, 0, 2], np.float32)
    total, first, constant = run_graph(graph_from_text(CHAIN), [x])
    b = np.array([1, 2, 3, 4], np.float32)
    assert np.array_equal(first, x + b)
    assert np.array_equal(total, (x + b) ** 2 + x)
    assert np.array_equal(constant, b)


def test_the_callback_sees_every_computed_value() -> None:
    seen: list[str] = []

    def note(value: Value, array: np.ndarray) -> None:
        seen.append(f"{value.name}{array.shape}")

    run_graph(graph_from_text(CHAIN), [np.zeros(4, np.float32)], note)
    assert seen == ["1(4,)", "2(4,)", "3(4,)"]


def test_dead_intermediates_are_released() -> None:
    lines = "\n".join(f"  %{i + 1} = Relu(%{i})" for i in range(10))
    graph = graph_from_text(f"graph g(%0: f32[1000]) {{\n{lines}\n  return %10 }}")
    alive: list[weakref.ref[np.ndarray]] = []
    peak = 0

    def count(value: Value, array: np.ndarray) -> None:
        nonlocal peak
        alive.append(weakref.ref(array))
        gc.collect()
        peak = max(peak, sum(reference() is not None for reference in alive))

    run_graph(graph, [np.ones(1000, np.float32)], count)
    assert peak <= 3


def test_wrong_inputs_are_refused() -> None:
    graph = graph_from_text(CHAIN)
    with pytest.raises(InputError, match="has 1 inputs, got 0"):
        run_graph(graph, [])
    with pytest.raises(InputError, match="float64, expected float32"):
        run_graph(graph, [np.zeros(4)])


def test_a_failing_reference_names_the_node() -> None:
    graph = graph_from_text(
        "graph g(%x: f32[N], %y: f32[N]) { %1 = Add(%x, %y) # sum\n return %1 }"
    )
    with pytest.raises(GraphError, match="sum"):
        run_graph(graph, [np.zeros(2, np.float32), np.zeros(3, np.float32)])


def test_one_node_runs_alone() -> None:
    node = next(iter(graph_from_text(CHAIN)))
    x = np.ones(4, np.float32)
    assert run_node(node, [x, x])[0].tolist() == [2.0] * 4


CONTROL = """\
graph g(%x: f32[N,3], %c: bool[]) {
  @three: i64[] = [3]
  @two: f32[] = [2.0]
  %h = Mul(%x, @two)
  %1 = If(%c) {then_branch=graph yes() {
    %t = Add(%h, %x)
    return %t
  }, else_branch=graph no() {
    return %h
  }}
  %2, %3 = Loop(@three, %c, %1) {body=graph body(%i: i64[], %go: bool[], %s: f32?) {
    %n = Add(%s, %x)
    return %go, %n, %n
  }}
  %4, %5 = Scan(%h, %3) {num_scan_inputs=1, body=graph step(%state: f32?, %slice: f32?) {
    %sum = Add(%state, %slice)
    return %sum, %sum
  }}
  return %2, %3, %4, %5
}
"""


def test_control_flow_reads_outer_values() -> None:
    graph = graph_from_text(CONTROL)
    shapes = [str(value).split("f32")[1] for value in graph.outputs]
    assert shapes[0] == "[N,3]"
    assert shapes[1].endswith(",N,3]")
    assert shapes[2] == "[N,3]"
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    final, steps, total, running = run_graph(graph, [x, np.array(True)])
    assert np.array_equal(final, 6 * x)  # 3x, then x three times
    assert np.array_equal(steps, np.stack([4 * x, 5 * x, 6 * x]))
    assert np.array_equal(total, 17 * x)
    assert np.array_equal(running, np.stack([6 * x, 11 * x, 17 * x]))
    untaken = run_graph(graph, [x, np.array(False)])
    assert np.array_equal(untaken[0], 2 * x)  # the loop's condition is false from the start
    assert len(untaken[1]) == 0
