from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import planish
from tests import small_models
from tests.cli.command import call, call_json
from tests.conftest import DIGITS


def test_builds_beside_the_model_by_default(tmp_path: Path) -> None:
    model = tmp_path / "digits.onnx"
    model.write_bytes(DIGITS.read_bytes())
    text = call("build", model, "--tune", "off")
    assert f"wrote {tmp_path / 'digits.plan'}" in text
    assert "layers before and after each kind of fusion" in text
    engine = planish.load(tmp_path / "digits.plan")
    assert engine(np.zeros((1, 1, 8, 8), np.float32)).shape == (1, 10)


def test_json_and_options(tmp_path: Path) -> None:
    onnx.save(small_models.transformer(), tmp_path / "t.onnx")
    path = tmp_path / "t.plan"
    data = call_json(
        "build", tmp_path / "t.onnx", "-o", path, "--tune", "off", "--precision", "bf16",
        "--profile", "ids=1x4:2x8:3x16", "--threads", "1", "--workspace-limit", "100000000",
    )  # fmt: skip
    assert data["engine"] == str(path)
    assert data["bytes"] == path.stat().st_size
    assert data["report"]["precision"] == "bf16"
    engine = planish.load(path)
    assert engine.ranges == {"N": (1, 2, 3), "S": (4, 8, 16)}
    assert engine.threads == 1


def test_reports(tmp_path: Path) -> None:
    path = tmp_path / "x.plan"
    for name, start in (("r.html", "<!doctype html>"), ("r.json", "{"), ("r.txt", "digits.onnx: ")):
        call("build", DIGITS, "-o", path, "--tune", "off", "--report", tmp_path / name)
        assert (tmp_path / name).read_text().startswith(start)
    assert json.loads((tmp_path / "r.json").read_text())["tuned"] == "off"
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "r.html",
        "r.json",
        "r.txt",
        "x.plan",
    ]


def test_tuning_with_a_cache(tmp_path: Path) -> None:
    cache, path = tmp_path / "timing.json", tmp_path / "x.plan"
    options = ("-o", path, "--timing-cache", cache, "--time-budget", "3")
    data = call_json("build", DIGITS, *options)
    assert data["report"]["tuned"].startswith("measure")
    assert json.loads(cache.read_text())["entries"]
    data = call_json("build", DIGITS, *options, "--tune", "cache")
    assert data["report"]["tuned"] == "cache"


def test_a_saved_model(tmp_path: Path) -> None:
    model = Path(__file__).parents[1] / "importers" / "saved_models" / "tf221" / "counter"
    call("build", model, "-o", tmp_path / "m.plan", "--signature", "quiet", "--tune", "off")
    assert [info.name for info in planish.load(tmp_path / "m.plan").inputs] == ["x"]
    call("build", model, "-o", tmp_path / "n.plan", code=2)


def test_a_budget_of_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANISH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    onnx.save(small_models.convolutions(), "m.onnx")
    data = np.random.default_rng(0).standard_normal((6, 3, 12, 12)).astype(np.float32)
    np.save("data.npy", data)
    (scores,) = small_models.expected(small_models.convolutions(), {"x": data}).values()
    np.savetxt("labels.txt", scores.reshape(6, -1).argmax(1), fmt="%d")
    (tmp_path / "my_metric.py").write_text("def one(outputs, labels): return 1.0")
    options = ("build", "m.onnx", "--precision", "best", "--tune", "off", "--threads", "1")
    found = call_json(*options, "--calibrate", "data.npy", "--labels", "labels.txt",
                      "--max-drop", "100%")["report"]["accuracy"]  # fmt: skip
    assert (found["metric"], found["before"], found["limit"]) == ("top1", 100.0, 0.0)
    assert [trial["name"] for trial in found["trials"]] == ["float32", "best"]
    text = call(*options, "--accuracy-data", "data.npy", "--metric", "my_metric:one", "--worst",
                "1", "--report", "r.html")  # fmt: skip
    assert "accuracy (one on 6 samples): float32 1, this engine 1, allowed at least 1" in text
    assert "<circle" in (tmp_path / "r.html").read_text()
    assert "accuracy (one on 6 samples)" in call("inspect", "m.plan")


@pytest.mark.parametrize(
    "options",
    [
        ("--max-drop", "1"),  # no data
        ("--max-drop", "half", "--calibrate", "data.npy"),
        ("--labels", "labels.txt"),
        ("--metric", "top9", "--max-drop", "1", "--calibrate", "data.npy"),
        ("--metric", "absent:f", "--max-drop", "1", "--calibrate", "data.npy"),
        ("--max-drop", "1", "--labels", "absent.npy", "--calibrate", "data.npy"),
        ("--max-drop", "1", "--worst", "2", "--calibrate", "data.npy"),
    ],
)
def test_wrong_budgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(small_models.convolutions(), "m.onnx")
    np.save("data.npy", np.zeros((2, 3, 12, 12), np.float32))
    (tmp_path / "labels.txt").write_text("0\n1\n")
    call("build", "m.onnx", "--precision", "best", *options, code=2)


def test_weights_in_few_bits(tmp_path: Path) -> None:
    constants = small_models.weights(0, w=(256, 320), v=(320, 256))
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        onnx.helper.make_node("MatMul", ["a", "v"], ["y"], name="last"),
    ]
    model = small_models.model(nodes, {"x": (4, 256)}, {"y": (4, 256)}, constants)
    onnx.save(model, tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((4, 256), np.float32))
    options = ("--tune", "off", "--weights", "int4", "--weight-group", "64")
    gptq = ("--weight-method", "gptq", "--calibrate", tmp_path / "x.npy")
    data = call_json("build", tmp_path / "m.onnx", *options, *gptq)
    found = {
        layer["name"]: (layer["bits"], layer["group"]) for layer in data["report"]["compressed"]
    }
    assert found == {"first": (4, 64), "last": (8, 64)}
    call("build", tmp_path / "m.onnx", "--weight-group", "64", code=2)
    call("build", tmp_path / "m.onnx", "--weights", "int3", code=2)
