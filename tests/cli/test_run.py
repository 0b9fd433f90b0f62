from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest

from planish.cli.run import _storable
from planish.runtime.engine import Engine
from tests import small_models
from tests.cli.command import call, call_json
from tests.conftest import DIGITS

IMAGES = np.load(DIGITS.with_name("held_out.npz"))["images"][:5]


def test_outputs_are_written(tmp_path: Path, digits_plan: Path, digits_engine: Engine) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    text = call("run", digits_plan, "-i", f"image={tmp_path / 'images.npy'}",
                "-o", tmp_path / "out.npz")  # fmt: skip
    written = np.load(tmp_path / "out.npz")
    np.testing.assert_array_equal(written["scores"], digits_engine(IMAGES))
    assert "float32[5, 10]" in text


def test_json(digits_plan: Path) -> None:
    rows = call_json("run", digits_plan)
    assert [(row["name"], row["dtype"], row["shape"]) for row in rows] == [
        ("scores", "float32", [1, 10])
    ]
    assert rows[0]["min"] <= rows[0]["mean"] <= rows[0]["max"]
    assert call_json("run", digits_plan, "--seed", "0") == rows
    assert call_json("run", digits_plan, "--seed", "1") != rows


def test_a_model_is_built_first(tmp_path: Path) -> None:
    onnx.save(small_models.transformer(), tmp_path / "t.onnx")
    rows = call_json("run", tmp_path / "t.onnx", "--profile", "ids=1x1:2x5:2x8")
    assert rows[0]["shape"] == [2, 5, 32]


@pytest.mark.parametrize(
    ("array", "stored"),
    [
        (np.ones(2, ml_dtypes.bfloat16), "float32"),
        (np.array(["a", "bc"], object), "<U2"),
        (np.ones(2, np.int8), "int8"),
    ],
)
def test_every_type_can_be_written(tmp_path: Path, array: np.ndarray, stored: str) -> None:
    np.savez(tmp_path / "x.npz", x=_storable(array))
    read = np.load(tmp_path / "x.npz", allow_pickle=False)["x"]
    assert read.dtype == stored
    assert (read == array.astype(read.dtype)).all()
