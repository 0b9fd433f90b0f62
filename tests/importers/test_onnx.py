"""The ONNX importer: structure, functions, subgraphs, symbols, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.errors import (
    ConfigError,
    ModelError,
    PlanishError,
    UnsupportedOperatorError,
    UnsupportedTypeError,
)
from planish.importers.importer import read_model
from planish.ops.interpreter import run_graph
from tests.importers.models import info, model, ops, read, run

RELU = [helper.make_node("Relu", ["x"], ["y"])]


def chain(length: int) -> onnx.ModelProto:
    """Return residual blocks with shape arithmetic, five nodes each."""
    nodes, weights, last = [], {}, "x"
    for i in range(length):
        weights[f"w{i}"] = np.full((4, 4, 1, 1), 0.1, np.float32)
        nodes += [
            helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"]),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"]),
            helper.make_node("Add", [f"r{i}", last], [f"a{i}"]),
            helper.make_node("Shape", [f"a{i}"], [f"s{i}"]),
            helper.make_node("Reshape", [f"a{i}", f"s{i}"], [f"o{i}"]),
        ]
        last = f"o{i}"
    return model(nodes, {"x": ("N", 4, 2, 2)}, [last], weights)


# -- what is read ---------------------------------------------------------------------------------


def test_path_bytes_and_proto_give_the_same_graph(tmp_path: Path) -> None:
    proto = chain(2)
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    x = np.ones((3, 4, 2, 2), np.float32)
    results = [
        run_graph(read_model(given), [x])[0]
        for given in (proto, proto.SerializeToString(), path, str(path))
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_shape_arithmetic_keeps_symbols() -> None:
    graph = read(chain(3))
    assert str(graph.outputs[0]).endswith("f32[N,4,2,2]")
    assert graph.ranges == {"N": (1, 1, 32)}
    assert graph.input_names == ["x"]
    assert graph.output_names == ["o2"]


def test_nodes_keep_the_users_names() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="block/relu"),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    graph = read(model(nodes, {"x": (1,)}, ["y"]))
    assert [node.source.names for node in graph] == [("block/relu",), ("y",)]


def test_defaults_are_filled_in() -> None:
    node = next(iter(read(model([helper.make_node("Elu", ["x"], ["y"])], {"x": (1,)}, ["y"]))))
    assert node.attributes == {"alpha": 1.0}


def test_nodes_out_of_order_are_sorted() -> None:
    nodes = [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Neg", ["x"], ["a"])]
    assert ops(read(model(nodes, {"x": (1,)}, ["y"]))) == ["Neg", "Relu"]


def test_absent_optional_inputs_and_outputs() -> None:
    nodes = [
        helper.make_node("Clip", ["x", "", "high"], ["c"]),
        helper.make_node("LSTM", ["c", "w", "r", "", "", ""], ["", "y"], hidden_size=2),
    ]
    weights = {
        "high": np.array(0.5, np.float32),
        "w": np.ones((1, 8, 3), np.float32),
        "r": np.ones((1, 8, 2), np.float32),
    }
    graph = read(model(nodes, {"x": (5, 1, 3)}, ["y"], weights))
    clip, lstm = graph
    assert clip.inputs[1] is None
    assert len(lstm.inputs) == 3
    assert str(graph.outputs[0]).endswith("[1,1,2]")


def test_an_output_can_be_an_input_or_a_weight() -> None:
    proto = model([], {"x": (2,)}, ["x", "w"], {"w": np.ones(1, np.float32)})
    x = np.zeros(2, np.float32)
    assert [array.tolist() for array in run(proto, x)] == [[0, 0], [1]]


def test_initializers_that_are_inputs_become_constants_with_a_note() -> None:
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    proto = model(nodes, {"x": (2,), "w": (2,)}, ["y"], {"w": np.ones(2, np.float32)})
    graph = read(proto)
    assert graph.input_names == ["x"]
    assert "input w has a default" in graph.notes[0]


def test_wrongly_declared_outputs_are_noted() -> None:
    proto = model(RELU, {"x": (2, 3)}, ["y"])
    proto.graph.output[0].CopyFrom(info("y", (2, 4)))
    assert "declared as [2, 4]" in read(proto).notes[0]


@pytest.mark.parametrize(
    ("attributes", "want"),
    [
        ({"value": numpy_helper.from_array(np.array([[1.5]], np.float32))}, [[1.5]]),
        ({"value_float": 2.5}, 2.5),
        ({"value_floats": [1.0, 2.0]}, [1.0, 2.0]),
        ({"value_int": 3}, 3),
        ({"value_ints": [3, 4]}, [3, 4]),
        ({"value_string": "a"}, "a"),
        ({"value_strings": ["a", "b"]}, ["a", "b"]),
        (
            {
                "sparse_value": helper.make_sparse_tensor(
                    numpy_helper.from_array(np.array([7.0], np.float32), "v"),
                    numpy_helper.from_array(np.array([2]), "i"),
                    [4],
                )
            },
            [0, 0, 7, 0],
        ),
    ],
)
def test_every_form_of_constant(attributes: dict[str, Any], want: Any) -> None:
    graph = read(model([helper.make_node("Constant", [], ["y"], **attributes)], {}, ["y"]))
    assert graph.outputs[0].array.tolist() == want


def test_sparse_initializers() -> None:
    proto = model([helper.make_node("Add", ["x", "w"], ["y"])], {"x": (2, 2)}, ["y"])
    values = numpy_helper.from_array(np.array([5.0], np.float32), "w")
    indices = numpy_helper.from_array(np.array([[1, 0]]), "i")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 2]))
    assert run(proto, np.zeros((2, 2), np.float32))[0].tolist() == [[0, 0], [5, 0]]


def test_contrib_quantization_is_the_standard_one() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], domain="com.microsoft"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], domain="com.microsoft"),
    ]
    weights = {"s": np.array(0.5, np.float32), "z": np.array(3, np.uint8)}
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    proto = model(nodes, {"x": (3,)}, ["y"], weights, opset_imports=imports)
    assert ops(read(proto)) == ["QuantizeLinear", "DequantizeLinear"]
    x = np.array([0.3, -9, 2], np.float32)
    assert run(proto, x)[0].tolist() == [0.5, -1.5, 2.0]


# -- functions ------------------------------------------------------------------------------------


def with_functions(*functions: onnx.FunctionProto, **call: Any) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Outer", ["x"], ["a"], domain="mine", name="first", **call),
        helper.make_node("Outer", ["a"], ["y"], domain="mine", name="second"),
    ]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    return model(nodes, {"x": (2,)}, ["y"], opset_imports=imports, functions=list(functions))


def function(name: str, nodes: list[onnx.NodeProto], **more: Any) -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    return helper.make_function("mine", name, ["v"], ["out"], nodes, imports, **more)


def reference(name: str, outer: str) -> onnx.AttributeProto:
    """Return float attribute `name` that stands for the call's attribute `outer`."""
    return onnx.AttributeProto(name=name, type=onnx.AttributeProto.FLOAT, ref_attr_name=outer)


