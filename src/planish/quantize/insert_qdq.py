"""Quantizes a float32 graph: QuantizeLinear and DequantizeLinear around the tensors to be integers.

Symmetric linear quantization (DESIGN.md section 5): a tensor's scale is threshold / 127 (i8), or
threshold / 255 (u8) where its elements cannot be negative, which is one bit more; weights have a
scale for each output channel, largest magnitude / 127, so that they lie in [-127, 127]. Floats of
eight bits (f8e4m3) reach 448 instead.

The passes after this one move the pairs to where they cost nothing, and fusion makes integer
regions of them (see passes/quantized.py for the form).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from planish.ir.declarations import DECLARED
from planish.ir.dtypes import F8E4M3, F32, I8, U8, DType
from planish.ir.graph import Graph, Node, Value
from planish.ir.source import Source
from planish.ops.quantize import spread
from planish.passes.building import emit
from planish.passes.quantized import DEQUANTIZE, QUANTIZE, output_axis
from planish.quantize.non_negative import is_non_negative
from planish.quantize.scheme import LEVELS, tensor_name
from planish.quantize.select_layers import Selection, select_layers

Array = np.ndarray[Any, Any]

LARGEST = {I8: float(LEVELS), U8: 255.0, F8E4M3: 448.0}  # what a threshold becomes
BYTES = (U8, I8)


@dataclass
class QuantizationSummary:
    """What `quantize_graph` did.

    Attributes
    ----------
    layers : list of str
        Layers that run on integers, by the user's names.
    tensors : dict of str to str
        Name of a quantized tensor to its type and scale as text.
    kept : dict of str to str
        Layer that stays floating point to the reason.
    """

    layers: list[str] = field(default_factory=list)
    tensors: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """Lines for the report: the layers that stay floating point, and why."""
        return [f"{layer} stays floating point: {reason}" for layer, reason in self.kept.items()]


def quantizable_values(
    graph: Graph,
    layer_precisions: Mapping[str, str] | None = None,
    prints: Callable[[Node], bool] = lambda node: True,
) -> list[Value]:
    """Return the tensors whose ranges `quantize_graph` wants to know, in execution order."""
    return select_layers(graph, layer_precisions, prints).tensors


def quantize_graph(
    graph: Graph,
    thresholds: Mapping[str, float],
    layer_precisions: Mapping[str, str] | None = None,
    prints: Callable[[Node], bool] = lambda node: True,
    dtypes: Sequence[DType] = BYTES,
) -> QuantizationSummary:
    """Make integers of the layers of a simplified float32 graph, in place.

    Parameters
    ----------
    graph : Graph
        As the simplifying passes leave it.
    thresholds : dict of str to float
        Largest magnitude of each tensor of `quantizable_values`, by `tensor_name`. Layers whose
        data have none, or none that is positive and finite, stay floating point.
    layer_precisions : dict, optional
        As in `BuildConfig`.
    prints : callable, optional
        As in `FuseRegions`.
    dtypes : sequence of DType
        What tensors may become: u8 (those that cannot be negative), i8, or f8e4m3 alone.
    """
    selection = quantizable_layers(graph, thresholds, layer_precisions, prints)
    summary = QuantizationSummary()
    for node, reason in selection.kept:
        summary.kept[str(node.source)] = reason
    for node in selection.layers:
        summary.layers.append(str(node.source))
        _quantize_weights(graph, node, F8E4M3 if F8E4M3 in dtypes else I8)
    steps = steps_of(selection, thresholds, dtypes)
    for value in selection.tensors:
        dtype, scale = steps[selection.classes[value]]
        summary.tensors[tensor_name(value)] = f"{dtype} in steps of {scale:.6g}"
        _quantize_tensor(graph, value, dtype, scale)
    return summary


def quantizable_layers(
    graph: Graph,
    thresholds: Mapping[str, float],
    layer_precisions: Mapping[str, str] | None = None,
    prints: Callable[[Node], bool] = lambda node: True,
) -> Selection:
    """Return what `quantize_graph` makes integers of; see there for the parameters."""
    wanted = quantizable_values(graph, layer_precisions, prints)
    names = [tensor_name(value) for value in wanted]
    unknown = [name for name in names if not _is_usable(thresholds.get(name))]
    return select_layers(graph, layer_precisions, prints, unknown)


def _is_usable(threshold: float | None) -> bool:
    return threshold is not None and math.isfinite(threshold) and threshold > 0


def steps_of(
    selection: Selection, thresholds: Mapping[str, float], dtypes: Sequence[DType] = BYTES
) -> dict[int, tuple[DType, np.float32]]:
    """Return type and scale of every class of tensors: those of its widest member."""
    members: dict[int, list[Value]] = {}
    for value, number in selection.classes.items():
        members.setdefault(number, []).append(value)
    steps: dict[int, tuple[DType, np.float32]] = {}
    for number, values in members.items():
        widest = max(thresholds[tensor_name(value)] for value in values)
        unsigned = U8 in dtypes and all(is_non_negative(value) for value in values)
        dtype = U8 if unsigned else next(each for each in dtypes if each is not U8)
        tiny = float(np.finfo(np.float32).tiny)
        steps[number] = (dtype, np.float32(max(widest / LARGEST[dtype], tiny)))
    return steps


def _quantize_tensor(graph: Graph, value: Value, dtype: DType, scale: np.float32) -> None:
    """Put a pair of QuantizeLinear and DequantizeLinear between `value` and its readers."""
    readers = [(node, index) for node, index in value.uses if node.graph is graph]
    step, zero = graph.constant(np.array(scale)), graph.constant(np.zeros((), dtype.numpy))
    integers = graph.new_value(dtype, value.shape, value.name)
    result = graph.new_value(F32, value.shape, value.name)
    source = value.producer.source if value.producer is not None else Source()
    pair = (
        Node(QUANTIZE, [value, step, zero], [integers], dict(DECLARED[QUANTIZE]), source),
        Node(DEQUANTIZE, [integers, step, zero], [result], dict(DECLARED[DEQUANTIZE]), source),
    )
    place = value.producer
    if place is None or place.graph is not graph:
        first = next(iter(graph))
        for node in pair:
            graph.insert_before(first, node)
    else:
        for node in reversed(pair):
            graph.insert_after(place, node)
    for node, index in readers:
        node.replace_input(index, result)


def _quantize_weights(graph: Graph, node: Node, dtype: DType) -> None:
    weight = node.present_inputs[1]
    rounded, scale, axis = quantized_weights(node, dtype)
    integers = graph.constant(rounded, graph.fresh_name(weight.name))
    operands = [integers, graph.constant(scale)]
    node.replace_input(1, emit(graph, node, DEQUANTIZE, operands, {"axis": axis}))


def quantized_weights(node: Node, dtype: DType = I8) -> tuple[Array, Array, int]:
    """Return the weights of a product as i8 or f8e4m3, their float32 scales, the scales' axis."""
    weight = node.present_inputs[1]
    axis = output_axis(node, weight.rank)
    array = weight.array.astype(np.float32, copy=False)
    others = tuple(each for each in range(array.ndim) if each != axis)
    largest = np.maximum(array.max(axis=others), -array.min(axis=others))
    limit = np.float32(LARGEST[dtype])
    scale = np.where(largest > 0, largest / limit, np.float32(1)).astype(np.float32)
    scaled = array / spread(scale, array.shape, axis)
    if dtype.is_integer:
        np.rint(scaled, out=scaled)
    return np.clip(scaled, -limit, limit, out=scaled).astype(dtype.numpy), scale, axis
