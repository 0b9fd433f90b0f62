"""Random small models of everything that fusion, layouts and kernels have to get along with.

Images [N,C,H,W] and sequences [N,S,D], whose batch (and sequence) may be symbolic, grow into
graphs with branches, joins, several outputs, and values that are read in many places. Contents are
kept at about one, so that results can be compared with fixed tolerances.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests import small_models

Array = np.ndarray[Any, Any]
BATCH, SEQUENCE = "N", "S"


class SymbolicExtentError(Exception):
    """A grower needs a number where the extent is symbolic: it gives up."""


@dataclass(frozen=True)
class Tensor:
    """A value's name and shape; symbolic extents are strings."""

    name: str
    shape: tuple[int | str, ...]

    def extent(self, axis: int) -> int:
        """Return an extent that is a number."""
        dim = self.shape[axis]
        if not isinstance(dim, int):
            raise SymbolicExtentError(self.name)
        return dim


class RandomModel:
    """Grows one model; equal seeds give equal models.

    Parameters
    ----------
    seed : int
    nodes : int
        Steps of growth; some add more than one node.
    dynamic : bool
        Whether the batch and the sequence are symbolic, else 2 and 5.
    """

    def __init__(self, seed: int, nodes: int = 12, *, dynamic: bool = False) -> None:
        self.generator = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        batch, sequence = (BATCH, SEQUENCE) if dynamic else (2, 5)
        self.inputs: dict[str, tuple[int | str, ...]] = {}
        self.values: list[Tensor] = []
        if self.flip():
            channels = int(self.generator.choice([1, 3, 8, 16, 17]))
            height, width = self.generator.integers(4, 13, 2).tolist()
            self._input("image", (batch, channels, height, width))
        if self.flip() or not self.values:
            self._input("tokens", (batch, sequence, int(self.generator.choice([8, 16, 31, 32]))))
        if self.flip(0.2):
            self._input("vector", (batch, 16))
        for _ in range(nodes):
            self._grow()
        self.outputs = self._outputs()

    def proto(self) -> onnx.ModelProto:
        """Return the model."""
        outputs = dict.fromkeys(tensor.name for tensor in self.outputs)
        return small_models.model(self.nodes, self.inputs, outputs, self.constants, opset=18)

    def feeds(self, batch: int = 2, sequence: int = 5, seed: int = 0) -> dict[str, Array]:
        """Return inputs for these extents."""
        generator = np.random.default_rng(seed)
        sizes = {BATCH: batch, SEQUENCE: sequence}
        return {
            name: generator.standard_normal(
                [dim if isinstance(dim, int) else sizes[dim] for dim in shape]
            ).astype(np.float32)
            for name, shape in self.inputs.items()
        }

    # -- pieces ----------------------------------------------------------------------------------

    def flip(self, chance: float = 0.5) -> bool:
        """Return True with probability `chance`."""
        return bool(self.generator.random() < chance)

    def choose(self, options: list[Any]) -> Any:
        """Return one of `options`."""
        return options[int(self.generator.integers(len(options)))]

    def add(
        self, op: str, inputs: list[str], shape: tuple[int | str, ...], **attributes: Any
    ) -> Tensor:
        """Append a node with one output of `shape`."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{op}_{name}", **attributes))
        result = Tensor(name, shape)
        self.values.append(result)
        return result

    def weight(self, *shape: int, fan: int = 1) -> str:
        """Return the name of a new constant of about 1 / sqrt(fan)."""
        scale = 1 / np.sqrt(max(fan, 1))
        return self.constant((self.generator.standard_normal(shape) * scale).astype(np.float32))

    def constant(self, array: Array) -> str:
        """Return the name of a new constant."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def integers(self, *numbers: int) -> str:
        """Return the name of a new int64 constant."""
        return self.constant(np.array(numbers, np.int64))

    def _input(self, name: str, shape: tuple[int | str, ...]) -> None:
        self.inputs[name] = shape
        self.values.append(Tensor(name, shape))

    def _grow(self) -> None:
        recent = self.values[-6:]
        x = self.choose(recent if self.flip(0.8) else self.values)
        fitting = BY_RANK.get(len(x.shape), [])
        growers: list[Callable[[RandomModel, Tensor], None]] = [*GENERAL, *fitting]
        with contextlib.suppress(SymbolicExtentError):
            self.choose(growers)(self, x)

    def _outputs(self) -> list[Tensor]:
        read = {name for node in self.nodes for name in node.input}
        ends = [value for value in self.values if value.name not in read]
        kept = [value for value in ends if value.name not in self.inputs]
        inner = [value for value in self.values[1:] if value.name not in self.inputs]
        extra = [value for value in inner if value not in kept and self.flip(0.15)]
        return [*kept, *extra][:6]


