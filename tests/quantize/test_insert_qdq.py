"""Which layers and tensors become integers, with which scales, and what stays floating point."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir.dtypes import I8, U8
from planish.ir.graph import Graph, Node
from planish.ir.verify import verify
from planish.ops.interpreter import run_graph
from planish.passes.graph_pass import run_pipeline
from planish.passes.pipeline import simplify
from planish.passes.quantized import is_quantized_product
from planish.quantize.insert_qdq import quantizable_values, quantize_graph
from tests.passes.checks import parse, random_inputs

RESIDUAL = """
graph residual(%x: f32[1,4,8,8]) {
  @w0: f32[8,4,3,3]
  @w1: f32[8,8,3,3]
  @w2: f32[8,8,3,3]
  @w3: f32[8,8,1,1]
  @w4: f32[8,10]
  @flat: i64[2] = [1, 8]
  %a = Conv(%x, @w0) {pads=[1,1,1,1]}    # first
  %b = Relu(%a)
  %c = Conv(%b, @w1) {pads=[1,1,1,1]}    # block.1
  %d = Relu(%c)
  %e = Conv(%d, @w2) {pads=[1,1,1,1]}    # block.2
  %f = Conv(%b, @w3)                     # shortcut
  %g = Add(%e, %f)
  %h = Relu(%g)
  %i = Conv(%h, @w1) {pads=[1,1,1,1]}    # after
  %j = GlobalAveragePool(%i)
  %k = Reshape(%j, @flat)
  %l = MatMul(%k, @w4)                   # head
  return %l
}"""


def thresholds(graph: Graph) -> dict[str, float]:
    """Return the largest magnitudes of the tensors on random data."""
    values = quantizable_values(graph)
    outputs = list(graph.outputs)
    graph.outputs = [*outputs, *values]
    results = run_graph(graph, random_inputs(graph))[len(outputs) :]
    graph.outputs = outputs
    return {v.name: float(np.abs(r).max()) for v, r in zip(values, results, strict=True)}


def products(graph: Graph) -> dict[str, Node]:
    """Return the convolutions and matmuls by the user's names."""
    return {str(node.source): node for node in graph if node.op in ("Conv", "MatMul")}


def test_a_residual_network_computes_with_integers() -> None:
    graph = parse(RESIDUAL)
    inputs = random_inputs(graph)
    (expected,) = run_graph(graph, inputs)
    summary = quantize_graph(graph, thresholds(graph))
    run_pipeline(graph, [simplify()])
    verify(graph)
    integers = {name for name, node in products(graph).items() if is_quantized_product(node)}
    assert integers == {"first", "block.1", "block.2", "shortcut", "after"}
    assert summary.layers == ["first", "block.1", "block.2", "shortcut", "after"]
    assert summary.kept == {"head": "it is a last layer, whose result the user reads"}
    assert summary.notes == ["head stays floating point: " + summary.kept["head"]]
    (got,) = run_graph(graph, inputs)
    assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.999


def test_tensors_that_cannot_be_negative_have_a_bit_more() -> None:
    graph = parse(RESIDUAL)
    limits = thresholds(graph)
    summary = quantize_graph(graph, limits)
    kinds = {name: text.split()[0] for name, text in summary.tensors.items()}
    assert kinds == {"x": "i8", "b": "u8", "d": "u8", "e": "i8", "h": "u8"}
    scales = {node.inputs[0].name: float(node.inputs[1].array) for node in graph
              if node.op == "QuantizeLinear" and node.inputs[0] and node.inputs[1]}  # fmt: skip
    assert scales["x"] == pytest.approx(limits["x"] / 127)
    assert scales["b"] == pytest.approx(limits["b"] / 255)


def test_weights_have_a_scale_for_each_output_channel() -> None:
    graph = parse(RESIDUAL)
    before = {name: node.present_inputs[1].array for name, node in products(graph).items()}
    quantize_graph(graph, thresholds(graph))
    weight = products(graph)["first"].present_inputs[1].producer
    assert weight is not None
    integers, scale = (value.array for value in weight.present_inputs[:2])
    assert integers.dtype == np.int8
    assert np.array_equal(np.abs(integers).max(axis=(1, 2, 3)), np.full(8, 127))
    largest = np.abs(before["first"]).max(axis=(1, 2, 3))
    assert np.allclose(scale, largest / 127)


def test_overrides_and_missing_ranges_keep_layers_in_floats() -> None:
    graph = parse(RESIDUAL)
    limits = thresholds(graph)
    del limits["d"]
    limits |= {"h": float("inf"), "j": 1.0}
    summary = quantize_graph(graph, limits, {"shortcut": "fp32", "head": "int8"})
    assert summary.layers == ["first", "block.1", "head"]
    assert summary.kept["block.2"] == "no range is known of its data"
    assert summary.kept["after"] == "no range is known of its data"
    assert summary.kept["shortcut"] == "layer_precisions asks for fp32"


