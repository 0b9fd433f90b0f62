"""Small ONNX models for importer tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from planish.importers.importer import read_model
from planish.ir.graph import Graph
from planish.ir.verify import verify
from planish.ops.interpreter import run_graph

Array = np.ndarray[Any, Any]
Shapes = Mapping[str, Sequence[int | str | None] | None]


def info(
    name: str, shape: Sequence[int | str | None] | None, dtype: int = TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Shapes,
    outputs: Sequence[str],
    weights: Mapping[str, Array] | None = None,
    opset: int = 17,
    **more: Any,
) -> onnx.ModelProto:
    """Return a model with float inputs; outputs are declared without a type."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [info(name, shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    more.setdefault("opset_imports", [helper.make_opsetid("", opset)])
    return helper.make_model(graph, ir_version=8, **more)


def read(proto: onnx.ModelProto | bytes | str, **options: Any) -> Graph:
    """Import and verify."""
    graph = read_model(proto, **options)
    verify(graph)
    return graph


def run(proto: onnx.ModelProto, *arrays: Array) -> list[Array]:
    """Import, verify, and interpret."""
    return run_graph(read(proto), arrays)


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph]
