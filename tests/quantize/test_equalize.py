"""Stretched channels: what becomes of the graph, what it computes, and which gains are chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planish.ir.graph import Graph, Value
from planish.ir.verify import verify
from planish.ops.interpreter import run_graph
from planish.quantize.equalize import ChannelRange, gains, stretch, stretchable
from planish.quantize.scheme import tensor_name
from planish.quantize.select_layers import select_layers
from tests.passes.checks import assert_equal_results, parse, random_inputs

Array = np.ndarray[Any, Any]

DEPTHWISE = """
graph depthwise(%x: f32[1,3,8,8]) {{
  @w0: f32[4,3,1,1]
  @b0: f32[4]
  @w1: f32[4,1,3,3]
  @w2: f32[6,4,1,1]
  @w3: f32[2,6,1,1]
  @low: f32[] = 0.0
  @high: f32[] = 6.0
  @slope: f32[4,1,1] = [0.1, 0.2, 0.3, 0.4]
  %a = Conv(%x, @w0, @b0)                              # expand
  %b = {activation}
  %c = Conv(%b, @w1) {{group=4, pads=[1,1,1,1]}}       # depthwise
  %d = Relu(%c)
  %e = Conv(%d, @w2)                                   # project
  %f = Relu(%e)
  %g = Conv(%f, @w3)                                   # last
  return %g
}}"""
GAIN = np.array([1.0, 2.0, 8.0, 100.0])
TOP = 3.0  # threshold


def graph_with(activation: str) -> Graph:
    return parse(DEPTHWISE.format(activation=activation))


def named(graph: Graph, name: str) -> Value:
    values = [v for node in graph for v in node.outputs if tensor_name(v) == name]
    assert len(values) == 1
    return values[0]


def operators(graph: Graph) -> list[str]:
    return [node.op for node in graph]


@pytest.mark.parametrize(
    "activation", ["Relu(%a)", "LeakyRelu(%a) {alpha=0.2}", "PRelu(%a, @slope)"]
)
def test_factors_go_through_homogeneous_activations(activation: str) -> None:
    graph = graph_with(activation)
    inputs, before = random_inputs(graph), operators(graph)
    expected = run_graph(graph, inputs)
    layer = stretch(graph, named(graph, "b"), GAIN, TOP)
    verify(graph)
    assert layer == "a"
    assert operators(graph) == before
    assert_equal_results(expected, graph, inputs)


@pytest.mark.parametrize("activation", ["Sigmoid(%a)", "Swish(%a)", "Clip(%a, @low, @high)"])
def test_other_activations_get_a_mul(activation: str) -> None:
    graph = graph_with(activation)
    inputs = random_inputs(graph)
    expected = run_graph(graph, inputs)
    layer = stretch(graph, named(graph, "b"), GAIN, 7.0)  # a clip at 6 lies within the range
    verify(graph)
    assert layer == ""
    assert operators(graph)[:3] == ["Conv", activation.partition("(")[0], "Mul"]
    assert named(graph, "b").producer is list(graph)[2]
    assert_equal_results(expected, graph, inputs)


def test_a_clip_beyond_the_range_becomes_a_relu() -> None:
    graph = graph_with("Clip(%a, @low, @high)")
    inputs = random_inputs(graph)
    (value,) = run_with(graph, "b", inputs)
    layer = stretch(graph, named(graph, "b"), GAIN, TOP)
    verify(graph)
    assert layer == "a"
    assert operators(graph)[:2] == ["Conv", "Relu"]
    (got,) = run_with(graph, "b", inputs)
    want = value * GAIN.reshape(4, 1, 1)
    np.testing.assert_allclose(np.minimum(got, TOP), np.minimum(want, TOP), rtol=1e-4, atol=1e-4)


def run_with(graph: Graph, name: str, inputs: list[Array]) -> list[Array]:
    outputs = list(graph.outputs)
    graph.outputs = [named(graph, name)]
    results = run_graph(graph, inputs)
    graph.outputs = outputs
    return results


def test_matmuls_take_factors_along_their_rows() -> None:
    graph = parse("""
        graph g(%x: f32[3,5]) {
          @w0: f32[5,4]
          @w1: f32[4,6]
          @w2: f32[6,2]
          %a = MatMul(%x, @w0)
          %b = Relu(%a)
          %c = MatMul(%b, @w1)
          %d = MatMul(%c, @w2)
          return %d
        }""")
    inputs = random_inputs(graph)
    expected = run_graph(graph, inputs)
    assert stretch(graph, named(graph, "b"), GAIN, TOP) == "a"
    verify(graph)
    assert operators(graph) == ["MatMul", "Relu", "MatMul", "MatMul"]
    assert_equal_results(expected, graph, inputs)


def test_grouped_convolutions_divide_by_group() -> None:
    graph = parse("""
        graph g(%x: f32[1,4,5,5]) {
          @w0: f32[4,4,1,1]
          @w1: f32[6,2,3,3]
          @w2: f32[2,6,1,1]
          %a = Conv(%x, @w0)
          %b = Conv(%a, @w1) {group=2}
          %c = Conv(%b, @w2)
          return %c
        }""")
    inputs = random_inputs(graph)
    expected = run_graph(graph, inputs)
    assert stretch(graph, named(graph, "a"), GAIN, TOP) == "a"
    assert_equal_results(expected, graph, inputs)


def test_only_tensors_that_layers_alone_read_are_stretchable() -> None:
    graph = parse("""
        graph g(%x: f32[1,4,5,5]) {
          @w: f32[4,4,1,1]
          %a = Conv(%x, @w)
          %b = Relu(%a)
          %c = Conv(%b, @w)
          %d = Add(%b, %c)
          %e = Relu(%d)
          %f = Conv(%e, @w)
          %g = Conv(%f, @w)
          return %g
        }""")
    names = [tensor_name(value) for value in stretchable(select_layers(graph))]
    assert names == ["e"]  # a shortcut reads b, x is an input, and g's data go to a last layer


def test_gains_of_depthwise_layers_fill_the_range() -> None:
    value = named(graph_with("Relu(%a)"), "b")
    seen = ChannelRange(np.array([4.0, 0.4, 0.04, 0.0]), np.array([1.0, 1e-2, 1e-4, 0.0]))
    found = gains(value, seen, 4.0, 4.0 / 255)
    assert found is not None
    np.testing.assert_allclose(found, [1.0, 8.0, 80.0, 1.0])


def test_gains_of_dense_layers_balance_data_and_weights() -> None:
    graph = graph_with("Relu(%a)")
    value = named(graph, "d")
    (reader,) = value.users
    weights = reader.present_inputs[1].array.astype(np.float64)[:, :, 0, 0]
    amax, square = np.array([4.0, 0.04, 0.04, 0.04]), np.array([1.0, 1e-4, 1e-4, 1e-4])
    step = 4.0 / 255
    found = gains(value, ChannelRange(amax, square), 4.0, step)
    assert found is not None
    steps = np.square(np.abs(weights).max(axis=1) / 127).sum()

    def error(gain: Array) -> float:
        data = (step / gain) ** 2 * np.square(weights).sum(axis=0)
        return float(np.sum(data + gain**2 * square * steps))

    assert 1 < found.max() < 80
    for factor in (0.9, 1.1):  # a minimum but where the range or 1 ends it
        inner = (found > 1.001) & (found < 79)
        assert error(np.where(inner, found * factor, found)) > error(found)


def test_even_channels_are_left_alone() -> None:
    value = named(graph_with("Relu(%a)"), "b")
    assert gains(value, ChannelRange(np.full(4, 3.9), np.ones(4)), 4.0, 4.0 / 255) is None
