"""Recurrent layers of Keras 2 and 3 and TensorFlow's control flow, against recorded outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import planish
from planish.backends.backend import backend_for
from planish.config import BuildConfig, Profile
from planish.importers.savedmodel import read_tensorflow
from planish.importers.tensorflow import read_graph_def, read_saved_model
from planish.ir.graph import Graph, Value
from planish.ir.shape import evaluate
from planish.ops.interpreter import run_graph
from planish.passes.graph_pass import graphs_of
from planish.passes.pipeline import optimize
from tests.importers.loop_models import names, recorded, unpack

# what the loops of a model become; all others keep theirs, or have them unrolled
LAYERS = {
    "lstm": ["LSTM"],
    "lstm_seq": ["LSTM"],
    "lstm_state": ["LSTM"],
    "lstm_dyn": ["LSTM"],
    "lstm_back": ["LSTM"],
    "lstm_stack": ["LSTM", "LSTM"],
    "lstm_hard": ["LSTM"],
    "lstm_nobias": ["LSTM"],
    "lstm_long": ["LSTM"],
    "lstm_tm": ["LSTM"],
    "gru": ["GRU"],
    "gru_seq_dyn": ["GRU"],
    "gru_v1": ["GRU"],
    "rnn": ["RNN"],
    "rnn_dyn": ["RNN"],
    "bi_lstm": ["LSTM", "LSTM"],
    "bi_gru": ["GRU", "GRU"],
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loop_models")
    unpack(folder)
    return folder


def read(path: Path) -> Graph:
    frozen = path.with_suffix(".pb")
    model = read_graph_def(frozen, *_ends(path)) if frozen.exists() else read_saved_model(path)
    profiles = {}
    for given in model.inputs:
        shape = given.shape or ()
        if None in shape:
            low, usual, high = (
                tuple(ends.get(axis, 6) if dim is None else dim for axis, dim in enumerate(shape))
                for ends in ({0: 1, 1: 2}, {0: 3, 1: 11}, {0: 8, 1: 40})
            )
            profiles[given.name] = Profile(low, usual, high)
    return read_tensorflow(model, profiles)


def _ends(path: Path) -> tuple[list[str], list[str]]:
    """Return the names of a frozen graph's inputs and outputs."""
    given, results = recorded(path)[0]
    return list(given), list(results)


def check(graph: Graph, path: Path) -> None:
    """Run the graph on the recorded inputs."""
    for given, expected in recorded(path):
        results = run_graph(graph, [given[name] for name in graph.input_names])
        assert set(graph.output_names) == set(expected)
        for name, result in zip(graph.output_names, results, strict=True):
            assert result.dtype == expected[name].dtype
            assert result.shape == expected[name].shape
            np.testing.assert_allclose(result, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", names())
def test_model_gives_the_recorded_outputs(models: Path, name: str) -> None:
    check(read(models / name), models / name)


@pytest.mark.parametrize(
    "name", [n for n in names() if n.split("/")[1] in LAYERS and "tf1" not in n]
)
def test_recurrent_layers_are_recognised(models: Path, name: str) -> None:
    graph = read(models / name)
    optimize(graph, BuildConfig(), backend_for("cpu").prints)
    kinds = [node.attributes["kind"] for node in graph if node.op == "Region"]
    found = [kind for kind in kinds if kind in ("LSTM", "GRU", "RNN")]
    assert found == LAYERS[name.split("/")[1]]
    assert not any(node.op == "Loop" for node in graph)
    check(graph, models / name)


def test_loops_of_tensorflow_1_become_lstm(models: Path) -> None:
    for name in ("lstm", "lstm_dyn"):
        graph = read(models / "tf1" / name)
        optimize(graph, BuildConfig(), backend_for("cpu").prints)
        assert "LSTM" in [node.attributes.get("kind") for node in graph]


@pytest.mark.parametrize("version", ["keras2", "keras3"])
@pytest.mark.parametrize("name", ["scan", "map_fn", "while_n", "while_data", "early"])
def test_other_loops_become_native(models: Path, version: str, name: str) -> None:
    path = models / version / name
    graph = read(path)
    optimize(graph, BuildConfig(), backend_for("cpu").prints)
    assert [node.op for each in graphs_of(graph) for node in each].count("Loop") == 1
    kinds = [node.attributes["kind"] for node in graph if node.op == "Region"]
    assert not {"Loop", "Scan", "DataDependent"} & set(kinds)
    check(graph, path)


QUICK = ("keras3/lstm_mask", "keras2/bi_lstm", "keras3/decoding")


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in names()
        if not name.startswith("tf1")
    ],
)
def test_engines_give_the_recorded_outputs(models: Path, name: str) -> None:
    graph = read(models / name)
    profiles = {
        value.name: Profile(*(_extents(value, graph, place) for place in range(3)))
        for value in graph.inputs
        if any(not isinstance(dim, int) for dim in value.known_shape)
    }
    config = BuildConfig(tune="off", threads=1, profiles=profiles)
    engine = planish.build(str(models / name), config)
    for given, expected in recorded(models / name):
        results = engine.run(given)
        for key, want in expected.items():
            assert results[key].dtype == want.dtype
            np.testing.assert_allclose(results[key], want, rtol=2e-5, atol=2e-5)


def _extents(value: Value, graph: Graph, place: int) -> tuple[int, ...]:
    """Return the smallest, usual or largest shape of an input."""
    sizes = {name: ends[place] for name, ends in graph.ranges.items()}
    return tuple(evaluate(dim, sizes) for dim in value.known_shape)


def test_what_a_loop_hands_through_is_captured(models: Path) -> None:
    graph = read(models / "keras3" / "lstm")
    (loop,) = [node for node in graph if node.op == "Loop"]
    assert [value is None for value in loop.inputs] == [False, True, False, False]
    assert len(loop.outputs) == 2 + 1  # the states, and what is written


def test_a_growing_list_becomes_a_stacked_output(models: Path) -> None:
    graph = read(models / "keras3" / "ta_dyn")
    (loop,) = [node for node in graph if node.op == "Loop"]
    assert len(loop.outputs) == 1
    assert loop.output.shape == (5, 4)
