"""Bias correction: what integers add to the mean of a layer's sums is taken off its bias.

Rounding and clipping move the mean of each output channel. In a depthwise convolution, whose sums
have few terms, that is a large part of the error, and later layers add it up (Nagel et al.,
"Data-free quantization through weight equalization and bias correction", ICCV 2019, section 4.2).

The correction is empirical: one engine runs the layers on integers, each with a number a channel
that is added to its sums (an input of the engine), and gives the means of the sums. Layer by
layer in order, so that what earlier ones brought is corrected before, the difference to the means
in float32 is taken off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from planish.errors import GraphError
from planish.ir.declarations import DECLARED
from planish.ir.dtypes import F32
from planish.ir.graph import Graph, Node, Value
from planish.ops.infer import infer_node
from planish.passes.building import constant
from planish.passes.linear import channel_axis

Array = np.ndarray[Any, Any]


def add_means(graph: Graph, layers: Sequence[Node]) -> list[str]:
    """Let `graph` give the means of the layers' sums over positions; return the outputs' names.

    An output is float32[samples, channels, 1, ...]; behind a MatMul float32[channels].
    """
    return [_add_mean(graph, node.output, node) for node in layers]


def open_corrections(graph: Graph, layers: Sequence[Node]) -> tuple[list[Value], list[str]]:
    """Let inputs be added to the layers' sums, and give the means as `add_means` does.

    Returns
    -------
    inputs : list of Value
        float32[channels, 1, ...], a layer each.
    outputs : list of str
        Names of the means, with what is added.
    """
    inputs, outputs = [], []
    for node in layers:
        name = graph.fresh_name("correction")
        inputs.append(graph.add_input(name, F32, channel_shape(node)))
        outputs.append(_add_mean(graph, _add(graph, node, inputs[-1]), node))
    return inputs, outputs


def correct_biases(graph: Graph, layers: Sequence[Node], corrections: Sequence[Array]) -> None:
    """Add constants to the layers' sums: to the bias, where a convolution has a constant one.

    Parameters
    ----------
    corrections : sequence of float32[channels, 1, ...]
        A layer each, in the shape of `channel_shape`.
    """
    for node, correction in zip(layers, corrections, strict=True):
        if not correction.any():
            continue
        bias = node.input(2) if node.op != "MatMul" else None
        if node.op == "MatMul" or (bias is not None and not bias.is_constant):
            _add(graph, node, constant(graph, correction, node.output))
            continue
        total = correction.reshape(-1).astype(np.float64)
        if bias is not None:
            total = total + bias.array
        node.inputs = (*node.inputs[:2], constant(graph, total, node.output))


def channel_shape(layer: Node) -> tuple[int, ...]:
    """Return the shape of a number a channel that is added to the results of a product."""
    axis = channel_axis(layer)
    extent = layer.output.known_shape[axis]
    return (int(str(extent)), *(1 for _ in range(layer.output.rank - 1 - axis)))


def _add(graph: Graph, layer: Node, numbers: Value) -> Value:
    """Return the result of `layer` plus a number a channel, which its readers read from now on."""
    old = layer.output
    uses = list(old.uses)
    result = _behind(graph, layer, "Add", [old, numbers])
    for reader, index in uses:
        reader.replace_input(index, result)
    graph.outputs = [result if value is old else value for value in graph.outputs]
    result.origin, old.origin = old.origin, graph.fresh_name(old.origin)
    return result


def add_statistics(graph: Graph, value: Value) -> tuple[str, str]:
    """Let `graph` give the largest magnitude and the mean square of every channel of a tensor.

    Returns
    -------
    amax, square : str
        Names of the outputs, of the shape that `add_means` gives.
    """
    node = value.producer or value.users[0]
    is_matmul = all(user.op == "MatMul" for user in value.users)
    magnitude = _behind(graph, node, "Abs", [value])
    square = _behind(graph, node, "Mul", [value, value])
    return (
        _add_statistic(graph, magnitude, "Max", is_matmul),
        _add_statistic(graph, square, "Mean", is_matmul),
    )


def _add_mean(graph: Graph, value: Value, layer: Node) -> str:
    """Make the mean of a layer's sums an output; return its name."""
    return _add_statistic(graph, value, "Mean", layer.op == "MatMul")


def _add_statistic(graph: Graph, value: Value, kind: str, last: bool) -> str:
    """Make the "Mean" or "Max" over positions an output; channels are the last axis or axis 1."""
    place = value.producer
    if place is None:
        raise GraphError(f"%{value.name} is not computed by a node", where="bias correction")
    if last:
        axes = graph.constant(np.arange(value.rank - 1, dtype=np.int64))
        result = _behind(graph, place, f"Reduce{kind}", [value, axes], keepdims=0)
    else:
        pool = "GlobalAveragePool" if kind == "Mean" else "GlobalMaxPool"
        result = _behind(graph, place, pool, [value])
    name = graph.fresh_name(kind.lower())
    graph.add_output(result, name)
    return name


def _behind(graph: Graph, place: Node, op: str, inputs: list[Value], **attributes: Any) -> Value:
    """Insert a node with one output just behind `place`, and return the output."""
    result = graph.new_value(F32, None, place.outputs[0].name)
    node = Node(op, inputs, [result], {**DECLARED[op], **attributes}, place.source)
    infer_node(graph.insert_after(place, node))
    return result
