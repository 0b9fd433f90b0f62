"""Ifs of which one branch does not fit the shapes: refused where it is taken, right elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import planish
from planish.config import BuildConfig, Profile
from planish.errors import InputError, ShapeError
from planish.importers.importer import read_model
from planish.ir.graph import Graph, Node
from planish.ir.text import parse_text, to_text
from planish.ops.infer import infer_graph
from planish.ops.interpreter import run_graph
from tests import small_models

NARROW = np.arange(20, dtype=np.float32).reshape(4, 5) / 10
WIDE = np.arange(40, dtype=np.float32).reshape(8, 5) / 10


def two_widths(*, outputs: int = 1) -> onnx.ModelProto:
    """If rate == 8, x [N, W] is multiplied by a 4 x 5 matrix, else by an 8 x 5 one."""

    def branch(name: str, weight: str) -> onnx.GraphProto:
        nodes = [helper.make_node("MatMul", ["x", weight], [f"{name}_0"], name=f"product_{name}")]
        for index in range(1, outputs):
            nodes.append(helper.make_node("Relu", [f"{name}_{index - 1}"], [f"{name}_{index}"]))
        results = [
            helper.make_tensor_value_info(f"{name}_{index}", TensorProto.FLOAT, None)
            for index in range(outputs)
        ]
        return helper.make_graph(nodes, name, [], results)

    names = [f"y{index}" for index in range(outputs)]
    nodes = [
        helper.make_node("Equal", ["rate", "eight"], ["is_low"]),
        helper.make_node("If", ["is_low"], [f"r{index}" for index in range(outputs)],
                         name="choose", then_branch=branch("low", "narrow"),
                         else_branch=branch("high", "wide")),
        *(helper.make_node("Neg", [f"r{index}"], [name]) for index, name in enumerate(names)),
    ]  # fmt: skip
    constants = {"narrow": NARROW, "wide": WIDE, "eight": np.array(8, np.int64)}
    return small_models.model(
        nodes, {"x": ("N", "W"), "rate": ()}, dict.fromkeys(names), constants,
        types={"rate": TensorProto.INT64},
    )  # fmt: skip


def profile(width: int, most: int = 1) -> dict[str, Profile]:
    return {"x": Profile((1, width), (1, width), (most, width))}


def inputs(width: int, rate: int, rows: int = 1) -> dict[str, Any]:
    x = np.random.default_rng(width).standard_normal((rows, width)).astype(np.float32)
    return {"x": x, "rate": np.array(rate, np.int64)}


def only_if(graph: Graph) -> Node:
    (found,) = [node for node in graph if node.op == "If"]
    return found


def test_a_refuse_stands_in_for_the_branch_that_does_not_fit() -> None:
    graph = read_model(two_widths(), profiles=profile(4))
    node = only_if(graph)
    assert [n.op for n in node.attributes["then_branch"]] == ["MatMul"]
    assert [n.op for n in node.attributes["else_branch"]] == ["planish.Refuse"]
    assert str(node.outputs[0]) == "%r0: f32[1,5]"
    (note,) = graph.notes
    assert note.startswith("else_branch of choose is taken where Equal(rate, 8) is false")
    assert note.endswith("inputs that take it are refused")


def test_no_branch_that_fits_is_a_shape_error() -> None:
    with pytest.raises(ShapeError, match="cannot multiply"):
        read_model(two_widths(), profiles=profile(6))


def test_the_reference_raises_only_where_the_branch_is_taken() -> None:
    graph = read_model(two_widths(), profiles=profile(8))
    given = inputs(8, rate=16)
    (result,) = run_graph(graph, list(given.values()))
    np.testing.assert_allclose(result, -(given["x"] @ WIDE), rtol=1e-5)
    with pytest.raises(InputError, match="then_branch of choose"):
        run_graph(graph, list(inputs(8, rate=8).values()))


def test_a_refuse_survives_printing_and_inference() -> None:
    graph = read_model(two_widths(outputs=2), profiles=profile(4, most=3))
    text = to_text(graph)
    again = parse_text(text, {value.name: value.array for value in graph.constants()})
    infer_graph(again)
    assert to_text(again) == text


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.filterwarnings("error")  # a refusal is no fallback
def test_engines_refuse_the_branch_that_does_not_fit(
    precision: str, most: int, tmp_path: Path
) -> None:
    config = BuildConfig(
        tune="off", threads=1, precision=precision, profiles=profile(4, most), fallback="error"
    )
    engine = planish.build(two_widths(outputs=2), config)
    assert any("choose is taken where Equal(rate, 8) is false" in w for w in engine.report.warnings)
    engine.save(tmp_path / "x.plan")
    for each in (engine, planish.load(tmp_path / "x.plan")):
        given = inputs(4, rate=8, rows=most)
        results = each.run(given)
        want = given["x"] @ NARROW
        tolerance = 1e-5 if precision == "fp32" else 2e-2
        np.testing.assert_allclose(results["y0"], -want, atol=tolerance)
        np.testing.assert_allclose(results["y1"], -np.maximum(want, 0), atol=tolerance)
        with pytest.raises(InputError, match=r"(?s)else_branch of choose.*node product_high"):
            each.run(inputs(4, rate=16))
        np.testing.assert_array_equal(each.run(given)["y0"], results["y0"])
