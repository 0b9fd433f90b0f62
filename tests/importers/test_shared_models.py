"""Real models through the importer and the interpreter, against their recorded outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from planish.config import BuildConfig, Profile
from planish.importers.importer import read_model
from planish.ir.text import parse_text, to_text
from planish.ops.interpreter import run_graph
from planish.passes.pipeline import optimize
from tests.importers.models import read

ROOT = Path(__file__).parents[3] / "shared" / "models"
RECORDS = sorted(ROOT.glob("**/*.onnx*.npz"))
SAVED_MODELS = sorted(ROOT.glob("**/*savedmodel.io.npz"))
TOLERANCE = 5e-4  # of the largest recorded magnitude, as tools/real_models.py uses


def model_of(record: Path) -> Path:
    return record.with_name(record.name.split(".onnx")[0] + ".onnx")


@pytest.mark.skipif(not RECORDS, reason="the shared models are not beside this checkout")
@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.name.split(".npz")[0])
def test_recorded_outputs(record: Path) -> None:
    graph = read(str(model_of(record)))
    arrays = np.load(record)
    outputs = run_graph(graph, [arrays[f"in:{name}"] for name in graph.input_names])
    one_step = "qdq" in str(record) or "quant" in str(record)
    for name, got in zip(graph.output_names, outputs, strict=True):
        compare(got, arrays[f"out:{name}"], one_step)


def compare(got: np.ndarray, want: np.ndarray, one_step: bool) -> None:
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    if want.dtype.kind in "iub":
        difference = np.abs(got.astype(np.int64) - want.astype(np.int64))
        assert difference.max(initial=0) <= int(one_step)
        return
    limit = TOLERANCE * max(1.0, float(np.abs(want).max(initial=0))) * (100 if one_step else 1)
    assert np.abs(got.astype(np.float64) - want).max(initial=0) <= limit


@pytest.mark.skipif(not SAVED_MODELS, reason="the shared models are not beside this checkout")
@pytest.mark.parametrize("record", SAVED_MODELS, ids=lambda path: path.name.split(".")[0])
def test_recorded_outputs_of_saved_models(record: Path) -> None:
    """Basic Pitch (convolutions over a constant-Q transform) and a keyword spotter."""
    arrays = np.load(record)
    shapes = {key[3:]: arrays[key].shape for key in arrays if key.startswith("in:")}
    profiles = {name: Profile(shape, shape, shape) for name, shape in shapes.items()}
    graph = read_model(record.with_name(record.name.split(".")[0]), profiles=profiles)
    optimize(graph, BuildConfig())
    outputs = run_graph(graph, [arrays[f"in:{name}"] for name in graph.input_names])
    assert sorted(graph.output_names) == sorted(key[4:] for key in arrays if key[:4] == "out:")
    for name, got in zip(graph.output_names, outputs, strict=True):
        compare(got, arrays[f"out:{name}"], one_step=False)


@pytest.mark.skipif(not RECORDS, reason="the shared models are not beside this checkout")
@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.name.split(".npz")[0])
def test_text_round_trips(record: Path) -> None:
    text = to_text(read(str(model_of(record))))
    assert to_text(parse_text(text)) == text
