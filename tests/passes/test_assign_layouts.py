from __future__ import annotations

import math

import pytest

from planish.ir.graph import Graph, Node
from planish.ir.layout import Layout
from planish.ir.shape import static_shape
from planish.ir.text import to_text
from planish.ir.verify import verify
from planish.ops.interpreter import run_graph
from planish.passes.assign_layouts import AssignLayouts
from planish.passes.assign_storage import AssignStorage
from planish.passes.copies import is_copy
from planish.passes.fuse_regions import FuseRegions
from planish.passes.graph_pass import PassStatistics, run_pipeline
from planish.tactics.region import region_of, regions_of
from tests.conftest import Golden
from tests.passes.checks import assert_equal_results, parse, random_inputs
from tests.passes.placed_graphs import GRAPHS


def place(text: str) -> tuple[Graph, list[PassStatistics]]:
    """Return a graph with layouts and storage, and what the passes counted."""
    graph = parse(text)
    return graph, run_pipeline(graph, [FuseRegions(), AssignLayouts(), AssignStorage()])


def copies(graph: Graph) -> list[Node]:
    return [node for node in regions_of(graph) if is_copy(node)]


@pytest.mark.parametrize("name", GRAPHS)
def test_text_after_layout_and_storage(name: str, golden: Golden) -> None:
    graph, statistics = place(GRAPHS[name])
    counted = "".join(f"# {entry}\n" for entry in statistics[1:])
    golden(f"placed/{name}", counted + to_text(graph))


@pytest.mark.parametrize("name", GRAPHS)
def test_meaning_is_kept_and_passes_are_idempotent(name: str) -> None:
    graph = parse(GRAPHS[name])
    inputs = random_inputs(graph)
    expected = run_graph(graph, inputs)
    run_pipeline(graph, [FuseRegions(), AssignLayouts(), AssignStorage()])
    assert_equal_results(expected, graph, inputs)
    text = to_text(graph)
    again = run_pipeline(graph, [AssignLayouts(), AssignStorage()])
    assert not any(entry.modified for entry in again)
    assert to_text(graph) == text


def test_convolutions_work_channels_last_with_their_padding_as_halo() -> None:
    graph, _ = place(GRAPHS["conv_padding_is_a_halo"])
    convolutions = [n for n in regions_of(graph) if n.attributes["kind"] == "Conv"]
    for node in convolutions:
        region = region_of(node, ("N",), graph.ranges)
        channels = region.inputs[0].shape[1]
        row = (6 + 2) * channels
        assert region.inputs[0].halo == ((0, 0), (0, 0), (1, 1), (1, 1))
        assert region.inputs[0].strides == (8 * row, 1, row, channels)
    assert len(copies(graph)) == 1  # the caller's array


def test_readers_of_one_value_share_the_largest_halo() -> None:
    graph, _ = place(GRAPHS["residual_shares_the_halo"])
    halos = [o.layout.halo for n in regions_of(graph) for o in n.outputs if o.layout is not None]
    assert ((0, 0), (0, 0), (1, 1), (1, 1)) in halos
    assert ((0, 0), (0, 0), (0, 2), (2, 0)) in halos
    assert len(copies(graph)) == 2  # the caller's arrays


def test_tensorflow_transposes_move_nothing() -> None:
    graph, _ = place(GRAPHS["nhwc_transposes_are_views"])
    assert copies(graph) == []


def test_attention_moves_nothing() -> None:
    graph, _ = place(GRAPHS["attention_heads_are_views"])
    assert copies(graph) == []
    product = [n for n in regions_of(graph) if n.attributes["kind"] == "MatMul"][2]
    assert product.outputs[0].layout == Layout((0, 2, 1, 3), ((0, 0),) * 4)


def test_a_channel_shuffle_moves_every_element_once() -> None:
    graph, _ = place(GRAPHS["channel_shuffle_copies_once"])
    moved = sum(math.prod(static_shape(n.outputs[0].known_shape) or ()) for n in copies(graph))
    assert moved == 2 * 4 * 9 + 2 * 8 * 9  # the input's reformat, and the shuffled tensor


