"""Regions are convex and keep the results, on random graphs with everything in every order."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir.dtypes import F32
from planish.ir.graph import Graph, Node, Value
from planish.ops.interpreter import run_graph
from planish.passes.building import emit
from planish.passes.fuse_regions import LIMIT, VIEWS, FuseRegions
from planish.passes.graph_pass import run_pipeline
from tests.passes.checks import assert_equal_results, parse, random_inputs

UNARY = ("Relu", "Sigmoid", "Tanh", "Neg")
BINARY = ("Add", "Mul", "Max")


def random_graph(seed: int, nodes: int) -> Graph:
    """Return a graph of anchors, views and pointwise nodes over [4,4] tensors."""
    generator = np.random.default_rng(seed)
    graph = Graph(f"random{seed}")
    values = [graph.add_input(f"x{index}", F32, (4, 4)) for index in range(2)]
    end = graph.append(Node("Identity", [values[0]], [graph.new_value(F32, (4, 4))], {}))
    for _ in range(nodes):
        # recent values are more likely, so that chains form
        a, b = (values[-1 - min(int(generator.exponential(3)), len(values) - 1)] for _ in range(2))
        values.append(_random_node(graph, end, generator, a, b))
    outputs = [value for value in values if not value.uses and value.producer is not None]
    outputs += [values[int(index)] for index in generator.integers(2, len(values), 2)]
    graph.remove(end)
    for index, value in enumerate(dict.fromkeys(outputs)):
        graph.add_output(value, f"y{index}")
    return graph


def _random_node(
    graph: Graph, end: Node, generator: np.random.Generator, a: Value, b: Value
) -> Value:
    kind = generator.random()
    if kind < 0.2:
        weights = graph.constant((generator.standard_normal((4, 4)) / 2).astype(np.float32))
        return emit(graph, end, "MatMul", [a, weights])
    if kind < 0.3:
        return emit(graph, end, "Softmax", [a], {"axis": int(generator.integers(2))})
    if kind < 0.4:
        return emit(graph, end, "Transpose", [a], {"perm": (1, 0)})
    if kind < 0.7:
        return emit(graph, end, str(generator.choice(UNARY)), [a])
    return emit(graph, end, str(generator.choice(BINARY)), [a, b])


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs_keep_their_results(seed: int) -> None:
    graph = random_graph(seed, nodes=10 + seed)
    inputs = random_inputs(graph, seed)
    expected = run_graph(graph, inputs)
    (statistics,) = run_pipeline(graph, [FuseRegions()])  # verifies the execution order
    assert_equal_results(expected, graph, inputs)
    assert all(node.op == "Region" or node.op in VIEWS for node in graph)
    assert statistics.after <= statistics.before
    for node in graph:
        if node.op == "Region":
            check_region(node)


def check_region(node: Node) -> None:
    """Check what tactics rely on."""
    body, kind = node.body, node.attributes["kind"]
    anchors = [inner for inner in body if inner.op in ("MatMul", "Softmax")]
    assert len(anchors) == (0 if kind == "pointwise" else 1)
    assert all(anchor.op == kind for anchor in anchors)
    assert len(node.outputs) == len(body.outputs) == 1
    assert len(body) <= LIMIT
    assert len(node.inputs) == len(set(node.inputs)) == len(body.inputs)
    assert not any(value is None or value.is_constant for value in node.inputs)
    for outer, inner in zip(node.present_inputs, body.inputs, strict=True):
        assert (outer.dtype, outer.shape) == (inner.dtype, inner.shape)
        assert inner.uses


def test_long_chains_are_cut() -> None:
    lines = [f"%{i} = Neg(%{i - 1})" for i in range(1, 2 * LIMIT + 6)]
    graph = parse("graph g(%0: f32[2]) {\n" + "\n".join(lines) + f"\nreturn %{len(lines)}\n}}")
    FuseRegions().run(graph)
    assert [len(node.body) for node in graph] == [5, LIMIT, LIMIT]


def test_values_of_a_region_that_a_branch_reads_stay_outputs() -> None:
    graph = parse(
        """
        graph g(%x: f32[2], %c: bool[]) {
          %1 = Neg(%x)
          %2 = Exp(%1)
          %3 = If(%c) {then_branch=graph a() {
            %4: f32[2] = Relu(%1)
            return %4
          }, else_branch=graph b() {
            %5: f32[2] = Neg(%2)
            return %5
          }}
          return %3
        }"""
    )
    inputs = random_inputs(graph)
    expected = run_graph(graph, inputs)
    run_pipeline(graph, [FuseRegions()])
    assert_equal_results(expected, graph, inputs)


def test_scale_per_axis_that_is_computed_is_not_fused() -> None:
    graph = parse(
        """
        graph g(%x: f32[2,3], %s: f32[3]) {
          @w: f32[3,3]
          %1 = MatMul(%x, @w)
          %2 = QuantizeLinear(%1, %s) {axis=1}
          return %2
        }"""
    )
    FuseRegions().run(graph)
    assert [node.attributes["kind"] for node in graph] == ["MatMul", "QuantizeLinear"]


GATED = """
    graph g(%x: f32[2,8,4,4], %g: f32[2,8,1,1]) {{
      @w: f32[6,8,{k},{k}]
      %1: f32[2,8,4,4] = Mul(%x, %g)
      %2: f32[2,6,4,4] = Conv(%1, @w) {{kernel_shape=[{k},{k}], pads=[{p},{p},{p},{p}]}}
      %3: f32[2,6,4,4] = Relu(%2)
      return %3{more}
    }}"""


@pytest.mark.parametrize(
    ("k", "p", "more", "gates", "kinds"),
    [
        (1, 0, "", True, ["Conv"]),
        (1, 0, "", False, ["pointwise", "Conv"]),
        (3, 1, "", True, ["pointwise", "Conv"]),  # again for every tap
        (1, 0, ", %1", True, ["pointwise", "Conv"]),  # somebody else reads the product
    ],
)
def test_a_gate_joins_a_convolution_of_one_tap(
    k: int, p: int, more: str, gates: bool, kinds: list[str]
) -> None:
    graph = parse(GATED.format(k=k, p=p, more=more))
    inputs = random_inputs(graph, 0)
    expected = run_graph(graph, inputs)
    run_pipeline(graph, [FuseRegions(gates=gates)])
    assert [node.attributes["kind"] for node in graph] == kinds
    assert_equal_results(expected, graph, inputs)


IMAGE = """
    graph g(%x: f32[2,{c},4,4]) {{
      @w: f16[6,{c},3,3]
      %1: f16[2,{c},4,4] = Cast(%x) {{to=f16}}
      %2: f16[2,6,4,4] = Conv(%1, @w) {{kernel_shape=[3,3], pads=[1,1,1,1]}}
      return %2
    }}"""


@pytest.mark.parametrize(("channels", "kinds"), [(3, ["Conv"]), (8, ["pointwise", "Conv"])])
def test_a_first_convolution_lowers_its_image(channels: int, kinds: list[str]) -> None:
    graph = parse(IMAGE.format(c=channels))
    inputs = random_inputs(graph, 0)
    expected = run_graph(graph, inputs)
    run_pipeline(graph, [FuseRegions(gates=True)])
    assert [node.attributes["kind"] for node in graph] == kinds
    assert_equal_results(expected, graph, inputs)
