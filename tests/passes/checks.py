"""Shared by the tests of passes: random inputs for a graph, and comparison through numpy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from planish.ir.graph import Graph, Value
from planish.ir.shape import evaluate
from planish.ops.infer import graph_from_text
from planish.ops.interpreter import run_graph
from planish.ops.tolerance import mismatch, tolerance_of

Array = np.ndarray[Any, Any]


def random_inputs(graph: Graph, seed: int = 0, point: int = 1) -> list[Array]:
    """Return one array an input; symbols take the optimum of their range (`point` 1)."""
    generator = np.random.default_rng(seed)
    extents = {name: limits[point] for name, limits in graph.ranges.items()}
    return [_array(value, extents, generator) for value in graph.inputs]


def _array(value: Value, extents: dict[str, int], generator: np.random.Generator) -> Array:
    shape = [evaluate(dim, extents) for dim in value.known_shape]
    if value.dtype.kind == "bool":
        return generator.random(shape) > 0.5
    if value.dtype.is_integer:
        return generator.integers(0, 5, shape).astype(value.dtype.numpy)
    return generator.standard_normal(shape).astype(value.dtype.numpy)


def assert_equal_results(expected: Sequence[Array], graph: Graph, inputs: Sequence[Array]) -> None:
    """Run `graph` and compare with `expected` within the dtype's tolerance."""
    results = run_graph(graph, inputs)
    for want, got, value in zip(expected, results, graph.outputs, strict=True):
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        difference = mismatch(got, want, tolerance_of(value.dtype))
        assert difference is None, difference


def parse(text: str) -> Graph:
    """Return the typed graph of a test's text (indentation does not matter)."""
    return graph_from_text(re.sub(r"\n\s+", "\n", text.strip()))
