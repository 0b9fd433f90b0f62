"""The review of quantized models names layers, causes and remedies."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from planish.quantize.lint import QuantizationReview, review_quantization
from tests.quantized_regions import quantized_graph

STEPS = {"s": 0.05, "t": 0.07}


def review(nodes: list[onnx.NodeProto], outputs: list[str]) -> QuantizationReview:
    """Return the review of a model with the inputs x and y, f32[1,4,6,6]."""
    weights = np.arange(-18, 18, dtype=np.int8).repeat(4).reshape(4, 4, 3, 3)
    constants = [numpy_helper.from_array(weights, "w")]
    constants += [
        numpy_helper.from_array(np.array(v, np.float32), name) for name, v in STEPS.items()
    ]
    constants.append(numpy_helper.from_array(np.array(0, np.int8), "z"))
    image = [1, 4, 6, 6]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, image) for n in ("x", "y")]
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    graph = helper.make_graph(nodes, "lint", inputs, results, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return review_quantization(quantized_graph(model))


def pair(source: str, scale: str = "s") -> list[onnx.NodeProto]:
    """Return QuantizeLinear and DequantizeLinear of `source`, which make `source`_d."""
    name = f"{source}_q"
    return [
        helper.make_node("QuantizeLinear", [source, scale, "z"], [name], name=f"quantize {source}"),
        helper.make_node("DequantizeLinear", [name, scale, "z"], [f"{source}_d"]),
    ]


def weights() -> onnx.NodeProto:
    """Return what makes the float weights w_d."""
    return helper.make_node("DequantizeLinear", ["w", "s", "z"], ["w_d"])


def convolution(data: str, result: str) -> onnx.NodeProto:
    """Return a convolution of `data` with w_d."""
    return helper.make_node("Conv", [data, "w_d"], [result], name=f"conv {result}", pads=[1] * 4)


def texts(found: QuantizationReview) -> str:
    """Return the findings as text."""
    return "\n".join(map(str, found.findings))


def test_a_layer_whose_data_are_floats_is_named_with_their_origin() -> None:
    nodes = [*pair("x"), weights(), convolution("x_d", "a"), convolution("a", "b")]
    found = review(nodes, ["b"])
    assert (found.integers, found.floats) == (1, 1)
    assert found.headline == "1 of 2 convolutions and matrix products run on integers"
    assert "conv b: runs in floating point: its data come from conv a as floats" in texts(found)


def test_a_layer_on_integers_is_no_finding() -> None:
    nodes = [*pair("x"), weights(), convolution("x_d", "a"), *pair("a"), convolution("a_d", "b")]
    found = review(nodes, ["b"])
    assert (found.integers, found.floats) == (2, 0)
    assert texts(found) == "quantize x: quantizes the input x, in a pass of its own"


def test_different_scales_of_a_concat_are_named() -> None:
    joined = helper.make_node("Concat", ["a_d", "b_d"], ["c"], name="join", axis=1)
    nodes = [
        *pair("x"), *pair("y"), weights(), convolution("x_d", "a"), convolution("y_d", "b"),
        *pair("a"), *pair("b", "t"), joined,
    ]  # fmt: skip
    assert "join: joins floats, because its operands have the scales 0.05, 0.07" in texts(
        review(nodes, ["c"])
    )


def test_a_pair_inside_one_kernel_is_named() -> None:
    added = helper.make_node("Add", ["a_d", "x_d"], ["b"], name="add")
    nodes = [*pair("x"), weights(), convolution("x_d", "a"), *pair("a", "t"), added, *pair("b")]
    found = review(nodes, ["b_d"])
    assert "quantize a: rounds to eight bits between two operations of one kernel" in texts(found)


def test_a_reader_of_floats_is_named() -> None:
    softmax = helper.make_node("Softmax", ["a"], ["p"], name="scores")
    nodes = [
        *pair("x"), weights(), convolution("x_d", "a"), softmax, *pair("a"),
        convolution("a_d", "b"),
    ]  # fmt: skip
    found = review(nodes, ["b", "p"])
    assert "because scores (Softmax) reads it as floats" in texts(found)
