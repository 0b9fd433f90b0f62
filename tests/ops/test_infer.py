from __future__ import annotations

import numpy as np
import pytest

from planish.errors import GraphError, ShapeError, UnsupportedOperatorError
from planish.ir.shape import symbol
from planish.ir.text import parse_text, to_text
from planish.ir.verify import verify
from planish.ops.infer import graph_from_text, infer_graph, infer_node
from planish.ops.interpreter import run_graph
from planish.ops.op import OPS, Op, Sample
from tests.ops.onnx_oracle import node_of

needs = pytest.mark.parametrize


def test_omitted_types_are_inferred() -> None:
    graph = graph_from_text(
        "graph g(%x: f32[N,3]) {\n @b: f32[3]\n %1 = Add(%x, @b)\n %2 = Relu(%1)\n return %2 }"
    )
    verify(graph)
    assert graph.outputs[0].shape == (symbol("N"), 3)
    assert graph.outputs[0].dtype.name == "f32"


def test_integer_constants_carry_their_contents() -> None:
    graph = graph_from_text("graph g() { @s: i64[2] = [3, -1] return @s }")
    assert graph.outputs[0].content == (3, -1)


def test_errors_name_the_users_node() -> None:
    with pytest.raises(ShapeError, match=r"block1\.add"):
        graph_from_text(
            "graph g(%x: f32[2,3]) { @b: f32[4] %1 = Add(%x, @b) # block1.add\n return %1 }"
        )


def test_missing_operands_are_a_shape_error() -> None:
    with pytest.raises(ShapeError, match="lonely"):
        graph_from_text("graph g(%x: f32[2,3]) { %1 = MatMul(%x) # lonely\n return %1 }")


def test_unknown_operators_are_listed_together() -> None:
    with pytest.raises(UnsupportedOperatorError) as error:
        graph_from_text("graph g(%x: f32[1]) { %1 = Foo(%x) # a\n %2 = Bar(%1) # b\n return %2 }")
    assert len(error.value.nodes) == 2


REGION = """\
graph g(%x: f32[N,3]) {
  %y = Region(%x) {kind="pointwise", body=graph body(%a: f32[2,2]) {
    @one: f32[] = [1.0]
    %1 = Add(%a, @one)
    %2 = Relu(%1)
    return %2
  }}  # add + relu
  %z = Region(%y, %x) {kind="pointwise", body=graph body(%a: f32[], %b: f32[]) {
    %1 = Add(%a, %b)
    return %1, %a
  }}
  return %z
}
"""


def test_region_bodies_take_the_types_of_their_operands() -> None:
    graph = parse_text(REGION.replace("%z = Region", "%z, %w = Region"))
    infer_graph(graph)
    first = next(iter(graph))
    assert first.body.inputs[0].shape == (symbol("N"), 3)
    assert graph.outputs[0].shape == (symbol("N"), 3)
    typed = to_text(graph)
    assert to_text(graph_from_text(typed)) == typed


def test_a_region_with_the_wrong_number_of_operands_is_refused() -> None:
    with pytest.raises(GraphError, match="its body 2"):
        graph_from_text(REGION.replace("(%y, %x)", "(%y)"))


def test_region_cost_counts_the_body() -> None:
    graph = graph_from_text(REGION.replace("%z = Region", "%z, %w = Region"))
    first = next(iter(graph))
    assert OPS["Region"].cost(first).operations == 6 * symbol("N")


def test_regions_run_their_bodies() -> None:
    graph = graph_from_text(REGION.replace("%z = Region", "%z, %w = Region"))
    x = np.array([[-3, 0, 2]], np.float32)
    (out,) = run_graph(graph, [x])
    assert out.tolist() == [[-3, 1, 5]]
    node = next(iter(graph))
    sample = OPS["Region"].samples()[0]
    assert OPS["Region"].evaluate(node, [x], run_graph)[0].tolist() == [[0, 1, 3]]
    assert sample.attributes["kind"] == "pointwise"


@pytest.mark.parametrize(
    ("op", "sample"),
    [
        pytest.param(op, sample, id=f"{name}-{index}")
        for name, op in sorted(OPS.items())
        for index, sample in enumerate(op.samples())
    ],
)
def test_samples_meet_the_requirements_of_their_operator(op: type[Op], sample: Sample) -> None:
    infer_node(node_of(op, sample))  # raises ShapeError where numbers do not meet them
