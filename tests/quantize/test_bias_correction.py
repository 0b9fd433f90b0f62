"""Numbers added to the sums of layers: as inputs while they are looked for, then as biases."""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir.graph import Graph, Node
from planish.ir.verify import verify
from planish.ops.interpreter import run_graph
from planish.quantize.bias_correction import (
    add_means,
    add_statistics,
    channel_shape,
    correct_biases,
    open_corrections,
)
from tests.passes.checks import parse, random_inputs

Array = np.ndarray[Any, Any]

MIXED = """
graph mixed(%x: f32[2,3,6,6], %b1: f32[5]) {
  @w0: f32[4,3,3,3]
  @b0: f32[4]
  @w1: f32[5,4,1,1]
  @w2: f32[4,1,3,3]
  @flat: i64[2] = [2, 180]
  @w3: f32[180,7]
  %a = Conv(%x, @w0, @b0) {pads=[1,1,1,1]}
  %b = Relu(%a)
  %c = Conv(%b, @w2) {group=4, pads=[1,1,1,1]}
  %d = Conv(%c, @w1, %b1)
  %e = Reshape(%d, @flat)
  %f = MatMul(%e, @w3)
  %g = Relu(%f)
  return %g, %f
}"""


def layers_of(graph: Graph) -> list[Node]:
    return [node for node in graph if node.op in ("Conv", "MatMul")]


def corrections(graph: Graph) -> list[Array]:
    generator = np.random.default_rng(4)
    shapes = [channel_shape(node) for node in layers_of(graph)]
    return [generator.standard_normal(shape).astype(np.float32) for shape in shapes]


def test_means_are_those_of_the_sums() -> None:
    graph = parse(MIXED)
    inputs, layers = random_inputs(graph), layers_of(graph)
    values = [node.output for node in layers]
    names = add_means(graph, layers)
    verify(graph)
    graph.outputs = [*graph.outputs[2:], *values]
    results = run_graph(graph, inputs)
    for mean, sums in zip(results[: len(names)], results[len(names) :], strict=True):
        axes = (2, 3) if sums.ndim == 4 else (0,)
        np.testing.assert_allclose(np.squeeze(mean), sums.mean(axis=axes), rtol=1e-4, atol=1e-5)


def test_statistics_are_those_of_channels() -> None:
    graph = parse(MIXED)
    value = list(graph)[1].output
    add_statistics(graph, value)
    verify(graph)
    graph.outputs = [*graph.outputs[2:], value]
    amax, square, array = run_graph(graph, random_inputs(graph))
    np.testing.assert_allclose(np.squeeze(amax), np.abs(array).max(axis=(2, 3)))
    np.testing.assert_allclose(np.squeeze(square), np.square(array).mean(axis=(2, 3)), rtol=1e-5)


def test_inputs_and_biases_add_the_same() -> None:
    opened, corrected = parse(MIXED), parse(MIXED)
    inputs, added = random_inputs(opened), corrections(opened)
    names, means = open_corrections(opened, layers_of(opened))
    verify(opened)
    assert [value.known_shape for value in names] == [(4, 1, 1), (4, 1, 1), (5, 1, 1), (7,)]
    assert len(means) == 4
    plain = run_graph(parse(MIXED), inputs)
    zeros = [np.zeros_like(array) for array in added]
    for got, want in zip(run_graph(opened, [*inputs, *zeros])[:2], plain, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    correct_biases(corrected, layers_of(corrected), added)
    verify(corrected)
    # a bias that is computed, and a MatMul, get an Add; the other convolutions a constant bias
    assert [node.op for node in corrected].count("Add") == 2
    results = run_graph(opened, [*inputs, *added])[:2]
    for got, want in zip(run_graph(corrected, inputs), results, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert not np.allclose(results[0], plain[0])
