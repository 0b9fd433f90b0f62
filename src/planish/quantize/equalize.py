"""Equalization: channels that use little of their tensor's range are stretched to use more of it.

A tensor on integers has one step for all its channels. Where one channel reaches 6 and another
0.06, the second is left with two or three of 255 steps: what depthwise networks lose most by. Each
channel c is multiplied by a gain g[c], and the weights that read it are divided by the same:

    y = product(x, w)  =>  y = product(x * g, w / g)

Cross-layer equalization (Nagel et al., "Data-free quantization through weight equalization and
bias correction", ICCV 2019) balances the ranges of two layers' weights. Here weights have a step
for each output channel, so what is balanced is the rounding of data and of weights that read them:

    data       (step / g)^2 sum_o w[o,c]^2
    weights    g^2 mean(x[c]^2) sum_o step[o]^2

whose sum is least at g^4 = step^2 sum_o w^2 / (mean(x^2) sum_o step^2). Weights of depthwise
convolutions have a step for each channel, which divides out: nothing bounds g but the range.

The tensor's threshold stays what calibration chose: gains are at least 1, and none takes what was
seen of its channel beyond the threshold. So caches fit, with gains or without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import private_producer, remove_dead, scalar_of
from planish.ops.op import OPS
from planish.passes.building import constant, emit
from planish.passes.linear import LINEAR, channel_axis, output_channels, scale_and_shift
from planish.quantize.scheme import LEVELS, tensor_name
from planish.quantize.select_layers import Selection

Array = np.ndarray[Any, Any]

HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu")  # f(g x) = g f(x) for g > 0
HEADROOM = 1.25  # a channel may reach so much more on other data before it is clipped
LARGEST_GAIN = 256.0  # of channels that are nearly dead on the data
WORTH = 0.8  # share of the estimated error that has to be left at most


@dataclass(frozen=True)
class ChannelRange:
    """What was seen of a tensor's channels.

    Attributes
    ----------
    amax : float64[channels]
        Largest magnitudes.
    square : float64[channels]
        Mean squares.
    """

    amax: Array
    square: Array


def stretchable(selection: Selection) -> list[Value]:
    """Return the tensors of a selection whose channels may be stretched, in order.

    Every reader is a product on integers that reads the tensor as it is, what computes it can take
    a factor along, and no other tensor shares its scale.
    """
    sharing: dict[int, int] = {}
    for number in selection.classes.values():
        sharing[number] = sharing.get(number, 0) + 1
    return [
        value
        for value in selection.tensors
        if sharing[selection.classes[value]] == 1 and _may_stretch(value, selection)
    ]


def _may_stretch(value: Value, selection: Selection) -> bool:
    producer = value.producer
    if producer is None or producer.graph is None or producer.graph.is_output(value):
        return False
    if not (producer.op in LINEAR or OPS[producer.op].pointwise) or channels_of(value) is None:
        return False
    return bool(value.uses) and all(
        node in selection.layers and index == 0 and node.op in ("Conv", "MatMul")
        for node, index in value.uses
    )


def channels_of(value: Value) -> int | None:
    """Return the channels of the data of a convolution or matmul; None when not known."""
    axis = channel_axis_of(value)
    extent = None if axis is None else value.known_shape[axis]
    return extent if isinstance(extent, int) else None


def channel_axis_of(value: Value) -> int | None:
    """Return the axis along which the readers of `value` sum; None when they do not agree."""
    if value.shape is None or value.rank < 2:
        return None
    axes = {1 if node.op == "Conv" else value.rank - 1 for node in value.users}
    return axes.pop() if len(axes) == 1 else None


def gains(value: Value, seen: ChannelRange, threshold: float, step: float) -> Array | None:
    """Return the gain of every channel of `value`; None where stretching is not worth it.

    Parameters
    ----------
    value : Value
        One of `stretchable`.
    seen : ChannelRange
    threshold : float
        Magnitude of the tensor that becomes the last step.
    step : float
        Between two of the tensor's integers.

    Returns
    -------
    float64[channels] or None
    """
    readers = [_Reader.of(node, len(seen.amax)) for node in value.users]
    data = step**2 * sum(reader.squares for reader in readers)
    dense = [reader.steps for reader in readers if not reader.is_depthwise]
    weights = seen.square * sum(dense) if dense else np.zeros(len(seen.amax))
    with np.errstate(divide="ignore", invalid="ignore"):
        best = np.where(weights > 0, (data / weights) ** 0.25, LARGEST_GAIN)
        room = threshold / (HEADROOM * seen.amax)
    room = np.where(seen.amax > 0, room, 1.0)
    gain = np.maximum(np.minimum(np.minimum(best, room), LARGEST_GAIN), 1.0)
    before = float(np.sum(data + weights))
    after = float(np.sum(data / gain**2 + weights * gain**2))
    return gain if after < WORTH * before else None


@dataclass(frozen=True)
class _Reader:
    """Sums over the weights of one product that multiply each channel of its data.

    `squares` of the weights, `steps` of the squared steps of these weights.
    """

    squares: Array
    steps: Array
    is_depthwise: bool

    @staticmethod
    def of(node: Node, channels: int) -> _Reader:
        array = node.present_inputs[1].array.astype(np.float64)
        if node.op == "MatMul":
            array = array.T
        groups = channels // array.shape[1]
        taps = array.reshape(groups, -1, array.shape[1], int(np.prod(array.shape[2:])))
        step = np.abs(taps).max(axis=(2, 3), keepdims=True) / LEVELS
        squares = np.square(taps).sum(axis=(1, 3)).reshape(channels)
        steps = np.broadcast_to(np.square(step), taps.shape).sum(axis=(1, 3)).reshape(channels)
        return _Reader(squares, steps, array.shape[1] == 1)


def stretch(graph: Graph, value: Value, gain: Array, threshold: float) -> str:
    """Multiply the channels of `value` by `gain`, and divide what reads them, in place.

    The factor goes into the weights of the layer before, if nothing but a positively homogeneous
    activation lies between; a clip at or above `threshold` (ReLU6) becomes a Relu, because integers
    end there. Otherwise it is a Mul, which fuses into the region that computes `value`. What is
    computed in floating point changes above the threshold only.

    Parameters
    ----------
    value : Value
        One of `stretchable`.
    gain : float64[channels]
        At least 1.
    threshold : float
        Magnitude at which `value` is cut when it becomes integers.

    Returns
    -------
    str
        Name of the result of the layer that took the factor; "" for a Mul.
    """
    for node in value.users:
        _divide_weights(graph, node, gain)
    name, readers = tensor_name(value), list(value.uses)
    linear = _producer_that_scales(value, graph, gain, threshold)
    result = None if linear is None else _scaled(graph, value, linear, gain)
    layer = "" if linear is None or result is None else tensor_name(linear.output)
    if result is None:
        users = set(value.users)
        first = next(node for node in graph if node in users)
        result = emit(graph, first, "Mul", [value, _vector(graph, value, gain)])
        value.origin = graph.fresh_name(name)  # the user's tensor is the one that is stored
    result.origin = name
    for node, index in readers:
        node.replace_input(index, result)
    if value.producer is not None:
        remove_dead(value.producer, graph)
    return layer


def _divide_weights(graph: Graph, node: Node, gain: Array) -> None:
    weight = node.present_inputs[1]
    wide = weight.array.astype(np.float64)
    if node.op == "MatMul":
        divided = wide / gain[:, None]
    else:
        groups = len(gain) // wide.shape[1]
        taps = wide.reshape(groups, -1, *wide.shape[1:])
        spatial = (1,) * (wide.ndim - 2)
        divided = taps / gain.reshape(groups, 1, wide.shape[1], *spatial)
    node.replace_input(1, constant(graph, divided.reshape(wide.shape), weight))


def _vector(graph: Graph, value: Value, gain: Array) -> Value:
    axis = channel_axis_of(value) or 0
    shape = [1] * value.rank
    shape[axis] = len(gain)
    return constant(graph, gain.reshape(shape), value)


def _producer_that_scales(value: Value, graph: Graph, gain: Array, threshold: float) -> Node | None:
    """Return the layer before that can take factors for the channels of `value`, or None."""
    node = value.producer
    if node is not None and node.op not in LINEAR:
        source = node.inputs[0] if _passes_factors(node, threshold) else None
        node = private_producer(source, graph, *LINEAR)
    if node is None or channel_axis(node) != channel_axis_of(value):
        return None
    return node if output_channels(node) == len(gain) else None


def _scaled(graph: Graph, value: Value, linear: Node, gain: Array) -> Value | None:
    """Return `value` times `gain`, the factor taken by the weights of `linear`, if they can."""
    activation = value.producer if value.producer is not linear else None
    scaled = scale_and_shift(graph, activation or linear, linear, gain, None)
    if scaled is None:
        return None
    scaled.origin = tensor_name(linear.output)
    if activation is None:
        return scaled
    if activation.op == "Clip":
        return emit(graph, activation, "Relu", [scaled], matched=[activation])
    inputs = [scaled, *activation.inputs[1:]]
    return emit(graph, activation, activation.op, inputs, activation.attributes)


def _passes_factors(activation: Node, threshold: float) -> bool:
    if activation.op == "Clip":
        high = scalar_of(activation.input(2))
        return scalar_of(activation.input(1)) == 0 and high is not None and high >= threshold
    return activation.op in HOMOGENEOUS
