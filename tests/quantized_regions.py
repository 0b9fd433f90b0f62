"""Regions in the normal form of quantized computing, for tests of passes and of kernels.

`quantized_regions` takes them out of a model as a build does. `quantized_product` builds one from
random numbers: dequantize, convolution or matrix product, bias, residual, activation, quantize.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from planish.backends.backend import backend_for
from planish.config import BuildConfig
from planish.importers.importer import read_model
from planish.ir.dtypes import I8, DType
from planish.ir.graph import Graph, Node, Value
from planish.ops.infer import infer_node
from planish.passes.building import emit
from planish.passes.pipeline import optimize
from planish.passes.quantized import is_quantized_product
from planish.tactics.region import region_of, regions_of
from planish.tactics.tactic import Region

Array = np.ndarray[Any, Any]


def quantized_graph(model: str | Path | bytes | onnx.ModelProto) -> Graph:
    """Return the graph of `model` after all passes of a build, laid out and ready for kernels."""
    graph = read_model(model, profiles={})
    optimize(graph, BuildConfig(), backend_for("cpu").prints)
    return graph


def quantized_regions(model: str | Path | bytes | onnx.ModelProto) -> list[Region]:
    """Return the regions of `model` whose anchor is a product of integers."""
    graph = quantized_graph(model)
    symbols = tuple(sorted(graph.ranges))
    found = [region_of(node, symbols, graph.ranges) for node in regions_of(graph)]
    return [region for region in found if has_quantized_product(region.body)]


def has_quantized_product(body: Graph) -> bool:
    """Whether a node of `body` is a product of integers."""
    return any(is_quantized_product(node) for node in body)


def quantized_product(
    op: str,
    data: tuple[int, ...],
    weights: tuple[int, ...],
    *,
    dtypes: tuple[DType, DType, DType | None] = (I8, I8, I8),
    zeros: tuple[int, int, int] = (0, 0, 0),
    per_channel: bool = True,
    bias: bool = True,
    residual: DType | None = None,
    activation: str = "",
    attributes: dict[str, Any] | None = None,
    seed: int = 0,
) -> Graph:
    """Return the body of a quantized product's region.

    Parameters
    ----------
    op : str
        "Conv", "ConvTranspose" or "MatMul".
    data, weights : tuple of int
        Shapes.
    dtypes : tuple
        Of data, weights and result; None for a float32 result.
    zeros : tuple of int
        Zero points of data, weights and result.
    per_channel : bool
        Whether each output channel has a scale of its own.
    residual : DType or None
        Type of a quantized tensor that is added before the activation; its zero point is 3.
    activation : str
        Operator between sum and result, "" for none.
    attributes : dict, optional
        Of the convolution.
    """
    generator = np.random.default_rng(seed)
    graph = Graph("region")
    x = graph.add_input("x", dtypes[0], data)
    end = graph.append(Node("Identity", [x], [graph.new_value(dtypes[0], data)], {}))

    def number(value: float, dtype: Any = np.float32) -> Value:
        return graph.constant(np.array(value, dtype))

    def real(q: Value, scale: Value, zero: int, axis: int = 0) -> Value:
        kind = q.dtype.numpy
        point = graph.constant(np.full(scale.array.shape, zero, kind))
        return emit(graph, end, "DequantizeLinear", [q, scale, point], {"axis": axis})

    axis = {"Conv": 0, "ConvTranspose": 1, "MatMul": len(weights) - 1}[op]
    w = graph.constant(_random(generator, weights, dtypes[1]))
    scales = generator.uniform(0.002, 0.01, weights[axis]).astype(np.float32)
    scale = graph.constant(scales) if per_channel else number(0.004)
    operands = [real(x, number(0.03), zeros[0]), real(w, scale, zeros[1], axis)]
    addend = generator.normal(0, 1, weights[axis]).astype(np.float32) if bias else None
    if addend is not None and op != "MatMul":
        operands.append(graph.constant(addend))
    result = emit(graph, end, op, operands, attributes)
    if addend is not None and op == "MatMul":
        result = emit(graph, end, "Add", [result, graph.constant(addend)])
    if residual is not None:
        other = graph.add_input("residual", residual, result.known_shape)
        result = emit(graph, end, "Add", [result, real(other, number(0.02), 3)])
    if activation:
        result = emit(graph, end, activation, [result])
    if dtypes[2] is not None:
        point = number(zeros[2], dtypes[2].numpy)
        result = emit(graph, end, "QuantizeLinear", [result, number(0.05), point])
    graph.remove(end)
    graph.add_output(result, "y")
    for node in graph:
        infer_node(node)
    return graph


def random_data(graph: Graph, seed: int = 0) -> Iterator[Array]:
    """Yield random contents of the inputs of a graph from `quantized_product`."""
    generator = np.random.default_rng(seed)
    for value in graph.inputs:
        shape = tuple(dim for dim in value.known_shape if isinstance(dim, int))
        yield _random(generator, shape, value.dtype)


def _random(generator: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Array:
    limits = np.iinfo(dtype.numpy)
    return generator.integers(limits.min, limits.max + 1, shape).astype(dtype.numpy)
