"""Cutting a graph into segments: run one after the other, they are the graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from planish.importers.importer import read_model
from planish.ir.graph import Graph, Node
from planish.ir.verify import verify
from planish.ops.interpreter import run_graph
from planish.passes.graph_pass import run_pipeline
from planish.passes.pipeline import preparation
from planish.quantize.segments import cut, operations_of_node, opt_sizes
from tests import small_models


def layers_of(model: onnx.ModelProto) -> tuple[Graph, list[Node]]:
    graph = read_model(model)
    run_pipeline(graph, preparation())
    return graph, [node for node in graph if node.op in ("Conv", "Gemm", "MatMul")]


@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_segments_together_are_the_graph(number: int) -> None:
    graph, layers = layers_of(small_models.convolutions())
    data = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)
    (want,) = run_graph(graph, [data])
    before = len(graph)
    segments = cut(graph, layers, number)
    assert len(graph) == before
    assert 1 <= len(segments) <= number
    assert number < 8 or len(segments) > 2
    known = {graph.inputs[0].name: data}
    for segment in segments:
        verify(segment.graph)
        inputs = [known[name] for name in segment.graph.input_names]
        known |= dict(
            zip(segment.graph.output_names, run_graph(segment.graph, inputs), strict=True)
        )
    np.testing.assert_allclose(known[graph.outputs[0].name], want, rtol=1e-6)
    inside = [node for segment in segments for node in segment.nodes]
    assert inside == list(graph)


def test_a_segment_begins_with_a_layer() -> None:
    graph, layers = layers_of(small_models.convolutions())
    for segment in cut(graph, layers, 8)[1:]:
        assert next(iter(segment.nodes)) in layers


def test_extents_that_no_tensor_shows_are_no_place_to_cut() -> None:
    graph, layers = layers_of(small_models.convolutions(size="S"))
    segments = cut(graph, layers, 8)
    for segment in segments:
        shown = {str(dim) for value in segment.graph.inputs for dim in value.known_shape}
        assert set(graph.ranges) <= shown


def test_operations_are_those_of_the_tuned_size() -> None:
    graph, layers = layers_of(small_models.convolutions())
    (out, into, *window) = layers[0].present_inputs[1].array.shape
    expected = 2 * out * into * int(np.prod(window)) * 12 * 12
    assert operations_of_node(layers[0], opt_sizes(graph)) == pytest.approx(expected, rel=0.1)
