"""Whole TensorFlow graphs: inputs, outputs, profiles, and what cannot be converted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planish.config import DEFAULT_BATCH_RANGE, Profile
from planish.errors import ConfigError, ModelError, UnsupportedOperatorError
from planish.importers.savedmodel import read_tensorflow, unconvertible
from planish.importers.tensorflow_graph import (
    TfFunction,
    TfGraph,
    TfInput,
    TfNode,
    TfOutput,
    TfRef,
    TfShape,
)
from planish.ops.interpreter import run_graph

F32 = np.dtype(np.float32)


def graph(*nodes: TfNode, shape: TfShape = (2, 3), outputs: tuple[str, ...] = ()) -> TfGraph:
    """Return a graph of one input x and the given nodes; the last one is the output."""
    names = outputs or (nodes[-1].name,)
    return TfGraph(
        (TfNode("x", "Placeholder"), *nodes),
        (TfInput("x", F32, shape),),
        tuple(TfOutput(name, TfRef(name)) for name in names),
        label="a model",
    )


def node(name: str, op: str, *inputs: str, **attributes: Any) -> TfNode:
    return TfNode(name, op, tuple(TfRef(each) for each in inputs), attributes)


def const(name: str, array: Any) -> TfNode:
    return node(name, "Const", value=np.asarray(array))


def test_values_and_sources_carry_the_names_of_the_nodes() -> None:
    result = read_tensorflow(graph(node("layer/Relu", "Relu", "x"), node("y", "Neg", "layer/Relu")))
    relu, negative = result
    assert relu.output.name == "layer/Relu"
    assert relu.source.names == ("layer/Relu",)
    assert negative.source.framework == "tensorflow"
    assert result.input_names == ["x"]
    assert result.output_names == ["y"]


def test_an_open_first_extent_is_the_batch() -> None:
    result = read_tensorflow(graph(node("y", "Relu", "x"), shape=(None, None)), None)
    assert [str(dim) for dim in result.inputs[0].known_shape] == ["batch", "x_1"]
    assert result.ranges == {"batch": DEFAULT_BATCH_RANGE}


def test_a_profile_of_one_shape_fixes_it() -> None:
    profile = Profile((4, 5), (4, 5), (4, 5))
    result = read_tensorflow(graph(node("y", "Shape", "x"), shape=(None, None)), {"x": profile})
    assert result.inputs[0].shape == (4, 5)
    np.testing.assert_array_equal(result.outputs[0].array, [4, 5])


def test_an_open_extent_without_a_profile_is_refused() -> None:
    with pytest.raises(ConfigError, match="x_1"):
        read_tensorflow(graph(node("y", "Relu", "x"), shape=(None, None)), {})


def test_an_input_without_a_rank_needs_a_profile() -> None:
    model = graph(node("y", "Relu", "x"), shape=None)
    with pytest.raises(ModelError, match="not even a rank"):
        read_tensorflow(model)
    result = read_tensorflow(model, {"x": Profile((1, 2), (2, 2), (3, 2))})
    assert result.inputs[0].rank == 2


def test_an_input_may_be_an_output_and_so_may_a_constant() -> None:
    model = graph(const("c", np.float32(3)), outputs=("x", "c"))
    result = read_tensorflow(model)
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(run_graph(result, [x])[0], x)
    assert run_graph(result, [x])[1] == 3


def test_all_nodes_that_cannot_be_converted_are_listed_at_once() -> None:
    model = graph(
        node("first", "Fancy", "x"),
        node("after", "Relu", "first"),
        node("second", "AlsoFancy", "after"),
        const("shape", np.array([2, 3], np.int32)),
        node("noise", "RandomStandardNormal", "shape"),
        node("sum", "Add", "noise", "second"),
    )
    with pytest.raises(UnsupportedOperatorError) as caught:
        read_tensorflow(model)
    listed = "\n".join(caught.value.nodes)
    assert len(caught.value.nodes) == 3
    assert "first (Fancy)" in listed
    assert "second (AlsoFancy)" in listed
    assert "noise (RandomStandardNormal): it draws random numbers" in listed


def test_a_refusal_says_why() -> None:
    model = graph(
        const("axes", np.array([0], np.int32)),
        node("whole", "Cast", "x", DstT=np.dtype(np.int32)),
        node("mean", "Mean", "whole", "axes"),
    )
    with pytest.raises(UnsupportedOperatorError, match="mean of integers rounds"):
        read_tensorflow(model)


def test_a_damaged_reference_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="nothing produces"):
        read_tensorflow(graph(node("y", "Relu", "missing")))


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        (node("y", "Add", "x"), "1 operands, expected 2"),
        (node("y", "Mul", "x"), "1 operands, expected 2"),
        (node("y", "Transpose", "x"), "input 1 is missing"),
        (node("y", "DepthToSpace", "x"), "do not fit"),
        (node("y", "Unpack", "x", num="many"), "do not fit"),
        (const("y", np.zeros(2, np.complex64)), "its elements are complex64"),
        (node("y", "Const"), "it has no value"),
    ],
)
def test_nodes_that_make_no_sense_are_refused_by_name(damaged: TfNode, reason: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=reason) as caught:
        read_tensorflow(graph(damaged))
    assert caught.value.nodes[0].startswith("y (")


IMAGE = (F32, (None, 8, 8, 4))


@pytest.mark.parametrize(
    ("each", "operands", "reason"),
    [
        (node("y", "Relu", "x"), [IMAGE], None),
        (node("y", "Fancy", "x"), [IMAGE], "no rule"),
        (node("y", "Relu", "x"), [("string", (3,))], "input 0 is a string"),
        (node("y", "Relu", "x"), [(F32, None)], "rank of input 0"),
        (node("y", "RandomUniform", "x"), [np.array([2, 3])], "random numbers"),
        (
            node("y", "Conv2D", "x", "w", strides=[1, 2, 2, 1], padding="SAME"),
            [IMAGE, np.zeros((3, 3, 4, 8), np.float32)],
            None,
        ),
        (
            node("y", "Conv2D", "x", "w", strides=[2, 1, 1, 1], padding="SAME"),
            [IMAGE, np.zeros((3, 3, 4, 8), np.float32)],
            "step over the batch",
        ),
        (node("y", "ConcatV2", "a", "b", "axis"), [IMAGE, IMAGE, np.array(-1)], None),
        (
            node("y", "ConcatV2", "a", "b", "axis"),
            [IMAGE, IMAGE, (np.dtype(np.int32), ())],
            "has to be known",
        ),
        (node("y", "Add", "a", "b"), [(F32, (2, 3)), (F32, (2, 4))], "broadcast"),
        (node("y", "Cast", "x", DstT="qint8"), [IMAGE], "qint8"),
    ],
)
def test_unconvertible_gives_the_reason_of_the_rule(
    each: TfNode, operands: list[Any], reason: str | None
) -> None:
    found = unconvertible(each, operands)
    assert (found is None) == (reason is None)
    if reason is not None:
        assert found is not None
        assert reason in found


def test_unsupported_nodes_of_functions_are_listed_too() -> None:
    body = TfGraph(
        (TfNode("a", "Placeholder"), node("b", "Fancy", "a")),
        (TfInput("a", F32, (2, 3)),),
        (TfOutput("b", TfRef("b")),),
    )
    model = TfGraph(
        (
            TfNode("x", "Placeholder"),
            const("yes", np.array(True)),
            node(
                "branch", "If", "yes", "x", then_branch=TfFunction("f"), else_branch=TfFunction("f")
            ),
            node("last", "Unheard", "branch"),
        ),
        (TfInput("x", F32, (2, 3)),),
        (TfOutput("y", TfRef("last")),),
        {"f": body},
    )
    with pytest.raises(UnsupportedOperatorError) as caught:
        read_tensorflow(model)
    assert [line.split(":")[0] for line in caught.value.nodes] == ["b (Fancy)", "last (Unheard)"]