def test_nested_functions_with_attribute_references() -> None:
    scale = helper.make_node("Constant", [], ["t"])
    scale.attribute.append(reference("value_float", "factor"))
    product = helper.make_node("Mul", ["v", "t"], ["out"])
    inner = function("Inner", [scale, product], attributes=["factor"])
    call = helper.make_node("Inner", ["v"], ["t"], domain="mine", name="inner")
    call.attribute.append(reference("factor", "gain"))
    outer = function(
        "Outer",
        [call, helper.make_node("Relu", ["t"], ["out"])],
        attribute_protos=[helper.make_attribute("gain", 3.0)],
    )
    proto = with_functions(inner, outer, gain=2.0)
    graph = read(proto)
    assert ops(graph) == ["Mul", "Relu"] * 2
    assert next(iter(graph)).source.names == ("first/inner/out",)
    assert run(proto, np.array([-1, 2], np.float32))[0].tolist() == [0, 12]


def test_recursive_functions_are_refused() -> None:
    call = helper.make_node("Outer", ["v"], ["out"], domain="mine")
    with pytest.raises(ModelError, match="levels deep"):
        read(with_functions(function("Outer", [call])))


def test_operators_that_onnx_defines_by_others_are_expanded() -> None:
    node = helper.make_node("SoftmaxCrossEntropyLoss", ["x", "t"], ["y"], name="loss")
    proto = model([node], {"x": (2, 3)}, ["y"], {"t": np.array([0, 2])})
    x = np.array([[1, 2, 3], [0, 0, 0]], np.float32)
    want = np.mean([np.log(np.exp(x[0] - 1).sum()), np.log(3)])
    np.testing.assert_allclose(run(proto, x)[0], want, rtol=1e-6)