# -- growth ------------------------------------------------------------------------------------


def unary(model: RandomModel, x: Tensor) -> None:
    ops = ["Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Softplus", "HardSwish", "Elu", "Erf", "Sin",
           "Identity"]  # fmt: skip
    model.add(model.choose(ops), [x.name], x.shape)


def silu(model: RandomModel, x: Tensor) -> None:
    gate = model.add("Sigmoid", [x.name], x.shape)
    model.add("Mul", [x.name, gate.name], x.shape)


def binary(model: RandomModel, x: Tensor) -> None:
    """Join with a value of the same shape, a weight that broadcasts, or a number."""
    others = [value.name for value in model.values if value.shape == x.shape]
    numbers = [dim if isinstance(dim, int) else 1 for dim in x.shape]
    kept = [dim if model.flip() else 1 for dim in numbers]
    first = int(model.generator.integers(len(kept) + 1))
    other = model.choose(others) if model.flip(0.7) else model.weight(*kept[first:])
    operands = [x.name, other] if model.flip(0.8) else [other, x.name]
    model.add(model.choose(["Add", "Mul", "Sub", "Max", "Add"]), operands, x.shape)


def clip(model: RandomModel, x: Tensor) -> None:
    low, high = model.constant(np.float32(-0.5)), model.constant(np.float32(1.5))
    model.add("Clip", [x.name, low, high] if model.flip() else [x.name, low], x.shape)


def where(model: RandomModel, x: Tensor) -> None:
    zero = model.constant(np.float32(0))
    name = f"v{len(model.nodes)}"
    model.nodes.append(helper.make_node("Greater", [x.name, zero], [name]))
    model.add("Where", [name, x.name, zero], x.shape)  # continuous: roundings must not decide


def concat(model: RandomModel, x: Tensor) -> None:
    axis = int(model.generator.integers(1, len(x.shape)))
    if not isinstance(x.shape[axis], int):
        return
    fits = [
        value
        for value in model.values
        if len(value.shape) == len(x.shape)
        and isinstance(value.shape[axis], int)
        and all(value.shape[i] == x.shape[i] for i in range(len(x.shape)) if i != axis)
    ]
    others = [model.choose(fits) for _ in range(int(model.generator.integers(1, 3)))]
    total = sum(value.extent(axis) for value in (x, *others))
    if total > 64:
        return
    shape = (*x.shape[:axis], total, *x.shape[axis + 1 :])
    model.add("Concat", [x.name, *(value.name for value in others)], shape, axis=axis)


def split(model: RandomModel, x: Tensor) -> None:
    axis = int(model.generator.integers(1, len(x.shape)))
    extent = x.shape[axis]
    if not isinstance(extent, int) or extent < 2:
        return
    first = int(model.generator.integers(1, extent))
    names = [f"v{len(model.nodes)}a", f"v{len(model.nodes)}b"]
    sizes = model.integers(first, extent - first)
    model.nodes.append(helper.make_node("Split", [x.name, sizes], names, axis=axis))
    for name, size in zip(names, (first, extent - first), strict=True):
        model.values.append(Tensor(name, (*x.shape[:axis], size, *x.shape[axis + 1 :])))


