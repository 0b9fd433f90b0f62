"""The layers that amx.py measures, as regions with random weights."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT / "src") not in sys.path:
    sys.path.insert(0, str(ROOT / "src"))

import ml_dtypes  # noqa: E402
import numpy as np  # noqa: E402

from planish.ir.dtypes import BF16, I8, U8, DType  # noqa: E402
from planish.ir.graph import Graph, Node, Value  # noqa: E402
from planish.ir.layout import Layout  # noqa: E402
from planish.ops.infer import infer_node  # noqa: E402
from planish.ops.op import OPS  # noqa: E402
from planish.tactics.region import make_region  # noqa: E402
from planish.tactics.tactic import Region  # noqa: E402

NUMPY = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Layer:
    """One region; `count`: how often the network has it. rows > 0: a matrix product."""

    name: str
    size: int
    channels: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    epilogue: str = "relu"
    count: int = 1
    rows: int = 0

    @property
    def network(self) -> str:
        return self.name.split("/")[0]

    @property
    def flops(self) -> int:
        """Two for each product."""
        side = -(-self.size // self.stride)
        positions = self.rows or side * side
        channels = 3 if self.kernel == 7 else self.channels
        return 2 * positions * channels * self.outputs * self.kernel**2


def product(network: str, rows: int, depth: int, columns: int, epilogue: str, count: int) -> Layer:
    name = f"{network}/{rows}x{depth}x{columns}{'_' + epilogue if epilogue else ''}"
    return Layer(name, 0, depth, columns, epilogue=epilogue, count=count, rows=rows)


def convolution(
    size: int, c: int, n: int, kernel: int, stride: int, after: str, count: int
) -> Layer:
    name = f"resnet50/{kernel}x{kernel}_{c}-{n}@{size}{'s2' if stride == 2 else ''}"
    name += {"relu": "", "residual": "_add", "": "_shortcut"}[after]
    return Layer(name, size, c, n, kernel, stride, after, count)


LAYERS = [
    convolution(224, 4, 64, 7, 2, "relu", 1),
    convolution(56, 64, 64, 1, 1, "relu", 1),
    convolution(56, 64, 64, 3, 1, "relu", 3),
    convolution(56, 64, 256, 1, 1, "residual", 3),
    convolution(56, 64, 256, 1, 1, "", 1),
    convolution(56, 256, 64, 1, 1, "relu", 2),
    convolution(56, 256, 128, 1, 1, "relu", 1),
    convolution(56, 128, 128, 3, 2, "relu", 1),
    convolution(28, 128, 512, 1, 1, "residual", 4),
    convolution(56, 256, 512, 1, 2, "", 1),
    convolution(28, 512, 128, 1, 1, "relu", 3),
    convolution(28, 128, 128, 3, 1, "relu", 3),
    convolution(28, 512, 256, 1, 1, "relu", 1),
    convolution(28, 256, 256, 3, 2, "relu", 1),
    convolution(14, 256, 1024, 1, 1, "residual", 6),
    convolution(28, 512, 1024, 1, 2, "", 1),
    convolution(14, 1024, 256, 1, 1, "relu", 5),
    convolution(14, 256, 256, 3, 1, "relu", 5),
    convolution(14, 1024, 512, 1, 1, "relu", 1),
    convolution(14, 512, 512, 3, 2, "relu", 1),
    convolution(7, 512, 2048, 1, 1, "residual", 3),
    convolution(14, 1024, 2048, 1, 2, "", 1),
    convolution(7, 2048, 512, 1, 1, "relu", 2),
    convolution(7, 512, 512, 3, 1, "relu", 2),
    product("resnet50", 1, 2048, 1000, "", 1),
    product("bert", 128, 768, 768, "", 36),
    product("bert", 128, 768, 768, "residual", 12),
    product("bert", 128, 768, 2304, "", 0),
    product("bert", 128, 768, 3072, "gelu", 12),
    product("bert", 128, 3072, 768, "residual", 12),
    product("vit", 197, 768, 768, "residual", 12),
    product("vit", 197, 768, 2304, "", 12),
    product("vit", 197, 768, 3072, "gelu", 12),
    product("vit", 197, 3072, 768, "residual", 12),
]


def add(graph: Graph, op: str, inputs: list[Value], **attributes: object) -> Value:
    value = Value(graph.fresh_name("v"), BF16, None)
    node = graph.append(Node(op, list(inputs), [value], {**OPS[op].attributes, **attributes}))
    infer_node(node)
    return value


class Builder:
    """Builds a layer in one precision: the same operators, with what stands around them."""

    def __init__(self, precision: str) -> None:
        self.integers = precision == "int8"
        self.random, self.graph = np.random.default_rng(1), Graph("layer")

    def operand(self, name: str, shape: tuple[int, ...], dtype: DType = U8) -> Value:
        """Return an input, as real numbers."""
        if not self.integers:
            return self.graph.add_input(name, BF16, shape)
        return self._real(self.graph.add_input(name, dtype, shape), np.float32(0.02), 0)

    def weights(self, *shape: int, axis: int) -> Value:
        """Return constant weights, as real numbers."""
        scale = (np.prod(shape) / shape[axis]) ** -0.5
        if not self.integers:
            return self.graph.constant((self.random.standard_normal(shape) * scale).astype(NUMPY))
        numbers = self.random.integers(-127, 128, shape).astype(np.int8)
        scales = self.random.uniform(0.5, 1.5, shape[axis]).astype(np.float32) * scale / 64
        return self._real(self.graph.constant(numbers), scales.astype(np.float32), axis)

    def bias(self, columns: int) -> Value:
        numbers = self.random.standard_normal(columns)
        return self.graph.constant(numbers.astype(np.float32 if self.integers else NUMPY))

    def result(self, value: Value) -> Value:
        """Return what the layer writes."""
        if not self.integers:
            return value
        parameters = [np.array(0.05, np.float32), np.array(0, np.int8)]
        return add(self.graph, "QuantizeLinear", [value, *map(self.graph.constant, parameters)])

    def _real(self, value: Value, scale: np.ndarray, axis: int) -> Value:
        given = [value, self.graph.constant(np.asarray(scale, np.float32))]
        return add(self.graph, "DequantizeLinear", given, axis=axis)


def region_of(layer: Layer, precision: str = "bf16") -> Region:
    """Return a layer's region with random weights, in bf16 or int8."""
    build = Builder(precision)
    graph = build.graph
    layouts = {}
    if layer.rows:
        x = build.operand("x", (layer.rows, layer.channels), I8)
        y = add(graph, "MatMul", [x, build.weights(layer.channels, layer.outputs, axis=1)])
        y = add(graph, "Add", [y, build.bias(layer.outputs)])
    else:
        k, pad = layer.kernel, layer.kernel // 2
        x = build.operand("x", (1, layer.channels, layer.size, layer.size))
        layouts["x"] = Layout((0, 2, 3, 1), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        weights = build.weights(layer.outputs, layer.channels, k, k, axis=0)
        y = add(graph, "Conv", [x, weights, build.bias(layer.outputs)], kernel_shape=(k, k),
                pads=(pad,) * 4, strides=(layer.stride,) * 2, dilations=(1, 1))  # fmt: skip
    if layer.epilogue == "residual":
        y = add(graph, "Add", [y, build.operand("r", y.known_shape)])
    if layer.epilogue == "gelu":
        y = add(graph, "Gelu", [y])
    elif layer.epilogue and not layer.rows:
        y = add(graph, "Relu", [y])
    graph.add_output(build.result(y))
    for value in (*graph.inputs, *graph.outputs):
        if not layer.rows:
            layouts.setdefault(value.name, Layout.channels_last(4))
    return make_region(graph, "MatMul" if layer.rows else "Conv", layouts)


def random_input(value: Value, random: np.random.Generator) -> np.ndarray:
    """Return random numbers of an input's type."""
    if value.dtype.is_float:
        return random.standard_normal(value.known_shape).astype(value.dtype.numpy)
    info = np.iinfo(value.dtype.numpy)
    return random.integers(info.min, info.max + 1, value.known_shape).astype(value.dtype.numpy)