# -- subgraphs ------------------------------------------------------------------------------------


def test_subgraphs_read_outer_values_and_weights() -> None:
    then = helper.make_graph(
        [helper.make_node("Add", ["shared", "w"], ["t"])], "then", [], [info("t", None)]
    )
    other = helper.make_graph(
        [helper.make_node("Mul", ["shared", "k"], ["e"])], "else", [], [info("e", None)],
        [numpy_helper.from_array(np.array(10, np.float32), "k")],
    )  # fmt: skip
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
        helper.make_node("Neg", ["x"], ["shared"]),
    ]
    proto = model(nodes, {"x": (2,), "c": ()}, ["y"], {"w": np.ones(1, np.float32)})
    proto.graph.input[1].type.tensor_type.elem_type = TensorProto.BOOL
    x = np.array([1, 2], np.float32)
    assert run(proto, x, np.array(True))[0].tolist() == [0, -1]
    assert run(proto, x, np.array(False))[0].tolist() == [-10, -20]


def loop(body_output: str, *nodes: onnx.NodeProto) -> onnx.ModelProto:
    body = helper.make_graph(
        list(nodes), "body",
        [info("i", (), TensorProto.INT64), info("c", (), TensorProto.BOOL), info("s", None)],
        [info("c", ()), info(body_output, None)],
    )  # fmt: skip
    weights = {"n": np.array(3), "go": np.array(True)}
    node = helper.make_node("Loop", ["n", "go", "x"], ["y"], body=body)
    return model([node], {"x": (2, 2)}, ["y"], weights)


def test_a_loop_infers_what_it_carries() -> None:
    graph = read(loop("o", helper.make_node("Add", ["s", "s"], ["o"])))
    assert str(graph.outputs[0]).endswith("f32[2,2]")
    (result,) = run_graph(graph, [np.ones((2, 2), np.float32)])
    assert result.tolist() == [[8, 8], [8, 8]]


def test_extents_that_grow_in_a_loop_are_unknown() -> None:
    proto = loop("o", helper.make_node("Concat", ["s", "s"], ["o"], axis=0))
    graph = read(proto)
    assert str(graph.outputs[0].known_shape[0]).startswith("?")
    assert graph.outputs[0].known_shape[1] == 2
    assert run(proto, np.ones((2, 2), np.float32))[0].shape == (16, 2)


# -- symbols --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "want"),
    [
        (("batch size", 3), "[batch_size,3]"),
        (("lambda", "2x"), "[lambda_,d_2x]"),
        (("a.b", "a_b"), "[a_b,a_b_2]"),
        ((None, None), "[batch,x_1]"),
        (("?", "max"), "[batch,max_]"),
    ],
)
def test_symbols_are_identifiers(shape: tuple[str | int | None, ...], want: str) -> None:
    assert str(read(model(RELU, {"x": shape}, ["y"])).inputs[0]).endswith(want)


def test_unnamed_first_axes_are_one_batch() -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    graph = read(model(nodes, {"a": (None, 2), "b": (None, 2)}, ["y"]))
    assert str(graph.outputs[0]).endswith("[batch,2]")


# -- refusals -------------------------------------------------------------------------------------


