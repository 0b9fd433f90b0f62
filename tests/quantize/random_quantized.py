"""Random quantized ONNX models: chains and branches of layers between pairs of Q and DQ."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]

KINDS = {np.dtype(np.int8): TensorProto.INT8, np.dtype(np.uint8): TensorProto.UINT8}


class QuantizedModel:
    """Builds one model; every layer reads quantized tensors and writes one.

    Parameters
    ----------
    seed : int
        Decides everything.
    layers : int
        Operators between the input and the outputs.
    """

    def __init__(self, seed: int, layers: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.count = 0
        channels = int(self.random.choice([3, 4, 8]))
        self.shape = (2, channels, 10, 12)
        # name of a quantized tensor and its parameters, shape
        self.tensors = [self._quantize("x", self.shape, 0.03)]
        for _ in range(layers):
            self._layer()
        self.proto = self._model()

    def _model(self) -> onnx.ModelProto:
        """Return the model; what nothing reads is an output, alternately quantized and real."""
        read = {name for node in self.nodes for name in node.input}
        outputs = []
        for index, tensor in enumerate([t for t in self.tensors if t[0] not in read]):
            name, kind = tensor[0], KINDS[tensor[2].dtype]
            if index % 2:
                name, kind = self._real(tensor), TensorProto.FLOAT
            outputs.append(helper.make_tensor_value_info(name, kind, None))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)
        graph = helper.make_graph(self.nodes, "random", [x], outputs, self.constants)
        opsets = [helper.make_opsetid("", 21)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def feeds(self) -> dict[str, Array]:
        """Return random data."""
        data = np.random.default_rng(1).normal(0, 1.5, self.shape)
        return {"x": data.astype(np.float32)}

    # -- pieces ----------------------------------------------------------------------------------

    def _name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def _constant(self, array: Array, stem: str = "c") -> str:
        name = self._name(stem)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def _emit(self, op: str, inputs: list[str], **attributes: Any) -> str:
        name = self._name(op.lower())
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{name}_node", **attributes))
        return name

    def _quantize(
        self, real: str, shape: tuple[int, ...], scale: float, like: Any = None
    ) -> tuple[Any, ...]:
        """Return (name, scale, zero, shape) of a newly quantized tensor."""
        dtype = (np.int8, np.uint8)[int(self.random.integers(2))]
        zero = np.array(self.random.choice([0, int(self.random.integers(1, 100))]), dtype)
        # no round numbers: sums would often lie just between two steps
        step = np.array(scale * self.random.uniform(0.9, 1.1), np.float32)
        if like is not None:
            step, zero = like[1], like[2]
        parameters = [self._constant(step, "scale"), self._constant(zero, "zero")]
        name = self._emit("QuantizeLinear", [real, *parameters])
        return (name, step, zero, shape)

    def _real(self, tensor: tuple[Any, ...]) -> str:
        parameters = [self._constant(tensor[1], "scale"), self._constant(tensor[2], "zero")]
        return self._emit("DequantizeLinear", [tensor[0], *parameters])

    def _weights(self, shape: tuple[int, ...], axis: int) -> str:
        dtype = (np.int8, np.int8, np.uint8)[int(self.random.integers(3))]
        low, high = (-127, 128) if dtype is np.int8 else (0, 256)
        integers = self.random.integers(low, high, shape).astype(dtype)
        count = shape[axis] if self.random.random() < 0.6 else None
        fan = int(np.prod(shape)) // shape[axis]
        scale = self.random.uniform(0.5, 1.5, count or ()) / (70 * np.sqrt(fan))
        middle = 0 if dtype is np.int8 else 128
        zero = np.full(count or (), middle, dtype)
        if self.random.random() < 0.2 and count:
            zero = (zero + self.random.integers(0, 9, count)).astype(dtype)
        parameters = [
            self._constant(integers, "weight"),
            self._constant(np.asarray(scale, np.float32), "scale"),
            self._constant(zero, "zero"),
        ]
        return self._emit("DequantizeLinear", parameters, axis=axis)

    def _bias(self, count: int) -> list[str]:
        if self.random.random() < 0.3:
            return []
        return [self._constant(self.random.normal(0, 0.5, count).astype(np.float32), "bias")]

    # -- layers ----------------------------------------------------------------------------------

    def _layer(self) -> None:
        tensor = self.tensors[
            int(self.random.integers(max(0, len(self.tensors) - 3), len(self.tensors)))
        ]
        images = len(tensor[3]) == 4
        choices = ["_conv", "_conv", "_depthwise", "_add", "_concat", "_max_pool", "_average_pool",
                   "_activation", "_transpose", "_slice", "_pad", "_resize", "_matmul_last",
                   "_gate"]  # fmt: skip
        if not images:
            choices = ["_matmul", "_gemm", "_activation", "_reshape", "_softmax"]
        self.tensors.append(getattr(self, str(self.random.choice(choices)))(tensor))

    def _conv(self, tensor: tuple[Any, ...]) -> tuple[Any, ...]:
        n, c, h, w = tensor[3]
        o = int(self.random.choice([4, 8, 16]))
        kernel = int(self.random.choice([1, 3])) if min(h, w) >= 3 else 1
        stride = int(self.random.choice([1, 2])) if min(h, w) > 4 else 1
        group = 2 if c % 2 == 0 and self.random.random() < 0.2 else 1
        pad = kernel // 2
        weight = self._weights((o, c // group, kernel, kernel), 0)
        real = self._emit(
            "Conv", [self._real(tensor), weight, *self._bias(o)], group=group,
            kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4,
        )  # fmt: skip
        shape = (n, o, (h - 1) // stride + 1, (w - 1) // stride + 1)
        return self._quantize(self._activated(real), shape, 0.04)

    def _depthwise(self, tensor: tuple[Any, ...]) -> tuple[Any, ...]:
        c, (h, w) = tensor[3][1], tensor[3][2:]
        if min(h, w) < 3:
            return self._activation(tensor)
        weight = self._weights((c, 1, 3, 3), 0)
        real = self._emit(
            "Conv", [self._real(tensor), weight, *self._bias(c)], group=c, kernel_shape=[3, 3],
            pads=[1] * 4,
        )  # fmt: skip
        return self._quantize(self._activated(real), tensor[3], 0.04)

    def _activated(self, real: str) -> str:
        kind = self.random.random()
        if kind < 0.4:
            return self._emit("Relu", [real])
        if kind < 0.5:
            bounds = [self._constant(np.array(bound, np.float32)) for bound in (0, 4)]
            return self._emit("Clip", [real, *bounds])
        return real

    def _add(self, tensor: tuple[Any, ...]) -> tuple[Any, ...]:
        other = next(t for t in reversed(self.tensors) if len(t[3]) == 4)
        same = [t for t in self.tensors if t[3] == tensor[3]]
        other = same[int(self.random.integers(len(same)))] if same else other
        real = self._emit("Add", [self._real(tensor), self._real(other)])
        return self._quantize(self._activated(real), tensor[3], 0.06)

    def _gate(self, tensor: tuple[Any, ...]) -> tuple[Any, ...]:
        pooled = self._emit("GlobalAveragePool", [self._real(tensor)])
        gate = self._emit("Sigmoid", [pooled])
        real = self._emit("Mul", [self._real(tensor), gate])
        return self._quantize(real, tensor[3], 0.03)

    def _concat(self, tensor: tuple[Any, ...]) -> tuple[Any, ...]:
        fitting = [t for t in self.tensors if t[3][2:] == tensor[3][2:] and len(t[3]) == 4]
        other = fitting[int(self.random.integers(len(fitting)))]
        real = self._emit("Concat", [self._real(tensor), self._real(other)], axis=1)
        channels = tensor[3][1] + other[3][1]
        like = tensor if self.random.random() < 0.5 else None
        return self._quantize(real, (tensor[3][0], channels, *tensor[3][2:]), 0.04, like)

    def _max_pool(self, tensor: tuple[Any, ...]) -> tuple[Any, ...]:
        n, c, h, w = tensor[3]
        if min(h, w) < 3:
            return self._activation(tensor)
        pads, like = [1, 1, 1, 1], tensor if self.random.random() < 0.7 else None
        real = self._emit(
            "MaxPool", [self._real(tensor)], kernel_shape=[3, 3], strides=[2, 2], pads=pads
        )
        return self._quantize(real, (n, c, (h - 1) // 2 + 1, (w - 1) // 2 + 1), 0.04, like)

    def _average_pool(self, tensor: tuple[Any, ...]) -> tuple[Any, ...]:
        if min(tensor[3][2:]) < 3:
            return self._activation(tensor)
        include = int(self.random.integers(2))
        real = self._emit(
            "AveragePool", [self._real(tensor)], kernel_shape=[3, 3], pads=[1] * 4,
            count_include_pad=include,
        )  # fmt: skip
        return self._quantize(real, tensor[3], 0.03)

    def _activation(self, tensor: tuple[Any, ...]) -> tuple[Any, ...]:
        op = str(self.random.choice(["Relu", "Sigmoid", "HardSwish", "LeakyRelu"]))
        return self._quantize(self._emit(op, [self._real(tensor)]), tensor[3], 0.02)

    def _transpose(self, tensor: tuple[Any, ...]) -> tuple[Any, ...]:
        n, c, h, w = tensor[3]
        real = self._emit("Transpose", [self._real(tensor)], perm=[0, 1, 3, 2])
        return self._quantize(real, (n, c, w, h), 0.04, tensor)

    def _slice(self, tensor: tuple[Any, ...]) -> tuple[Any, ...]:
        n, c, h, w = tensor[3]
        if h < 4:
            return self._activation(tensor)
        bounds = [self._constant(np.array([v], np.int64)) for v in (1, h - 1, 2)]
        real = self._emit("Slice", [self._real(tensor), *bounds])
        return self._quantize(real, (n, c, h - 2, w), 0.04, tensor)

    def _pad(self, tensor: tuple[Any, ...]) -> tuple[Any, ...]:
        n, c, h, w = tensor[3]
        pads = self._constant(np.array([0, 0, 1, 0, 0, 0, 0, 2], np.int64))
        real = self._emit("Pad", [self._real(tensor), pads])
        return self._quantize(real, (n, c, h + 1, w + 2), 0.04)

    def _resize(self, tensor: tuple[Any, ...]) -> tuple[Any, ...]:
        n, c, h, w = tensor[3]
        if h * w > 200:
            return self._activation(tensor)
        scales = self._constant(np.array([1, 1, 2, 2], np.float32))
        real = self._emit(
            "Resize", [self._real(tensor), "", scales], mode="nearest",
            coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        )  # fmt: skip
        return self._quantize(real, (n, c, 2 * h, 2 * w), 0.04, tensor)

    def _matmul_last(self, tensor: tuple[Any, ...]) -> tuple[Any, ...]:
        n, c, h, w = tensor[3]
        real = self._emit("Reshape", [self._real(tensor), self._constant(np.array([n, -1]))])
        flat = self._quantize(real, (n, c * h * w), 0.04, tensor)
        return self._matmul(flat)

    def _matmul(self, tensor: tuple[Any, ...]) -> tuple[Any, ...]:
        n, k = tensor[3]
        weight = self._weights((k, 12), 1)
        real = self._emit("MatMul", [self._real(tensor), weight])
        for bias in self._bias(12):
            real = self._emit("Add", [real, bias])
        return self._quantize(real, (n, 12), 0.05)

    def _gemm(self, tensor: tuple[Any, ...]) -> tuple[Any, ...]:
        n, k = tensor[3]
        weight = self._weights((10, k), 0)
        real = self._emit("Gemm", [self._real(tensor), weight, *self._bias(10)], transB=1)
        return self._quantize(real, (n, 10), 0.05)

    def _reshape(self, tensor: tuple[Any, ...]) -> tuple[Any, ...]:
        n, k = tensor[3]
        real = self._emit("Reshape", [self._real(tensor), self._constant(np.array([-1, k // 2]))])
        return self._quantize(real, (2 * n, k // 2), 0.04, tensor)

    def _softmax(self, tensor: tuple[Any, ...]) -> tuple[Any, ...]:
        return self._quantize(self._emit("Softmax", [self._real(tensor)]), tensor[3], 1 / 255)
