"""Each upgrade rule against ONNX Runtime, which runs the old opsets as they stand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
from onnx import helper

from planish.errors import ModelError, UnsupportedOperatorError
from tests.importers.models import Array, model, ops, read, run


def numbers(*shape: int) -> Array:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def node(op: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> onnx.NodeProto:
    names = [f"y{index}" for index in range(outputs)]
    return helper.make_node(op, inputs, names, name="old", **attributes)


X = numbers(2, 3, 4, 5)
POSITIVE = np.abs(numbers(3)) + 0.5

# name: opset, node, shape of x or None for X, constants
CASES: dict[str, tuple[int, onnx.NodeProto, Array, dict[str, Array]]] = {
    "squeeze 11": (11, node("Squeeze", ["x"], axes=[0, -1]), numbers(1, 3, 1), {}),
    "squeeze all": (11, node("Squeeze", ["x"]), numbers(1, 3, 1), {}),
    "unsqueeze 11": (11, node("Unsqueeze", ["x"], axes=[0, 2]), X, {}),
    "split 11": (11, node("Split", ["x"], 2, axis=2, split=[1, 3]), X, {}),
    "split equal": (11, node("Split", ["x"], 2, axis=2), X, {}),
    "split 13 equal": (13, node("Split", ["x"], 4, axis=2), X, {}),
    "slice 9": (9, node("Slice", ["x"], axes=[1, 3], starts=[1, -4], ends=[3, 100]), X, {}),
    "slice 9 without axes": (9, node("Slice", ["x"], starts=[1], ends=[2]), X, {}),
    "topk 9": (9, node("TopK", ["x"], 2, axis=1, k=2), X, {}),
    "topk 10": (10, node("TopK", ["x", "k"], 2, axis=1), X, {"k": np.array([2])}),
    "pad 10": (10, node("Pad", ["x"], pads=[0, 0, 1, 2, 0, 1, 0, 0], value=1.5), X, {}),
    "pad reflect 10": (
        10,
        node("Pad", ["x"], pads=[0, 0, 1, 2, 0, 0, 1, 2], mode="reflect"),
        X,
        {},
    ),
    "clip 7": (7, node("Clip", ["x"], min=-0.5, max=0.25), X, {}),
    "clip 7 one side": (7, node("Clip", ["x"], max=0.25), X, {}),
    "dropout 7": (7, node("Dropout", ["x"], ratio=0.3), X, {}),
    "dropout 10": (10, node("Dropout", ["x"], 1), X, {}),
    "softmax flattens": (11, node("Softmax", ["x"]), X, {}),
    "softmax axis 2": (9, node("Softmax", ["x"], axis=2), X, {}),
    "softmax last": (11, node("Softmax", ["x"], axis=-1), X, {}),
    "softmax axis -2": (11, node("Softmax", ["x"], axis=-2), X, {}),
    "logsoftmax": (11, node("LogSoftmax", ["x"], axis=0), X, {}),
    "hardmax": (11, node("Hardmax", ["x"], axis=2), X, {}),
    "reduce mean 11": (11, node("ReduceMean", ["x"], axes=[1, -1], keepdims=0), X, {}),
    "reduce sum 11": (11, node("ReduceSum", ["x"]), X, {}),
    "reduce l2 13": (13, node("ReduceL2", ["x"], axes=[2]), X, {}),
    "reduce max 17": (17, node("ReduceMax", ["x"], axes=[0]), X, {}),
    "batch norm 7": (
        7,
        node("BatchNormalization", ["x", "s", "b", "m", "v"], epsilon=0.01, momentum=0.8),
        X,
        {"s": numbers(3), "b": numbers(3) * 2, "m": numbers(3) + 1, "v": POSITIVE},
    ),
    "upsample 7": (7, node("Upsample", ["x"], scales=[1.0, 1.0, 2.0, 3.0]), X, {}),
    "upsample 9 linear": (
        9,
        node("Upsample", ["x", "k"], mode="linear"),
        X,
        {"k": np.array([1, 1, 2, 2], np.float32)},
    ),
    "resize 10": (10, node("Resize", ["x", "k"]), X, {"k": np.array([1, 1, 2, 1.6], np.float32)}),
    "resize 10 linear": (
        10,
        node("Resize", ["x", "k"], mode="linear"),
        X,
        {"k": np.array([1, 1, 0.5, 2], np.float32)},
    ),
    "resize 10 down": (
        10,
        node("Resize", ["x", "k"]),
        X,
        {"k": np.array([1, 1, 0.6, 0.6], np.float32)},
    ),
    "resize 11 sizes": (
        11,
        node("Resize", ["x", "roi", "k", "sizes"], mode="linear"),
        X,
        {
            "roi": np.zeros(0, np.float32),
            "k": np.zeros(0, np.float32),
            "sizes": np.array([2, 3, 8, 7]),
        },
    ),
    "scatter 9": (
        9,
        node("Scatter", ["x", "i", "u"], axis=1),
        X,
        {"i": np.array([[[[1]]]]), "u": np.array([[[[9]]]], np.float32)},
    ),
    "grid sample 16": (
        16,
        node("GridSample", ["x", "grid"], mode="bicubic", padding_mode="border"),
        X,
        {"grid": numbers(2, 3, 3, 2)},
    ),
    "roi align 10": (
        10,
        node("RoiAlign", ["x", "r", "i"], output_height=2, output_width=2, sampling_ratio=2),
        X,
        {"r": np.array([[0, 0, 3, 3]], np.float32), "i": np.array([1])},
    ),
    "dft 17": (17, node("DFT", ["x"], axis=2), numbers(2, 3, 4, 1), {}),
    "group norm 18": (
        18,
        node("GroupNormalization", ["x", "s", "b"], num_groups=2),
        numbers(2, 4, 3, 3),
        {"s": numbers(2), "b": numbers(2) + 1},
    ),
    "cast 9": (9, node("Cast", ["x"], to=int(onnx.TensorProto.INT32)), X * 10, {}),
    "max pool 7": (7, node("MaxPool", ["x"], kernel_shape=[2, 2], strides=[2, 2]), X, {}),
    "average pool 7": (
        7,
        node("AveragePool", ["x"], kernel_shape=[2, 2], pads=[1, 1, 0, 0]),
        X,
        {},
    ),
    "gemm 7": (
        7,
        node("Gemm", ["x", "w", "b"], alpha=0.5, transB=1),
        numbers(2, 3),
        {"w": numbers(4, 3), "b": numbers(4)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_old_opsets_give_what_onnx_runtime_gives(name: str) -> None:
    opset, old, x, constants = CASES[name]
    proto = model([old], {"x": x.shape}, list(old.output), constants, opset)
    if old.op_type == "GroupNormalization":
        expected = list(onnx.reference.ReferenceEvaluator(proto).run(None, {"x": x}))
    else:
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        expected = session.run(None, {"x": x})
    for got, want in zip(run(proto, x), expected, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_batch_norm_per_element_of_opset_7() -> None:
    shape = (3, 2)
    x, scale, bias, mean = numbers(4, *shape), numbers(*shape), numbers(*shape) + 1, numbers(*shape)
    variance = np.abs(numbers(*shape)) + 0.5
    old = node("BatchNormalization", ["x", "s", "b", "m", "v"], spatial=0)
    weights = {"s": scale, "b": bias, "m": mean, "v": variance}
    (got,) = run(model([old], {"x": x.shape}, ["y0"], weights, 7), x)
    want = (x - mean) / np.sqrt(variance + 1e-5) * scale + bias
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_softmax_over_the_last_axis_stays_one_node() -> None:
    proto = model([node("Softmax", ["x"], axis=1)], {"x": (2, 3)}, ["y0"], {}, 11)
    assert ops(read(proto)) == ["Softmax"]


def test_unread_training_outputs_are_dropped_and_read_ones_refused() -> None:
    old = node("BatchNormalization", ["x", "s", "b", "m", "v"], 5)
    weights = {name: POSITIVE for name in "sbmv"}
    graph = read(model([old], {"x": X.shape}, ["y0"], weights, 9))
    assert len(next(iter(graph)).outputs) == 1
    with pytest.raises(UnsupportedOperatorError, match="training outputs"):
        read(model([old], {"x": X.shape}, ["y0", "y1"], weights, 9))


@pytest.mark.parametrize(
    ("op", "opset"), [("Slice", 9), ("Pad", 10), ("TopK", 9), ("Unsqueeze", 11), ("Upsample", 7)]
)
def test_missing_attributes_are_model_errors(op: str, opset: int) -> None:
    with pytest.raises(ModelError, match="old"):
        read(model([node(op, ["x"])], {"x": X.shape}, ["y0"], {}, opset))


def test_scan_of_opset_8_is_refused() -> None:
    body = helper.make_graph([], "body", [], [])
    old = node("Scan", ["", "x"], body=body, num_scan_inputs=1)
    with pytest.raises((UnsupportedOperatorError, ModelError), match=r"opset 8|old"):
        read(model([old], {"x": X.shape}, ["y0"], {}, 8))
