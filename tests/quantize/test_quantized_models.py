"""Spellings of quantized models, each against ONNX Runtime to one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import planish
from planish.config import BuildConfig
from tests.ops.onnx_oracle import saturates

Array = np.ndarray[Any, Any]
Nodes = list[onnx.NodeProto]


class Model:
    """A model being written; tensors are names."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(7)
        self.nodes: Nodes = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: dict[str, Array] = {}

    def input(self, name: str, *shape: int) -> str:
        """Return a float32 input with random data."""
        self.inputs[name] = self.random.normal(0, 1, shape).astype(np.float32)
        return name

    def constant(self, array: Array, kind: int | None = None) -> str:
        """Return a constant, `kind` of ONNX's element types where numpy has no such type."""
        name = f"c{len(self.constants)}"
        if kind is None:
            self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        else:
            flat = np.asarray(array).reshape(-1).tolist()
            self.constants.append(helper.make_tensor(name, kind, np.shape(array), flat))
        return name

    def number(self, value: float, dtype: Any = np.float32) -> str:
        """Return a scalar."""
        return self.constant(np.array(value, dtype))

    def __call__(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Return the result of a node."""
        name = f"{op}{len(self.nodes)}"
        node = helper.make_node(op, inputs, [name], name=name, domain=domain, **attributes)
        self.nodes.append(node)
        return name

    def pair(self, x: str, scale: float, zero: int = 0, dtype: Any = np.int8) -> str:
        """Return `x` quantized and dequantized."""
        parameters = self.number(scale), self.number(zero, dtype)
        return self("DequantizeLinear", self("QuantizeLinear", x, *parameters), *parameters)

    def weights(self, *shape: int, axis: int = 0, dtype: Any = np.int8) -> str:
        """Return dequantized weights, a scale for each position along `axis`."""
        limits = np.iinfo(dtype)
        array = self.random.integers(limits.min, limits.max + 1, shape).astype(dtype)
        scale = self.random.uniform(0.5, 1.5, shape[axis]).astype(np.float32) / 300
        middle = (int(limits.min) + int(limits.max) + 1) // 2
        zero = np.full(shape[axis], middle, dtype)
        parameters = self.constant(array), self.constant(scale), self.constant(zero)
        return self("DequantizeLinear", *parameters, axis=axis)

    def proto(self, output: str) -> onnx.ModelProto:
        """Return the model with one output."""
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
            for name, array in self.inputs.items()
        ]
        outputs = [onnx.ValueInfoProto(name=output)]
        graph = helper.make_graph(self.nodes, "quantized", inputs, outputs, self.constants)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def convolution_1d(m: Model) -> str:
    x = m.pair(m.input("x", 2, 8, 20), 0.03, 5)
    return m.pair(m("Conv", x, m.weights(16, 8, 3), pads=[1, 1]), 0.05)


def convolution_3d(m: Model) -> str:
    x = m.pair(m.input("x", 1, 4, 6, 6, 6), 0.03)
    return m.pair(m("Conv", x, m.weights(8, 4, 3, 3, 3), pads=[1] * 6), 0.05)


def transposed(m: Model) -> str:
    x = m.pair(m.input("x", 1, 4, 6, 6), 0.03, 3, np.uint8)
    return m.pair(m("ConvTranspose", x, m.weights(4, 8, 2, 2, axis=1), strides=[2, 2]), 0.05)


def same_padding_around_a_zero_point(m: Model) -> str:
    x = m.pair(m.input("x", 1, 4, 7, 7), 0.03, 117, np.uint8)
    y = m("Conv", x, m.weights(8, 4, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2])
    return m.pair(m("Relu", y), 0.05, 0, np.uint8)


def two_activations(m: Model) -> str:
    a, b = m.pair(m.input("a", 2, 3, 8), 0.03), m.pair(m.input("b", 2, 8, 5), 0.02)
    return m.pair(m("MatMul", a, b), 0.05)


def gemm_of_transposed(m: Model) -> str:
    x = m.pair(m.input("x", 4, 16), 0.03)
    c = m.constant(m.random.normal(0, 1, 8).astype(np.float32))
    return m.pair(m("Gemm", x, m.weights(8, 16, axis=0), c, transB=1, alpha=0.5, beta=2.0), 0.05)


def bias_of_integers(m: Model) -> str:
    x = m.pair(m.input("x", 1, 4, 6, 6), 0.03)
    scale = np.full(8, 0.03 * 0.004, np.float32)
    integers = m.random.integers(-9000, 9000, 8).astype(np.int32)
    bias = m("DequantizeLinear", m.constant(integers), m.constant(scale), axis=0)
    return m.pair(m("Conv", x, m.weights(8, 4, 1, 1), bias), 0.05)


def sixteen_bits(m: Model) -> str:
    x = m.pair(m.input("x", 4, 16), 0.0003, 0, np.int16)
    return m.pair(m("MatMul", x, m.weights(16, 8, axis=1)), 0.0005, 0, np.int16)


def four_bits_in_blocks(m: Model) -> str:
    array = m.random.integers(-8, 8, (32, 6)).astype(np.int8)
    scale = m.random.uniform(0.01, 0.05, (2, 6)).astype(np.float32)
    weight = m.constant(array, TensorProto.INT4), m.constant(scale)
    x = m.input("x", 3, 32)
    return m("MatMul", x, m("DequantizeLinear", *weight, axis=0, block_size=16))


def eight_bits_in_blocks_with_zero_points(m: Model) -> str:
    array = m.random.integers(0, 256, (32, 6)).astype(np.uint8)
    scale = m.random.uniform(0.001, 0.005, (2, 6)).astype(np.float32)
    zero = m.random.integers(100, 150, (2, 6)).astype(np.uint8)
    weight = m.constant(array), m.constant(scale), m.constant(zero)
    x = m.pair(m.input("x", 3, 32), 0.03)
    return m("MatMul", x, m("DequantizeLinear", *weight, axis=0, block_size=16))


def scales_of_rows(m: Model) -> str:
    x = m.pair(m.input("x", 4, 16), 0.03)
    return m.pair(m("MatMul", x, m.weights(16, 8, axis=0)), 0.05)


def float_weights(m: Model) -> str:
    x = m.pair(m.input("x", 1, 4, 6, 6), 0.03)
    w = m.constant(m.random.normal(0, 0.3, (8, 4, 3, 3)).astype(np.float32))
    return m.pair(m("Conv", x, w), 0.05)


def float_data(m: Model) -> str:
    return m("Conv", m.input("x", 1, 4, 6, 6), m.weights(8, 4, 3, 3))


def one_table_twice(m: Model) -> str:
    x, w = m.input("x", 4, 8), m.weights(8, 8, axis=1)
    y = m("MatMul", m.pair(x, 0.03), w)
    return m("MatMul", m("Tanh", y), w)


def dynamic(m: Model) -> str:
    x = m.input("x", 5, 16)
    m.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], ["q", "s", "z"]))
    w = m.constant(m.random.integers(-127, 128, (16, 8)).astype(np.int8))
    total = m("Cast", m("MatMulInteger", "q", w, "z", m.number(0, np.int8)), to=1)
    return m("Add", m("Mul", total, m("Mul", "s", m.number(0.01))), m.constant(np.ones(8, "f")))


def dynamic_convolution(m: Model) -> str:
    x = m.input("x", 1, 4, 7, 7)
    m.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], ["q", "s", "z"]))
    w = m.constant(m.random.integers(0, 256, (8, 4, 3, 3)).astype(np.uint8))
    total = m("ConvInteger", "q", w, "z", m.number(131, np.uint8), pads=[1] * 4)
    return m("Mul", m("Cast", total, to=1), m("Mul", "s", m.number(0.01)))


def moved_between_layers(m: Model) -> str:
    x = m.pair(m.input("x", 1, 6, 6, 4), 0.03, 9, np.uint8)
    y = m("Conv", m("Transpose", x, perm=[0, 3, 1, 2]), m.weights(8, 4, 3, 3))
    y = m("Transpose", m.pair(y, 0.05, 100, np.uint8), perm=[0, 2, 3, 1])
    flat = m("Reshape", y, m.constant(np.array([1, -1])))
    return m.pair(m("MatMul", flat, m.weights(128, 8, axis=1)), 0.3, 120, np.uint8)


def padded_with_something_else(m: Model) -> str:
    x = m.pair(m.input("x", 1, 4, 6, 6), 0.03)
    pads, fill = m.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1])), m.number(0.5)
    return m.pair(m("Conv", m("Pad", x, pads, fill), m.weights(8, 4, 3, 3)), 0.05)


def embedding(m: Model) -> str:
    x = m("Cast", m("Abs", m.input("x", 3, 5)), to=TensorProto.INT64)
    table = m.weights(8, 16, axis=1)
    return m.pair(m("MatMul", m.pair(m("Gather", table, x), 0.01), m.weights(16, 4, axis=1)), 0.01)


def bits(m: Model) -> str:
    packed = m.constant(m.random.integers(0, 256, (6, 2, 8)).astype(np.uint8))
    scale = m.constant(m.random.uniform(0.01, 0.05, 12).astype(np.float32))
    x = m.input("x", 3, 32)
    attributes = {"K": 32, "N": 6, "bits": 4, "block_size": 16}
    return m("MatMulNBits", x, packed, scale, domain="com.microsoft", **attributes)


CONTRIB = {"domain": "com.microsoft"}


def contrib_operators(m: Model) -> str:
    scale, zero = m.number(0.03), m.number(128, np.uint8)
    x = m("QuantizeLinear", m.input("x", 1, 6, 6, 4), scale, zero)
    window: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2], "channels_last": 1}
    y = m("QLinearAveragePool", x, scale, zero, scale, zero, **window, **CONTRIB)
    z = m("QLinearLeakyRelu", y, scale, zero, scale, zero, **CONTRIB)
    joined = m("QLinearConcat", scale, zero, y, scale, zero, z, scale, zero, axis=3, **CONTRIB)
    w = m.constant(m.random.integers(-127, 128, (5, 72)).astype(np.int8))
    parameters = m.number(0.004), m.number(0, np.int8), "", m.number(0.05), zero
    flat = m("Reshape", joined, m.constant(np.array([1, -1])))
    q = m("QGemm", flat, scale, zero, w, *parameters, transB=1, **CONTRIB)
    unit, none = m.number(1 / 256), m.number(0, np.uint8)
    p = m("QLinearSoftmax", q, m.number(0.05), zero, unit, none, opset=13, **CONTRIB)
    return m("DequantizeLinear", p, unit, none)


def contrib_products(m: Model) -> str:
    w = m.constant(m.random.integers(-127, 128, (16, 8)).astype(np.int8))
    scale, bias = m.number(0.005), m.constant(m.random.normal(0, 1, 8).astype(np.float32))
    zero = m.number(0, np.int8)
    return m("DynamicQuantizeMatMul", m.input("x", 3, 16), w, scale, zero, bias, **CONTRIB)


CASES: list[Callable[[Model], str]] = [
    convolution_1d, convolution_3d, transposed, same_padding_around_a_zero_point, two_activations,
    gemm_of_transposed, bias_of_integers, sixteen_bits, four_bits_in_blocks,
    eight_bits_in_blocks_with_zero_points, scales_of_rows, float_weights, float_data,
    one_table_twice, dynamic, dynamic_convolution, moved_between_layers,
    padded_with_something_else, embedding, bits, contrib_operators, contrib_products,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
@pytest.mark.filterwarnings("error")  # the numpy reference is no kernel
def test_engine_agrees_with_onnx_runtime(case: Callable[[Model], str]) -> None:
    model = Model()
    proto = model.proto(case(model))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if case in (dynamic, contrib_operators) and saturates():  # what avoids it is an optimization
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.x64quantprecision", "1")
    (want,) = ort.InferenceSession(proto.SerializeToString(), options).run(None, model.inputs)
    engine = planish.build(proto, BuildConfig(tune="off", threads=1))
    (got,) = engine.run(model.inputs).values()
    step = _last_step(proto)
    assert got.dtype == want.dtype
    assert np.abs(got - want).max() <= 1.01 * step + 2e-5 * np.abs(want).max()
    assert step == 0 or (np.abs(got - want) > 0.01 * step).mean() <= 0.02


def _last_step(proto: onnx.ModelProto) -> float:
    """Return the scale of the pair that makes the output; 0 where nothing is quantized there."""
    last = proto.graph.node[-1]
    if last.op_type != "DequantizeLinear":
        return 0.0
    arrays = {each.name: numpy_helper.to_array(each) for each in proto.graph.initializer}
    return float(arrays[last.input[1]])
