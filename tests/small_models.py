"""Small models, made with onnx.helper, for tests of whole builds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from planish.importers.importer import read_model
from planish.ops.interpreter import run_graph

Array = np.ndarray[Any, Any]
Shape = Sequence[int | str]


def weights(seed: int, **shapes: Sequence[int]) -> dict[str, Array]:
    """Return random weights that keep activations at about one."""
    generator = np.random.default_rng(seed)
    arrays = {}
    for name, shape in shapes.items():
        scale = 1.0 / np.sqrt(max(np.prod(shape) / max(shape), 1.0))
        arrays[name] = (generator.standard_normal(shape) * scale).astype(np.float32)
    return arrays


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape | None],
    constants: Mapping[str, Array] | None = None,
    *,
    types: Mapping[str, int] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """Return a model; inputs and outputs are floats unless `types` says otherwise."""
    kinds = dict(types or {})

    def info(name: str, shape: Shape | None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape)

    graph = helper.make_graph(
        list(nodes), "graph",
        [info(name, shape) for name, shape in inputs.items()],
        [info(name, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )  # fmt: skip
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])


def convolutions(batch: int | str = "N", size: int | str = 12) -> onnx.ModelProto:
    """A residual block, a concat of two branches, pooling and a classifier."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], name="stem", pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], name="block", pads=[1, 1, 1, 1]),
        node("Add", ["c2", "r1"], ["a1"]),
        node("Relu", ["a1"], ["r2"]),
        node("Conv", ["r2", "w3"], ["left"], name="left"),
        node("Conv", ["r2", "w4"], ["right"], name="right", pads=[1, 1, 1, 1], group=16),
        node("Concat", ["left", "right"], ["both"], axis=1),
        node("MaxPool", ["both"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["pooled"], ["mean"]),
        node("Flatten", ["mean"], ["flat"]),
        node("Gemm", ["flat", "w5", "b5"], ["y"], name="classifier"),
    ]
    constants = weights(0, w1=(16, 3, 3, 3), b1=(16,), w2=(16, 16, 3, 3), w3=(8, 16, 1, 1),
                        w4=(16, 1, 3, 3), w5=(24, 10), b5=(10,))  # fmt: skip
    return model(nodes, {"x": (batch, 3, size, size)}, {"y": (batch, 10)}, constants)


def transformer(
    batch: int | str = "N", sequence: int | str = "S", width: int = 32
) -> onnx.ModelProto:
    """One encoder layer: embedding, attention with 2 heads, LayerNorm, GELU."""
    node = helper.make_node
    heads, depth = 2, width // 2
    nodes = [node("Gather", ["table", "ids"], ["e"], name="embedding")]
    for name in "qkv":
        nodes += [
            node("MatMul", ["e", f"w{name}"], [f"{name}0"], name=name),
            node("Reshape", [f"{name}0", "split"], [f"{name}1"]),
            node("Transpose", [f"{name}1"], [f"{name}2"], perm=[0, 2, 1, 3]),
        ]
    nodes += [
        node("Transpose", ["k2"], ["kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["q2", "kt"], ["s0"], name="scores"),
        node("Mul", ["s0", "scale"], ["s1"]),
        node("Softmax", ["s1"], ["p"], axis=-1),
        node("MatMul", ["p", "v2"], ["o0"], name="context"),
        node("Transpose", ["o0"], ["o1"], perm=[0, 2, 1, 3]),
        node("Reshape", ["o1", "join"], ["o2"]),
        node("MatMul", ["o2", "wo"], ["o3"], name="projection"),
        node("Add", ["o3", "e"], ["h0"]),
        node("LayerNormalization", ["h0", "gamma", "beta"], ["h1"], axis=-1),
        node("MatMul", ["h1", "w1"], ["f0"], name="up"),
        node("Add", ["f0", "b1"], ["f1"]),
        node("Div", ["f1", "root2"], ["g0"]),
        node("Erf", ["g0"], ["g1"]),
        node("Add", ["g1", "one"], ["g2"]),
        node("Mul", ["f1", "g2"], ["g3"]),
        node("Mul", ["g3", "half"], ["g4"]),
        node("MatMul", ["g4", "w2"], ["f2"], name="down"),
        node("Add", ["f2", "h1"], ["y"]),
    ]
    constants = weights(
        1, table=(50, width), wq=(width, width), wk=(width, width), wv=(width, width),
        wo=(width, width), w1=(width, 4 * width), b1=(4 * width,), w2=(4 * width, width),
    )  # fmt: skip
    constants |= {
        "split": np.array([0, 0, heads, depth], np.int64),
        "join": np.array([0, 0, width], np.int64),
        "scale": np.float32(depth**-0.5), "root2": np.float32(2**0.5),
        "one": np.float32(1), "half": np.float32(0.5),
        "gamma": np.ones(width, np.float32), "beta": np.zeros(width, np.float32),
    }  # fmt: skip
    return model(nodes, {"ids": (batch, sequence)}, {"y": (batch, sequence, width)}, constants,
                 types={"ids": TensorProto.INT64})  # fmt: skip


def recurrent(batch: int | str = "N", sequence: int | str = "S") -> onnx.ModelProto:
    """An LSTM over a sequence, time first, and the mean of its states."""
    constants = weights(2, w=(1, 64, 8), r=(1, 64, 16), b=(1, 128))
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "b"], ["states", "last"], hidden_size=16),
        helper.make_node("Squeeze", ["states", "axis"], ["flat"]),
        helper.make_node("ReduceMean", ["flat"], ["y"], axes=[0], keepdims=0),
    ]
    constants["axis"] = np.array([1], np.int64)
    inputs = {"x": (sequence, batch, 8)}
    return model(nodes, inputs, {"y": (batch, 16), "last": (1, batch, 16)}, constants)


def suppression() -> onnx.ModelProto:
    """Non-maximum suppression, which has no kernel: it runs through its numpy reference."""
    nodes = [
        helper.make_node("Mul", ["s", "two"], ["doubled"]),
        helper.make_node("NonMaxSuppression", ["b", "doubled", "most", "overlap"], ["picked"],
                         name="suppress"),
    ]  # fmt: skip
    constants = {"two": np.float32(2), "most": np.array([3], np.int64),
                 "overlap": np.array([0.5], np.float32)}  # fmt: skip
    return model(nodes, {"b": (1, 8, 4), "s": (1, 1, 8)}, {"picked": ("n", 3)}, constants,
                 types={"picked": TensorProto.INT64})  # fmt: skip


def expected(proto: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return what the numpy reference makes of `inputs`; shapes need no profile."""
    graph = read_model(proto)
    results = run_graph(graph, [inputs[name] for name in graph.input_names])
    return dict(zip(graph.output_names, results, strict=True))
