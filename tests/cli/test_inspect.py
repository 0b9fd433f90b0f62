from __future__ import annotations

from pathlib import Path

import onnx

from planish.ir.text import parse_text
from planish.runtime.engine import Engine
from tests import small_models
from tests.cli.command import call, call_json
from tests.conftest import DIGITS
from tests.quantize.random_quantized import QuantizedModel

SAVED_MODELS = Path(__file__).parents[1] / "importers" / "saved_models" / "tf221"


def test_model(tmp_path: Path) -> None:
    onnx.save(small_models.convolutions(), tmp_path / "m.onnx")
    data = call_json("inspect", tmp_path / "m.onnx")
    assert data["layers_before"]["Conv"] == 4
    assert data["layers_before"]["Relu"] == 2
    assert data["layers_after"]["region Conv"] == 4
    assert "Relu" not in data["layers_after"]
    assert data["regions"] < sum(data["layers_before"].values())
    passes = {entry["name"]: entry for entry in data["passes"]}
    assert passes["fuse_regions"]["before"] > passes["fuse_regions"]["after"]
    assert passes["fuse_regions"]["counts"]["operations fused into Conv"] == 3
    text = call("inspect", tmp_path / "m.onnx")
    for words in ("vertical fusion", "horizontal fusion", "tensor fusion", "layers as imported"):
        assert words in text


def test_graph_of_a_model(tmp_path: Path) -> None:
    onnx.save(small_models.convolutions(), tmp_path / "m.onnx")
    graph = parse_text(call("inspect", tmp_path / "m.onnx", "--graph"))
    assert any(node.op == "Region" for node in graph)


def test_a_saved_model() -> None:
    data = call_json("inspect", SAVED_MODELS / "counter", "--signature", "quiet")
    assert data["layers_before"] == {"Mul": 1}
    data = call_json("inspect", SAVED_MODELS / "two_tag_sets", "--tags", "gpu,train")
    assert data["layers_before"] == {"Add": 1, "Mul": 1}
    call("inspect", SAVED_MODELS / "counter", "--signature", "none", code=2)


def test_engine(digits_plan: Path, digits_engine: Engine) -> None:
    data = call_json("inspect", digits_plan)
    assert data["inputs"] == [{"name": "image", "dtype": "f32", "shape": ["batch", 1, 8, 8]}]
    assert data["outputs"] == [{"name": "scores", "dtype": "f32", "shape": ["batch", 10]}]
    assert data["ranges"] == {"batch": [1, 1, 32]}
    memory = data["memory"]
    assert memory["largest_live_set"] <= memory["arena"] < memory["sum_of_tensors"]
    tactics = {layer["tactic"] for layer in data["report"]["layers"]}
    text = call("inspect", digits_plan)
    for words in (
        *tactics,
        "largest live set",
        "sum of all tensors",
        "arena",
        "input   image: f32",
    ):
        assert words in text
    for layer in digits_engine.report.layers:
        assert layer.name in text


def test_graph_and_source_of_an_engine(digits_plan: Path, digits_engine: Engine) -> None:
    assert call("inspect", digits_plan, "--graph") == digits_engine.graph_text.rstrip() + "\n"
    assert call("inspect", digits_plan, "--source") == digits_engine.source.rstrip() + "\n"
    assert call_json("inspect", digits_plan, "--source") == {"source": digits_engine.source}


def test_source_of_a_model(tmp_path: Path) -> None:
    onnx.save(small_models.convolutions(), tmp_path / "m.onnx")
    assert "static void" in call("inspect", tmp_path / "m.onnx", "--source")


def test_one_region(digits_plan: Path, digits_engine: Engine) -> None:
    name = digits_engine.report.layers[1].name
    text = call("inspect", digits_plan, "--region", name)
    assert name in text
    assert "refused" in text
    call("inspect", digits_plan, "--region", "conv", code=2)  # several
    call("inspect", digits_plan, "--region", "nothing", code=2)


def test_quantization_of_a_model(tmp_path: Path, digits_plan: Path) -> None:
    onnx.save(QuantizedModel(3, layers=4).proto, tmp_path / "q.onnx")
    text = call("inspect", tmp_path / "q.onnx", "--quantization")
    assert "convolutions and matrix products run on integers" in text.splitlines()[0]
    data = call_json("inspect", tmp_path / "q.onnx", "--quantization")
    assert data["integers"] + data["floats"] > 0
    call("inspect", digits_plan, "--quantization", code=2)


def test_missing_profile(tmp_path: Path) -> None:
    onnx.save(small_models.transformer(), tmp_path / "t.onnx")
    call("inspect", tmp_path / "t.onnx", code=2)
    call("inspect", tmp_path / "t.onnx", "--profile", "ids=1x1:2x5:2x8")


def test_inspect_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "digits.onnx").write_bytes(DIGITS.read_bytes())
    call("inspect", tmp_path / "digits.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["digits.onnx"]