def test_all_unsupported_nodes_are_listed_at_once() -> None:
    nodes = [
        helper.make_node("Nothing", ["x"], ["a"], name="first"),
        helper.make_node("Scaler", ["a"], ["b"], name="second", domain="ai.onnx.ml"),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    with pytest.raises(UnsupportedOperatorError) as error:
        read(model(nodes, {"x": (1,)}, ["y"], opset_imports=imports))
    assert error.value.nodes == (
        "first: Nothing (opset 17)",
        "second: ai.onnx.ml.Scaler (opset 3)",
    )


def _truncated() -> bytes:
    data = chain(3).SerializeToString()
    return data[: len(data) // 2]


def _cycle() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Add", ["x", "c"], ["a"], name="one"),
        helper.make_node("Relu", ["a"], ["b"], name="two"),
        helper.make_node("Relu", ["b"], ["c"], name="three"),
    ]
    return model(nodes, {"x": (1,)}, ["c"])


def _weights(**arrays: np.ndarray) -> onnx.ModelProto:
    return model([helper.make_node("Add", ["x", "w"], ["y"])], {"x": (2,)}, ["y"], arrays)


def _short_data() -> onnx.ModelProto:
    proto = _weights(w=np.ones(2, np.float32))
    proto.graph.initializer[0].raw_data = b"123"
    return proto


def _negative_extent() -> onnx.ModelProto:
    proto = _weights(w=np.ones(2, np.float32))
    proto.graph.initializer[0].dims[0] = -2
    return proto


def _sequence() -> onnx.ModelProto:
    proto = model(RELU, {"x": (1,)}, ["y"])
    proto.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", 1, None))
    return proto


def _typed(kind: int) -> onnx.ModelProto:
    proto = model(RELU, {"x": (1,)}, ["y"])
    proto.graph.input[0].type.tensor_type.elem_type = kind
    return proto


def _no_rank() -> onnx.ModelProto:
    return model(RELU, {"x": None}, ["y"])


def _one_node(op: str, inputs: list[str], **attributes: Any) -> onnx.ModelProto:
    return model([helper.make_node(op, inputs, ["y"], name="it", **attributes)], {"x": (2,)}, ["y"])


BAD: dict[str, tuple[Any, type[PlanishError], str]] = {
    "empty": (b"", ModelError, "empty"),
    "garbage": (b"no model at all", ModelError, "cannot be parsed|no graph"),
    "truncated": (_truncated(), ModelError, "cannot be parsed"),
    "no graph": (onnx.ModelProto(), ModelError, "no graph"),
    "no outputs": (model(RELU, {"x": (1,)}, []), ModelError, "no outputs"),
    "cycle": (_cycle(), ModelError, r"one \(Add\) <- three \(Relu\) <- two \(Relu\) <- one"),
    "dangling": (model(RELU, {}, ["y"]), ModelError, "nothing produces 'x' read by y"),
    "output": (model(RELU, {"x": (1,)}, ["z"]), ModelError, "nothing produces the output 'z'"),
    "twice": (model(RELU * 2, {"x": (1,)}, ["y"]), ModelError, "two nodes produce 'y'"),
    "nan": (_weights(w=np.array([1, np.nan], np.float32)), ModelError, "NaN(.|\n)*initializer w"),
    "nan f16": (_weights(w=np.array([1, np.nan], np.float16)), ModelError, "NaN"),
    "old opset": (model(RELU, {"x": (1,)}, ["y"], opset=6), ModelError, "opset 6"),
    "new opset": (model(RELU, {"x": (1,)}, ["y"], opset=99), ModelError, "opset 99"),
    "short data": (_short_data(), ModelError, "needs 8 bytes, got 3"),
    "negative": (_negative_extent(), ModelError, "negative extent"),
    "sequence": (_sequence(), UnsupportedTypeError, "sequence"),
    "complex": (_typed(TensorProto.COMPLEX64), UnsupportedTypeError, "COMPLEX64"),
    "no type": (_typed(0), ModelError, "element type"),
    "no rank": (_no_rank(), ModelError, "not even a rank"),
    "attribute": (_one_node("Relu", ["x"], color=1), ModelError, "unknown attribute.*color"),
    "required": (_one_node("Cast", ["x"]), ModelError, "lacks the attribute.*to"),
    "kind": (_one_node("Softmax", ["x"], axis="a"), ModelError, "should be of kind INT"),
    "too many": (_one_node("Relu", ["x", "x"]), ModelError, "takes 1 to 1 inputs"),
    "too few": (_one_node("MatMul", ["x"]), ModelError, "takes 2 to 2 inputs"),
    "absent": (_one_node("MatMul", ["", "x"]), ModelError, "lacks input A"),
    "type": (_one_node("Not", ["x"]), ModelError, "does not take f32"),
    "shapes": (_weights(w=np.ones(3, np.float32)), PlanishError, "cannot be broadcast"),
    "mixed types": (_weights(w=np.ones(2, np.int64)), ModelError, "inputs of one type"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_models_get_clear_errors(name: str) -> None:
    given, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        read_model(given)


def test_infinite_weights_are_legal() -> None:
    proto = _weights(w=np.array([np.inf, -np.inf], np.float32))
    assert run(proto, np.zeros(2, np.float32))[0].tolist() == [np.inf, -np.inf]


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        read_model(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="a folder is not a model"):
        read_model(tmp_path)
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match=r"did you mean .*net\.onnx"):
        read_model(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ModelError, match="SavedModel"):
        read_model(tmp_path)


def test_profiles_reach_the_graph() -> None:
    with pytest.raises(ConfigError, match="x_1"):
        read_model(model(RELU, {"x": (None, None)}, ["y"]), profiles={})
