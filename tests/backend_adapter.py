"""Adapter for the ONNX backend suite: the numpy interpreter behind the importer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from planish.importers.importer import read_model
from planish.ops.interpreter import run_graph


def run(model: Any, inputs: Mapping[str, Any]) -> list[Any]:
    """Import `model` and run it; inputs by name, outputs in order."""
    graph = read_model(model)
    return run_graph(graph, [np.asarray(inputs[name]) for name in graph.input_names])


def load(path: str) -> Any:
    """Return a function from inputs by name to outputs by name, for real_models.py."""
    graph = read_model(path)

    def call(inputs: Mapping[str, Any]) -> dict[str, Any]:
        outputs = run_graph(graph, [inputs[name] for name in graph.input_names])
        return dict(zip(graph.output_names, outputs, strict=True))

    return call
