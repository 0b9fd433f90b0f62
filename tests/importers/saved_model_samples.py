"""The SavedModels and frozen graphs of saved_models/, and what TensorFlow computed with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from planish.config import Profile
from planish.importers.importer import read_model
from planish.ops.interpreter import run_graph

FOLDER = Path(__file__).parent / "saved_models"
RECORDED = sorted(FOLDER.glob("*/*.npz"))

Arrays = dict[str, Any]


def label(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


def model_of(recorded: Path) -> Path:
    folder = recorded.with_suffix("")
    return folder if folder.is_dir() else folder.with_suffix(".pb")


def arrays_of(recorded: Path) -> tuple[Arrays, Arrays]:
    """Return inputs and outputs."""
    with np.load(recorded) as data:
        inputs = {key[3:]: data[key] for key in data.files if key.startswith("in:")}
        outputs = {key[4:]: data[key] for key in data.files if key.startswith("out:")}
    return inputs, outputs


def run(model: Path, inputs: Arrays, signature: str | None = None) -> Arrays:
    """Return what the imported model computes, by the numpy reference."""
    shapes = {name: Profile(x.shape, x.shape, x.shape) for name, x in inputs.items()}
    graph = read_model(model, shapes, signature)
    results = run_graph(graph, [inputs[name] for name in graph.input_names])
    return dict(zip(graph.output_names, results, strict=True))


def check(got: Arrays, want: Arrays, tolerance: float = 1e-5) -> None:
    """Compare outputs; the tolerance is of the largest value."""
    assert sorted(got) == sorted(want)
    for name, array in want.items():
        assert got[name].dtype == array.dtype
        assert got[name].shape == array.shape
        limit = tolerance * max(1.0, float(np.abs(array).max(initial=0)))
        np.testing.assert_allclose(got[name], array, rtol=0, atol=limit)
