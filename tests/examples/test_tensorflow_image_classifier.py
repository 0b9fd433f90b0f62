"""The TensorFlow example: its parts (quick), and the script as a user starts it (slow)."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT

tf = pytest.importorskip("tensorflow")
pytest.importorskip("matplotlib")

SCRIPT = ROOT / "examples" / "tensorflow_image_classifier" / "run.py"
MODELS = ["TensorFlow", "FP32", "FP16", "INT8"]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tensorflow_image_classifier", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def brightness(images: Any) -> dict[str, Any]:
    """Stand for a signature: the mean of a picture decides."""
    score = tf.sigmoid(tf.reduce_mean(images, [1, 2, 3]) / 128 - 1)
    return {"scores": tf.stack([score, 1 - score], 1)}


def test_pictures_are_of_both_classes_and_the_same_for_a_seed(example):
    images, labels = example.make_images(8, seed=5)
    assert images.shape == (8, 299, 299, 3)
    assert sorted(labels) == [0] * 4 + [1] * 4
    np.testing.assert_array_equal(images, example.make_images(8, seed=5)[0])
    assert (images != example.make_images(8, seed=6)[0]).mean() > 0.9


def test_predict_reads_png_and_jpeg_of_any_size(example, tmp_path):
    image = np.full((40, 60, 3), 250, np.uint8)
    for path in example.write_samples(tmp_path, np.stack([image, image])):
        label, probability = example.predict(brightness, path)
        assert label == "stripes"
        assert probability == pytest.approx(1 / (1 + np.exp(1 - 250 / 128)), abs=0.01)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jpg", ".png"]


def test_models_that_differ_are_not_timed(example):
    def wrong(images: Any) -> dict[str, Any]:
        return brightness(images + 1)

    same = dict.fromkeys(MODELS, brightness)
    rows = example.compare(same, count=4, rounds=1)
    assert [row["model"] for row in rows] == MODELS
    assert all(row["difference"] == 0 and row["latency_ms"] > 0 for row in rows)
    with pytest.raises(SystemExit, match="FP32: scores are off by 0"):
        example.compare({**same, "FP32": wrong}, count=4, rounds=1)


def test_an_output_folder_is_not_overwritten(example, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="exists already: remove it"):
        example.main()
    assert not any(tmp_path.iterdir())


def test_without_matplotlib_the_message_says_what_to_install(example, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(sys, "argv", ["run.py", "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=re.escape("pip install 'planish[examples]'")):
        example.main()
    assert not (tmp_path / "out").exists()


def check_output(folder: Path, text: str) -> None:
    rows = json.loads((folder / "results.json").read_text())
    assert [row["model"] for row in rows] == MODELS
    for row, tolerance in zip(rows, [0, 1e-4, 0.05, 0.1], strict=True):
        assert row["accuracy"] > 0.9
        assert row["difference"] <= tolerance
        assert re.search(rf"^{row['model']} +{row['accuracy']:.1%} ", text, re.MULTILINE)
    for precision in ("fp32", "fp16", "int8"):
        assert (folder / precision / "saved_model.pb").is_file()
        (engine,) = (folder / precision / "assets").iterdir()
        assert engine.name.startswith("trt-serialized-engine.TRTEngineOp_")
    assert (folder / "results.png").read_bytes().startswith(PNG)
    assert text.count("[*] Total number of TensorRT engines: 1") == 3
    assert text.count("[*] No operation stays outside the engines.") == 3
    assert "int8 (" in text  # regions that really run in it
    assert "contains the following ops: " in text  # saved_model_cli
    said = re.findall(r"^sample_(\d)\.\w+: +(\w+) +says (\w+)", text, re.MULTILINE)
    assert len(said) == 4 * len(MODELS)
    assert len({(sample, label) for sample, _, label in said}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--quick"], []], ids=["quick", "full"])
def test_the_script(options, tmp_path):
    command = [sys.executable, str(SCRIPT), "--output", str(tmp_path / "out"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    check_output(tmp_path / "out", done.stdout)
