"""Adapters for the tools that judge from outside: the numpy interpreter, and whole builds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import planish
from planish.config import BuildConfig, Profile
from planish.importers.importer import read_model
from planish.ops.interpreter import run_graph
from planish.runtime.engine import Engine


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


def build(path: str) -> Any:
    """Return a function that builds an engine for its first inputs' shapes, for real_models.py."""
    engines: list[Engine] = []

    def call(inputs: Mapping[str, Any]) -> dict[str, Any]:
        if not engines:
            profiles = {name: Profile(*[array.shape] * 3) for name, array in inputs.items()}
            config = BuildConfig(tune="off", profiles=profiles)
            engines.append(planish.build(path, config))
        return engines[0].run(inputs)

    return call