def test_what_moves_join_share_one_scale() -> None:
    graph = parse("""
    graph joined(%x: f32[1,4,8,8]) {
      @w: f32[4,4,3,3]
      @v: f32[4,8,1,1]
      %a = Conv(%x, @w)
      %b = Conv(%x, @w) {dilations=[1,1]}
      %c = Sigmoid(%a)
      %d = Relu(%b)
      %e = Concat(%c, %d) {axis=1}
      %f = MaxPool(%e) {kernel_shape=[2,2]}
      %g = Conv(%f, @v)
      %h = Conv(%g, @w)
      return %h
    }""")
    summary = quantize_graph(graph, {"x": 3.0, "c": 1.0, "d": 7.0, "e": 6.0, "f": 6.0, "g": 2.0})
    assert {summary.tensors[name] for name in "cde"} == {summary.tensors["d"]}
    assert summary.tensors["d"] == f"u8 in steps of {7 / 255:.6g}"
    run_pipeline(graph, [simplify()])
    (concat,) = [node for node in graph if node.op == "Concat"]
    (pool,) = [node for node in graph if node.op == "MaxPool"]
    assert concat.output.dtype is pool.output.dtype is U8


def test_layers_that_gain_nothing_stay() -> None:
    graph = parse("""
    graph gate(%x: f32[1,4,8,8], %y: f32[6,6]) {
      @w: f32[4,4,3,3]
      @v: f32[4,4,1,1]
      %a = Conv(%x, @w)             # a
      %b = GlobalAveragePool(%a)
      %c = Conv(%b, @v)             # squeeze
      %d = Sigmoid(%c)
      %e = Mul(%a, %d)
      %f = MatMul(%e, %y)           # two
      %g = Conv(%f, @w)             # last
      return %g
    }""")
    limits = {value.name: 2.0 for value in quantizable_values(graph)}
    summary = quantize_graph(graph, limits)
    assert summary.layers == ["a"]
    assert summary.kept["squeeze"].startswith("it works on one pixel")
    assert summary.kept["two"] == "it multiplies two activations"
    assert summary.kept["last"].startswith("it is a last layer")


def test_the_user_may_ask_for_layers_that_gain_nothing() -> None:
    graph = parse("""
    graph gate(%x: f32[1,4,8,8]) {
      @w: f32[4,4,3,3]
      @v: f32[4,4,1,1]
      %a = Conv(%x, @w)             # a
      %b = GlobalAveragePool(%a)
      %c = Conv(%b, @v)             # squeeze
      return %c
    }""")
    wish = {"squeeze": "int8"}
    limits = {value.name: 2.0 for value in quantizable_values(graph, wish)}
    assert quantize_graph(graph, limits, wish).layers == ["a", "squeeze"]


def test_dead_channels_have_a_scale_of_one() -> None:
    graph = parse("""
    graph dead(%x: f32[1,2,4,4]) {
      @w: f32[2,2,1,1] = [0.0, 0.0, 1.0, -2.0]
      %a = Conv(%x, @w)
      %b = Conv(%a, @w)
      return %b
    }""")
    quantize_graph(graph, {"x": 1.0})
    weight = next(node.present_inputs[1].producer for node in graph if node.op == "Conv")
    assert weight is not None
    assert weight.present_inputs[1].array[0] == 1.0
    assert weight.present_inputs[0].dtype is I8


def test_a_concat_of_integers_takes_the_last_operand_too() -> None:
    graph = parse("""
    graph dense(%x: f32[1,4,8,8]) {
      @w: f32[4,4,1,1]
      @v: f32[4,8,1,1]
      @h: f32[12,3]
      @flat: i64[2] = [1, 12]
      %a = Conv(%x, @w)
      %b = Conv(%a, @w)
      %c = Concat(%a, %b) {axis=1}
      %d = Conv(%c, @v)
      %e = Concat(%a, %b, %d) {axis=1}
      %f = GlobalAveragePool(%e)
      %g = Reshape(%f, @flat)
      %i = MatMul(%g, @h)
      return %i
    }""")
    names = [value.name for value in quantizable_values(graph)]
    assert names == ["x", "a", "b", "c", "d"]
    quantize_graph(graph, dict.fromkeys(names, 2.0))
    run_pipeline(graph, [simplify()])
    joined = [node.output.dtype for node in graph if node.op == "Concat"]
    assert joined == [I8, I8]


def test_rows_of_a_table_are_quantized_behind_the_lookup() -> None:
    graph = parse("""
    graph lookup(%x: i64[1,5]) {
      @t: f32[10,8]
      @w: f32[8,8]
      %a = Gather(@t, %x)
      %b = MatMul(%a, @w)
      %c = MatMul(%b, @w)
      return %c
    }""")
    assert [value.name for value in quantizable_values(graph)] == ["a"]
