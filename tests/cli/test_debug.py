"""`planish debug precision`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests import small_models
from tests.cli.command import call, call_json


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model and data."""
    monkeypatch.setenv("PLANISH_CACHE", str(tmp_path / "cache"))
    onnx.save(small_models.convolutions(), tmp_path / "m.onnx")
    data = np.random.default_rng(0).standard_normal((12, 3, 12, 12)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=data)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_layers_are_ranked_printed_and_drawn(folder: Path) -> None:
    found = call_json(
        "debug", "precision", "m.onnx", "--data", "data.npz", "--html", "r.html",
        "--samples", "8",
    )  # fmt: skip
    noises = [entry["signal_to_noise"] for entry in found["layers"]]
    assert noises == sorted(noises)
    assert {entry["name"] for entry in found["layers"]} == {"stem", "block", "left", "right"}
    assert found["samples"] == 8
    assert (folder / "r.html").read_text().count("<svg") == 5
    text = call("debug", "precision", "m.onnx", "--data", "data.npz", "--calibrator", "minmax")
    assert "all of them" in text
    assert "stem" in text


def test_wrong_options_end_with_a_message(folder: Path) -> None:
    wanted = ("debug", "precision", "m.onnx", "--data", "data.npz")
    call(*wanted, "--precision", "fp32", code=2)
    call(*wanted, "--html", "missing/r.html", code=2)
    call(*wanted, "--calibrator", "best", code=2)
    call(*wanted, "--samples", "0", code=2)