def cut(model: RandomModel, x: Tensor) -> None:
    axis = int(model.generator.integers(1, len(x.shape)))
    extent = x.shape[axis]
    if not isinstance(extent, int) or extent < 3:
        return
    step = model.choose([1, 1, 2, -1])
    start, end = (extent - 1, 0) if step < 0 else (1, extent)
    count = -(-(end - start) // step)
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    operands = [model.integers(number) for number in (start, end, axis, step)]
    model.add("Slice", [x.name, *operands], shape)


def softmax(model: RandomModel, x: Tensor) -> None:
    model.add("Softmax", [x.name], x.shape, axis=int(model.generator.integers(1, len(x.shape))))


def reduce(model: RandomModel, x: Tensor) -> None:
    axes = sorted({int(model.generator.integers(1, len(x.shape))) for _ in range(2)})
    shape = tuple(1 if axis in axes else dim for axis, dim in enumerate(x.shape))
    op = model.choose(["ReduceMean", "ReduceMax", "ReduceSum", "ReduceL2"])
    reduced = model.add(op, [x.name, model.integers(*axes)], shape, keepdims=1)
    model.add(model.choose(["Sub", "Mul"]), [x.name, reduced.name], x.shape)


def convolution(model: RandomModel, x: Tensor) -> None:
    channels, height, width = (x.extent(axis) for axis in (1, 2, 3))
    kernel = [int(k) for k in model.generator.choice([1, 3, 3, 5], 2)]
    if model.flip(0.6):
        kernel[1] = kernel[0]
    strides, dilation = model.choose([1, 1, 2]), model.choose([1, 1, 1, 2])
    pads = [model.choose([0, k // 2, k // 2]) for k in kernel] * 2
    sizes = [
        (extent + 2 * pads[i] - dilation * (kernel[i] - 1) - 1) // strides + 1
        for i, extent in enumerate((height, width))
    ]
    if min(sizes) < 1:
        return
    group = channels if model.flip(0.3) else 1
    if group == 1 and channels % 2 == 0 and model.flip(0.15):
        group = 2
    filters = channels if group == channels else group * model.choose([1, 4, 8, 9])
    fan = channels // group * kernel[0] * kernel[1]
    operands = [x.name, model.weight(filters, channels // group, *kernel, fan=fan)]
    if model.flip():
        operands.append(model.weight(filters))
    model.add("Conv", operands, (x.shape[0], filters, *sizes), kernel_shape=kernel, pads=pads,
              strides=[strides] * 2, dilations=[dilation] * 2, group=group)  # fmt: skip


def transposed(model: RandomModel, x: Tensor) -> None:
    channels, height, width = (x.extent(axis) for axis in (1, 2, 3))
    if height * width > 300:
        return
    weight = model.weight(channels, 6, 2, 2, fan=channels)
    model.add("ConvTranspose", [x.name, weight], (x.shape[0], 6, height * 2, width * 2),
              strides=[2, 2])  # fmt: skip


def batch_norm(model: RandomModel, x: Tensor) -> None:
    channels = x.extent(1)
    positive = np.abs(model.generator.standard_normal(channels)).astype(np.float32) + 0.5
    operands = [model.weight(channels), model.weight(channels), model.weight(channels)]
    model.add("BatchNormalization", [x.name, *operands, model.constant(positive)], x.shape)


def pool(model: RandomModel, x: Tensor) -> None:
    height, width = x.extent(2), x.extent(3)
    if min(height, width) < 3:
        return
    pads, stride = model.choose([0, 1]), model.choose([1, 2])
    sizes = [(extent + 2 * pads - 3) // stride + 1 for extent in (height, width)]
    model.add(model.choose(["MaxPool", "AveragePool"]), [x.name], (*x.shape[:2], *sizes),
              kernel_shape=[3, 3], strides=[stride] * 2, pads=[pads] * 4)  # fmt: skip


def gate(model: RandomModel, x: Tensor) -> None:
    """Squeeze and excite."""
    channels = x.extent(1)
    mean = model.add("GlobalAveragePool", [x.name], (*x.shape[:2], 1, 1))
    weight = model.weight(channels, channels, 1, 1, fan=channels)
    mixed = model.add("Conv", [mean.name, weight], mean.shape)
    scale = model.add("Sigmoid", [mixed.name], mean.shape)
    model.add("Mul", [x.name, scale.name], x.shape)


def resize(model: RandomModel, x: Tensor) -> None:
    height, width = x.extent(2), x.extent(3)
    if height * width > 200:
        return
    scales = model.constant(np.array([1, 1, 2, 2], np.float32))
    model.add("Resize", [x.name, "", scales], (*x.shape[:2], height * 2, width * 2),
              mode=model.choose(["nearest", "linear"]))  # fmt: skip


def pad(model: RandomModel, x: Tensor) -> None:
    amounts = [0, 0, 1, 0, 0, 0, 0, 2]
    shape = (*x.shape[:2], x.extent(2) + 1, x.extent(3) + 2)
    if min(x.extent(2), x.extent(3)) < 3:
        return
    mode = model.choose(["constant", "reflect", "edge"])
    model.add("Pad", [x.name, model.integers(*amounts)], shape, mode=mode)


def to_tokens(model: RandomModel, x: Tensor) -> None:
    batch, channels, _, _ = x.shape
    pixels = x.extent(2) * x.extent(3)
    flat = model.add("Reshape", [x.name, model.integers(0, 0, -1)], (batch, channels, pixels))
    model.add("Transpose", [flat.name], (batch, pixels, channels), perm=[0, 2, 1])


def channels_last(model: RandomModel, x: Tensor) -> None:
    batch, channels, height, width = x.shape
    last = model.add("Transpose", [x.name], (batch, height, width, channels), perm=[0, 2, 3, 1])
    scaled = model.add("Mul", [last.name, model.weight(x.extent(1))], last.shape)
    model.add("Transpose", [scaled.name], x.shape, perm=[0, 3, 1, 2])


def instance_norm(model: RandomModel, x: Tensor) -> None:
    channels = x.extent(1)
    if x.extent(2) * x.extent(3) < 8:
        return
    operands = [model.weight(channels), model.weight(channels)]
    model.add("InstanceNormalization", [x.name, *operands], x.shape)


def linear(model: RandomModel, x: Tensor) -> None:
    inner, columns = x.extent(-1), model.choose([8, 16, 31, 32])
    product = model.add("MatMul", [x.name, model.weight(inner, columns, fan=inner)],
                        (*x.shape[:-1], columns))  # fmt: skip
    if model.flip():
        model.add("Add", [product.name, model.weight(columns)], product.shape)


def layer_norm(model: RandomModel, x: Tensor) -> None:
    extent = x.extent(-1)
    if extent < 4:
        return
    model.add("LayerNormalization", [x.name, model.weight(extent), model.weight(extent)], x.shape)


def attention(model: RandomModel, x: Tensor) -> None:
    batch, sequence, extent = x.shape
    if not isinstance(extent, int) or extent % 2:
        return
    heads = (batch, 2, sequence, extent // 2)
    parts = []
    for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        weight = model.weight(extent, extent, fan=extent)
        projected = model.add("MatMul", [x.name, weight], x.shape)
        shape = model.integers(0, 0, 2, extent // 2)
        part = model.add("Reshape", [projected.name, shape], (batch, sequence, 2, extent // 2))
        parts.append(model.add("Transpose", [part.name], tuple(part.shape[i] for i in order),
                               perm=order))  # fmt: skip
    scores = model.add("MatMul", [parts[0].name, parts[1].name], (batch, 2, sequence, sequence))
    scale = model.constant(np.float32(extent**-0.5))
    scaled = model.add("Mul", [scores.name, scale], scores.shape)
    weights = model.add("Softmax", [scaled.name], scores.shape, axis=-1)
    mixed = model.add("MatMul", [weights.name, parts[2].name], heads)
    turned = model.add("Transpose", [mixed.name], (batch, sequence, 2, extent // 2),
                       perm=[0, 2, 1, 3])  # fmt: skip
    model.add("Reshape", [turned.name, model.integers(0, 0, extent)], x.shape)
    del model.values[-9:-1]  # inner values stay inside


def mean_token(model: RandomModel, x: Tensor) -> None:
    batch, _, extent = x.shape
    model.add("ReduceMean", [x.name, model.integers(1)], (batch, extent), keepdims=0)


def last_token(model: RandomModel, x: Tensor) -> None:
    batch, _, extent = x.shape
    model.add("Gather", [x.name, model.constant(np.array(-1))], (batch, extent), axis=1)


def dense(model: RandomModel, x: Tensor) -> None:
    inner, columns = x.extent(1), model.choose([1, 10, 16, 32])
    operands = [x.name, model.weight(columns, inner, fan=inner), model.weight(columns)]
    model.add("Gemm", operands, (x.shape[0], columns), transB=1)


def to_image(model: RandomModel, x: Tensor) -> None:
    batch = x.shape[0]
    if x.extent(1) % 4:
        return
    shape = (batch, x.extent(1) // 4, 2, 2)
    model.add("Reshape", [x.name, model.integers(0, -1, 2, 2)], shape)


def recurrent(model: RandomModel, x: Tensor) -> None:
    batch, sequence, extent = x.shape
    inner = x.extent(2)
    turned = model.add("Transpose", [x.name], (sequence, batch, extent), perm=[1, 0, 2])
    operands = [turned.name, model.weight(1, 18, inner, fan=inner), model.weight(1, 18, 6, fan=6)]
    states = model.add("GRU", operands, (sequence, 1, batch, 6), hidden_size=6)
    flat = model.add("Squeeze", [states.name, model.integers(1)], (sequence, batch, 6))
    model.add("Transpose", [flat.name], (batch, sequence, 6), perm=[1, 0, 2])
    del model.values[-4:-1]


GENERAL: list[Any] = [unary, unary, silu, binary, binary, binary, clip, where, concat, concat,
                      split, cut, softmax, reduce]  # fmt: skip
BY_RANK: dict[int, list[Any]] = {
    4: [convolution] * 6 + [transposed, batch_norm, batch_norm, pool, pool, gate, resize, pad,
                            to_tokens, channels_last, instance_norm],
    3: [linear] * 4 + [layer_norm, layer_norm, attention, attention, mean_token, last_token,
                       recurrent],
    2: [dense, dense, dense, to_image],
}  # fmt: skip
