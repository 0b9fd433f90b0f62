from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from planish.cli.compare import difference
from planish.config import BuildConfig
from planish.errors import ConfigError
from tests import small_models
from tests.cli.command import call, call_json
from tests.conftest import DIGITS

A = np.array([1.0, -2.0, 4.0], np.float32)


@pytest.mark.parametrize("against", ["onnxruntime", "openvino", "reference"])
def test_engine_agrees_with_others(digits_plan: Path, against: str) -> None:
    if against != "reference":
        pytest.importorskip(against)
    data = call_json("compare", DIGITS, "--engine", digits_plan, "--against", against)
    assert data["against"] == against
    (row,) = data["outputs"]
    assert row["ok"]
    assert 0 <= row["mean_error"] <= row["max_error"] < 1e-4
    assert row["largest"] > 1


def test_difference_is_exit_code_1(tmp_path: Path, digits_plan: Path) -> None:
    text = call("compare", DIGITS, "--engine", digits_plan, "--against", "reference",
                "--tolerance", "0", code=1)  # fmt: skip
    assert "DIFFERS" in text
    proto = onnx.load(DIGITS)
    weights = onnx.numpy_helper.to_array(proto.graph.initializer[0]) * 1.01
    proto.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(weights, proto.graph.initializer[0].name)
    )
    onnx.save(proto, tmp_path / "changed.onnx")
    call("compare", tmp_path / "changed.onnx", "--engine", digits_plan, "--against", "reference",
         code=1)  # fmt: skip


def test_model_with_dynamic_shapes_in_bf16(tmp_path: Path) -> None:
    onnx.save(small_models.transformer(), tmp_path / "t.onnx")
    data = call_json("compare", tmp_path / "t.onnx", "--profile", "ids=1x1:2x5:2x8",
                     "--precision", "bf16", "--against", "reference")  # fmt: skip
    assert data["tolerance"] == 5e-2
    assert data["outputs"][0]["max_error"] > 1e-4  # it did run in bf16


@pytest.mark.parametrize(
    ("got", "want", "ok"),
    [
        (A, A, True),
        (A, A + np.float32(1e-3), True),
        (A, A + np.float32(1), False),
        (A, A.astype(np.float64), False),
        (A, A[:2], False),
        (np.array([np.nan, np.inf]), np.array([np.nan, np.inf]), True),
        (np.array([np.nan]), np.array([1.0]), False),
        (np.array([np.inf]), np.array([-np.inf]), False),
        (np.array([1.0]), np.array([np.nan]), False),
        (np.array([3], np.uint8), np.array([3], np.uint8), True),
        (np.array([3], np.uint8), np.array([5], np.uint8), False),
        (np.array(["a"], object), np.array(["a"], object), True),
        (np.array(["a"], object), np.array(["b"], object), False),
        (np.array([1 + 1j]), np.array([1 + 1j]), True),
        (np.zeros((0, 3)), np.zeros((0, 3)), True),
    ],
)
def test_difference(got: Any, want: Any, ok: bool) -> None:
    assert difference("y", got, want, 1e-3)["ok"] is ok


def test_error_is_relative_to_the_largest_value_but_at_least_to_1() -> None:
    big, small = np.array([1000.0, 0.0]), np.array([1e-3, 0.0])
    assert difference("y", big + 0.5, big, 1e-3)["ok"]
    assert not difference("y", big + 1.5, big, 1e-3)["ok"]
    assert difference("y", small + 0.5e-3, small, 1e-3)["ok"]


def test_unknown_runtime(digits_plan: Path) -> None:
    call("compare", DIGITS, "--engine", digits_plan, "--against", "tensorrt", code=2)


def test_invalid_precision() -> None:
    call("compare", DIGITS, "--precision", "fp4", code=2)
    with pytest.raises(ConfigError):
        BuildConfig(precision="fp4")


def test_a_saved_model_against_tensorflow() -> None:
    pytest.importorskip("tensorflow")
    model = Path(__file__).parents[1] / "importers" / "saved_models" / "tf221" / "control"
    data = call_json("compare", model)
    assert data["against"] == "tensorflow"
    assert [row["output"] for row in data["outputs"]] == ["branch", "case", "loop"]
    call("compare", DIGITS, "--against", "tensorflow", code=2)
