"""Folding a scale and a shift per output channel into convolutions and matmuls.

With y = linear(x, w) + b and per-channel vectors s and t,

    y * s + t = linear(x, w * s) + (b * s + t)

where w is scaled along its output-channel axis. All arithmetic is done in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.passes.building import constant, emit

Array = np.ndarray[Any, Any]

CONVOLUTIONS = ("Conv", "ConvTranspose")
LINEAR = (*CONVOLUTIONS, "MatMul")


def output_channels(linear: Node) -> int | None:
    """Return how many output channels `linear` has if its weights are constant floats."""
    weights = linear.inputs[1]
    if weights is None or not weights.is_constant or not weights.dtype.is_float:
        return None
    shape = weights.array.shape
    if linear.op == "Conv":
        return int(shape[0])
    if linear.op == "ConvTranspose":
        return int(shape[1]) * int(linear.attributes["group"])
    return int(shape[-1]) if len(shape) >= 2 else None


def channel_axis(linear: Node) -> int:
    """Return the output axis along which `linear` has its channels."""
    return linear.output.rank - 1 if linear.op == "MatMul" else 1


def scale_and_shift(
    graph: Graph, before: Node, linear: Node, scale: Array, shift: Array | None
) -> Value | None:
    """Return linear(x) * scale + shift with both folded, or None where weights are not constant.

    Parameters
    ----------
    before : Node
        The root of the match; the new node comes just before it.
    linear : Node
        A Conv, ConvTranspose or MatMul that nothing but the match reads.
    scale, shift : numpy.ndarray
        float64[output channels]; no shift is the same as zeros.
    """
    channels = output_channels(linear)
    weights = linear.inputs[1]
    if channels is None or weights is None or scale.shape != (channels,):
        return None
    scaled = constant(graph, _scaled_weights(linear, weights.array, scale), weights)
    if linear.op == "MatMul":
        product = emit(graph, before, "MatMul", [linear.inputs[0], scaled], matched=[linear])
        if shift is None or not shift.any():
            return product
        return emit(graph, before, "Add", [product, constant(graph, shift, weights)])
    old = linear.input(2)
    if old is not None and not old.is_constant:
        return None
    bias: Value | None = None
    if old is not None or (shift is not None and shift.any()):
        total = np.zeros(channels) if old is None else old.array.astype(np.float64) * scale
        bias = constant(graph, total if shift is None else total + shift, old or weights)
    inputs = [linear.inputs[0], scaled, bias]
    return emit(graph, before, linear.op, inputs, linear.attributes, matched=[linear])


def batch_norm_vectors(node: Node) -> tuple[Array, Array] | None:
    """Return scale and shift (float64[channels]) that a BatchNormalization applies, if constant."""
    if node.attributes.get("training_mode"):
        return None
    parameters = node.inputs[1:5]
    if any(value is None or not value.is_constant for value in parameters):
        return None
    gamma, beta, mean, variance = (
        value.array.astype(np.float64) for value in parameters if value is not None
    )
    scale = gamma / np.sqrt(variance + float(node.attributes["epsilon"]))
    return scale, beta - mean * scale


def _scaled_weights(linear: Node, weights: Array, scale: Array) -> Array:
    wide = weights.astype(np.float64)
    if linear.op == "MatMul":
        return wide * scale
    spatial = (1,) * (wide.ndim - 2)
    if linear.op == "Conv":
        return wide * scale.reshape(-1, 1, *spatial)
    group = int(linear.attributes["group"])
    grouped = wide.reshape(group, wide.shape[0] // group, *wide.shape[1:])
    return (grouped * scale.reshape(group, 1, -1, *spatial)).reshape(wide.shape)
