"""Every rule for a TensorFlow operation against TensorFlow's own results."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from planish.importers.savedmodel import read_tensorflow
from planish.importers.tensorflow import read_graph_def
from planish.ops.interpreter import run_graph
from tests.importers.savedmodel_cases import CASES, RECORDED, Case, graph_of, results_of


@cache
def _recorded() -> Any:
    return np.load(RECORDED)


def _check(each: Case, graph: bytes, outputs: list[str], expected: list[np.ndarray]) -> None:
    imported = read_tensorflow(read_graph_def(graph, each.names, outputs))
    results = run_graph(imported, list(each.inputs))
    assert len(results) == len(expected)
    for value, result, wanted in zip(imported.outputs, results, expected, strict=True):
        assert result.dtype == wanted.dtype
        assert result.shape == wanted.shape
        assert value.shape is not None
        assert len(value.shape) == wanted.ndim
        np.testing.assert_allclose(
            result.astype(np.float64) if wanted.dtype != object else result,
            wanted,
            rtol=each.tolerance,
            atol=each.tolerance,
        )


@pytest.mark.parametrize("each", CASES, ids=lambda each: each.name)
def test_rule_gives_the_recorded_results(each: Case) -> None:
    recorded = _recorded()
    outputs = recorded[f"{each.name}/outputs"].tolist()
    expected = [recorded[f"{each.name}/{index}"] for index in range(len(outputs))]
    _check(each, recorded[f"{each.name}/graph"].tobytes(), outputs, expected)


@pytest.mark.slow
@pytest.mark.parametrize("each", CASES, ids=lambda each: each.name)
def test_rule_gives_the_results_of_the_installed_tensorflow(each: Case) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    graph, outputs = graph_of(each, tensorflow)
    _check(each, graph, outputs, results_of(graph, outputs, each, tensorflow))
