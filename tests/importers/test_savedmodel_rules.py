"""Every rule for a TensorFlow operation against TensorFlow's own results."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest

from planish.config import BuildConfig
from planish.importers.savedmodel import read_tensorflow
from planish.importers.tensorflow import read_graph_def
from planish.ir.graph import Graph
from planish.ir.verify import verify
from planish.ops.interpreter import run_graph
from planish.passes.pipeline import optimize
from tests.importers.savedmodel_case import CASES, Case
from tests.importers.savedmodel_cases import RECORDED, graph_of, results_of

NETWORKS = [each for each in CASES if each.name.startswith("network_")]


@cache
def _recorded() -> Any:
    return np.load(RECORDED)


def _imported(each: Case) -> tuple[Graph, list[np.ndarray]]:
    """Return the recorded graph of a case, and its results."""
    recorded = _recorded()
    outputs = recorded[f"{each.name}/outputs"].tolist()
    graph = read_graph_def(recorded[f"{each.name}/graph"].tobytes(), each.names, outputs)
    expected = [recorded[f"{each.name}/{index}"] for index in range(len(outputs))]
    return read_tensorflow(graph), expected


def _check(each: Case, imported: Graph, expected: list[np.ndarray]) -> None:
    results = run_graph(imported, list(each.inputs))
    assert len(results) == len(expected)
    for value, result, wanted in zip(imported.outputs, results, expected, strict=True):
        assert result.dtype == wanted.dtype
        assert result.shape == wanted.shape
        assert value.shape is not None
        assert len(value.shape) == wanted.ndim
        np.testing.assert_allclose(
            result.astype(np.float64), wanted, rtol=each.tolerance, atol=each.tolerance
        )


@pytest.mark.parametrize("each", CASES, ids=lambda each: each.name)
def test_rule_gives_the_recorded_results(each: Case) -> None:
    imported, expected = _imported(each)
    verify(imported)
    assert {node.source.framework for node in imported} <= {"tensorflow"}
    _check(each, imported, expected)


@pytest.mark.parametrize("each", CASES, ids=lambda each: each.name)
def test_passes_keep_the_results(each: Case) -> None:
    imported, expected = _imported(each)
    optimize(imported, BuildConfig())
    _check(each, imported, expected)


@pytest.mark.slow
@pytest.mark.parametrize("each", CASES, ids=lambda each: each.name)
def test_rule_gives_the_results_of_the_installed_tensorflow(each: Case) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    graph, outputs = graph_of(each, tensorflow)
    imported = read_tensorflow(read_graph_def(graph, each.names, outputs))
    _check(each, imported, results_of(graph, outputs, each, tensorflow))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "network_image",
            {"Conv": 6, "MaxPool": 1, "ReduceMean": 2, "Softmax": 1, "pointwise": 2},
        ),
        ("network_encoder", {"Attention": 1, "LayerNormalization": 2, "MatMul": 4}),
        ("network_signal", {"Conv": 2, "ReduceMax": 1, "pointwise": 1}),
    ],
)
def test_blocks_become_the_regions_that_onnx_models_have(
    name: str, expected: dict[str, int]
) -> None:
    """A halo's copy of the input and the gate of squeeze and excitation are pointwise."""
    imported, _ = _imported(next(each for each in NETWORKS if each.name == name))
    optimize(imported, BuildConfig())
    kinds = Counter(node.attributes["kind"] for node in imported if node.op == "Region")
    assert dict(kinds) == expected