def test_one_reformat_serves_all_readers() -> None:
    graph, _ = place("""
        graph g(%x: f32[1,4,6,6]) {
          @w1: f32[4,4,3,3]
          @w2: f32[4,4,5,5]
          %1: f32[1,4,6,6] = Conv(%x, @w1) {kernel_shape=[3,3], pads=[1,1,1,1]}
          %2: f32[1,4,6,6] = Conv(%x, @w2) {kernel_shape=[5,5], pads=[2,2,2,2]}
          %3: f32[1,4,6,6] = Add(%1, %2)
          return %3
        }""")
    reformats = [node for node in copies(graph) if node.inputs[0] in graph.inputs]
    assert len(reformats) == 1
    layout = reformats[0].outputs[0].layout
    assert layout is not None
    assert layout.halo == ((0, 0), (0, 0), (2, 2), (2, 2))


def test_a_prologue_keeps_its_padding_out_of_the_halo() -> None:
    # zeros would become ones behind the exponential
    graph = parse("""
        graph g(%x: f32[1,4,6,6]) {
          @w: f32[4,4,3,3]
          %1: f32[1,4,6,6] = Exp(%x)
          %2: f32[1,4,6,6] = Conv(%1, @w) {kernel_shape=[3,3], pads=[1,1,1,1]}
          return %2
        }""")
    body = Graph("conv")
    x, w = graph.inputs[0], next(iter(graph.constants()))
    inner = body.add_input("x", x.dtype, x.shape)
    values = {x: inner, w: body.constant(w.array)}
    for node in list(graph):
        output = body.new_value(node.output.dtype, node.output.shape)
        inputs = [values[value] for value in node.present_inputs]
        body.append(Node(node.op, inputs, [output], node.attributes))
        values[node.output] = output
    body.add_output(values[graph.outputs[0]])
    result = graph.new_value(x.dtype, x.shape)
    graph.append(Node("Region", [x], [result], {"kind": "Conv", "body": body}))
    graph.outputs = [result]
    for node in list(reversed(graph))[1:]:
        graph.remove(node)
    run_pipeline(graph, [AssignLayouts(), AssignStorage()])
    verify(graph)
    region = region_of(next(n for n in regions_of(graph) if n.body is body), (), {})
    assert region.inputs[0].halo == ((0, 0),) * 4


def test_loops_run_as_one_region() -> None:
    graph = parse("""
        graph g(%x: f32[3,2], %k: f32[2]) {
          @zero: f32[2] = [0.0, 0.0]
          %s: f32[2], %y: f32[3,2] = Scan(@zero, %x) {num_scan_inputs=1, body=graph b(%a: f32[2], %b: f32[2]) {
            %c: f32[2] = Add(%a, %b)
            %d: f32[2] = Mul(%c, %k)
            return %c, %d
          }}
          %z: f32[3,2] = Neg(%y)
          return %z, %s
        }""")  # noqa: E501
    inputs = random_inputs(graph)
    expected = run_graph(graph, inputs)
    run_pipeline(graph, [FuseRegions(), AssignLayouts(), AssignStorage()])
    assert [node.attributes["kind"] for node in regions_of(graph)] == ["Scan", "pointwise"]
    assert_equal_results(expected, graph, inputs)


def test_bf16_images_get_a_fourth_channel_of_zeros() -> None:
    graph, _ = place("""
        graph g(%x: bf16[1,3,6,6]) {
          @hw: i64[2] = [2, 3]
          @w: bf16[4,3,3,3]
          %1: bf16[1,4,4,4] = Conv(%x, @w) {kernel_shape=[3,3]}
          %2: bf16[1,4,1,1] = ReduceMean(%1, @hw)
          return %2
        }""")
    conv = next(n for n in regions_of(graph) if n.attributes["kind"] == "Conv")
    operand = region_of(conv, (), {}).inputs[0]
    assert operand.halo[1] == (0, 1)
    assert operand.strides == (144, 1, 24, 4)
