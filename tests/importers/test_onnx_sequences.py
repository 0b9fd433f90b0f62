"""Sequences of tensors in ONNX models, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from onnx.helper import (
    make_graph,
    make_model,
    make_node,
    make_opsetid,
    make_sequence_type_proto,
    make_tensor_type_proto,
    make_tensor_value_info,
    make_value_info,
)

from planish.errors import UnsupportedOperatorError
from planish.importers.onnx import read_onnx
from planish.ops.interpreter import run_graph

F, I64, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
X = np.arange(12, dtype=np.float32).reshape(4, 3)
LIST = make_sequence_type_proto(make_tensor_type_proto(F, None))


def model(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str] = ("y",)) -> onnx.ModelProto:
    numbers = {"zero": 0, "one": 1, "last": -1, "four": 4}
    graph = make_graph(
        list(nodes),
        "sequences",
        [make_tensor_value_info("x", F, [4, 3])],
        [make_value_info(name, make_tensor_type_proto(F, None)) for name in outputs],
        [numpy_helper.from_array(np.array(value, np.int64), n) for n, value in numbers.items()],
    )
    return make_model(graph, opset_imports=[make_opsetid("", 17)], ir_version=8)


def check(proto: onnx.ModelProto) -> None:
    before = proto.SerializeToString()
    session = onnxruntime.InferenceSession(before, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": X})
    results = run_graph(read_onnx(proto), [X])
    assert proto.SerializeToString() == before  # the caller's model is left alone
    for want, got in zip(expected, results, strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-6)


LISTED = [
    make_node("Exp", ["x"], ["e"]),
    make_node("SequenceConstruct", ["x", "e"], ["s0"]),
    make_node("SequenceInsert", ["s0", "x"], ["s1"]),
    make_node("SequenceInsert", ["s1", "e", "zero"], ["s2"]),
    make_node("SequenceErase", ["s2", "one"], ["s"]),
]


@pytest.mark.parametrize(
    "read",
    [
        make_node("SequenceAt", ["s", "zero"], ["y"]),
        make_node("SequenceAt", ["s", "last"], ["y"]),
        make_node("ConcatFromSequence", ["s"], ["y"], axis=1),
        make_node("ConcatFromSequence", ["s"], ["y"], axis=1, new_axis=1),
    ],
    ids=["first", "last", "concat", "stack"],
)
def test_sequences_of_known_tensors(read: onnx.NodeProto) -> None:
    check(model([*LISTED, read]))


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("new", [0, 1])
def test_split_sequences(keep: int, new: int) -> None:
    nodes = [
        make_node("SplitToSequence", ["x"], ["s"], axis=0, keepdims=keep),
        make_node("ConcatFromSequence", ["s"], ["y"], axis=0, new_axis=new),
        make_node("SequenceAt", ["s", "one"], ["z"]),
        make_node("SequenceLength", ["s"], ["n"]),
        make_node("Cast", ["n"], ["count"], to=F),
    ]
    check(model(nodes, ("y", "z", "count")))


def loop(body_nodes: Sequence[onnx.NodeProto], result: str = "t") -> list[onnx.NodeProto]:
    body = make_graph(
        list(body_nodes),
        "body",
        [
            make_tensor_value_info("i", I64, []),
            make_tensor_value_info("go", B, []),
            make_tensor_value_info("a", F, [3]),
            make_value_info("s", LIST),
        ],
        [
            make_tensor_value_info("still", B, []),
            make_tensor_value_info("b", F, [3]),
            make_value_info(result, LIST),
        ],
    )
    return [
        make_node("Gather", ["x", "zero"], ["start"], axis=0),
        make_node("SequenceEmpty", [], ["empty"], dtype=F),
        make_node("Loop", ["four", "", "start", "empty"], ["end", "all"], body=body),
    ]


APPENDING = [
    make_node("Identity", ["go"], ["still"]),
    make_node("Gather", ["x", "i"], ["row"], axis=0),
    make_node("Add", ["a", "row"], ["b"]),
    make_node("SequenceInsert", ["s", "b"], ["inner"]),
    make_node("Identity", ["inner"], ["t"]),
]


@pytest.mark.parametrize("new", [0, 1])
def test_a_list_that_a_loop_appends_to_is_stacked(new: int) -> None:
    read = make_node("ConcatFromSequence", ["all"], ["y"], axis=0, new_axis=new)
    proto = model([*loop(APPENDING), read], ("y", "end"))
    check(proto)
    graph = read_onnx(proto)
    (node,) = [node for node in graph if node.op == "Loop"]
    assert len(node.outputs) == 2
    assert node.outputs[1].shape == (4, 3)


def test_other_lists_in_loops_are_refused() -> None:
    twice = [*APPENDING[:-1], make_node("SequenceInsert", ["inner", "row"], ["t"])]
    read = make_node("ConcatFromSequence", ["all"], ["y"], axis=0)
    with pytest.raises(UnsupportedOperatorError, match="SequenceInsert"):
        read_onnx(model([*loop(twice), read]))
