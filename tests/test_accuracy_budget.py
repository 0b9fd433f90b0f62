"""Whole builds within a budget of accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import planish
from planish.accuracy_bench import AccuracyBench
from planish.config import BuildConfig, Progress
from planish.errors import ConfigError
from tests import small_models

Array = np.ndarray[Any, Any]

DATA = np.random.default_rng(1).standard_normal((24, 64)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep compiled objects: most tests build the same mixes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANISH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def chain(wide: float = 1000.0) -> onnx.ModelProto:
    """Four products; a column of the third one's data is `wide` times the others."""
    generator = np.random.default_rng(3)
    w = {f"w{i}": generator.standard_normal((64, 64)).astype(np.float32) / 8 for i in range(5)}
    w["w1"][:, 5] *= wide
    w["w2"][5, :] /= wide
    names = ["x", "a", "b", "c", "d", "y"]
    nodes = [
        helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], name=f"layer[{i}]*")
        for i in range(5)
    ]
    return small_models.model(nodes, {"x": ["N", 64]}, {"y": ["N", 64]}, w)


def build(precision: str = "int8", **options: Any) -> planish.Engine:
    limit = {"metric": "snr", "worst": 25.0} | options.pop("budget", {})
    budget = planish.Budget(options.pop("data", DATA), **limit)
    config = BuildConfig(
        precision=precision, accuracy=budget, threads=1, tune="off",
        calibrator=planish.MinMaxCalibrator([DATA]), **options,
    )  # fmt: skip
    return planish.build(chain(), config)


def noise(engine: planish.Engine) -> float:
    (want,) = small_models.expected(chain(), {"x": DATA}).values()
    got = engine.run({"x": DATA})["y"]
    return float(10 * np.log10((want.astype(float) ** 2).sum() / ((want - got) ** 2).sum()))


def test_the_layer_to_blame_is_kept_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    # made up: so small a model is no faster on integers
    times = iter(range(100, 0, -1))
    monkeypatch.setattr(
        "planish.quantize.precision_search.PrecisionSearch._milliseconds",
        lambda *_: float(next(times)) * 1e-9,
    )
    engine = build()
    report = engine.report.accuracy
    assert report is not None
    assert [layer.name for layer in report.kept] == ["layer[2]*"]
    assert report.trials[1].name == "int8"
    assert not report.trials[1].accepted
    assert report.layers == 4  # the last layer stays floating point anyway
    kinds = {name: region.precision for region in engine.report.layers for name in region.products}
    assert [kinds[f"layer[{i}]*"] for i in range(5)] == ["int8", "int8", "f32", "int8", "f32"]
    assert report.after == pytest.approx(noise(engine), abs=0.01)
    assert report.after >= 25
    assert report.before == np.inf
    text, page = engine.report.to_text(), engine.report.to_html()
    assert "layer[2]* is kept in fp32" in text
    assert "<h2>Accuracy</h2>" in page
    assert page.count("<circle") == len(report.trials)
    again = planish.load(engine.to_bytes())
    assert again.report.accuracy == report
    assert again.report.calibrator == "MinMaxCalibration, 1 batches"


def test_an_engine_within_any_budget_is_float32() -> None:
    engine = build(budget={"metric": "max_error", "worst": None, "max_drop": 0.0})
    assert {layer.precision for layer in engine.report.layers} == {"f32"}
    assert engine.report.accuracy is not None
    assert engine.report.accuracy.chosen == "float32"
    assert noise(engine) > 100


def test_sixteen_bits_have_a_budget_too() -> None:
    engine = build("bf16", budget={"worst": 200.0})
    report = engine.report.accuracy
    assert report is not None
    assert report.trials[1].name == "bf16"
    assert 30 < report.trials[1].metric < 70
    assert {layer.precision for layer in engine.report.layers} == {"f32"}


def test_without_a_calibrator_the_data_of_the_budget_calibrate() -> None:
    seen: list[Progress] = []
    budget = planish.Budget([DATA], max_drop=0.1)
    config = BuildConfig(
        precision="int8", accuracy=budget, threads=1, tune="off", progress=seen.append
    )
    engine = planish.build(chain(wide=1.0), config)
    assert engine.report.accuracy is not None
    assert engine.report.accuracy.trials[1].accepted
    details = {progress.detail for progress in seen}
    assert any(detail.startswith("float32") for detail in details)
    assert any(detail.startswith("int8: calibrating") for detail in details)


def test_errors_come_before_or_with_the_first_engine() -> None:
    with pytest.raises(ConfigError, match="float32 itself"):
        build(budget={"metric": lambda *_: 0.25, "worst": 0.3})
    with pytest.raises(ConfigError, match="no data"):
        build(data=[])
    with pytest.raises(ConfigError, match="no layer or tensor is called 'absent'"):
        build(layer_precisions={"absent": "fp32"})


def test_layers_that_are_raised_overrule_what_the_user_lowers() -> None:
    asked = {"layer[[]2]*": "int8", "*": "int8"}
    data = planish.Budget(DATA, max_drop=1)
    config = BuildConfig(
        precision="int8", accuracy=data, layer_precisions=asked, weights="int8",
        calibrator=planish.MinMaxCalibrator([DATA]),
    )  # fmt: skip
    seen: list[BuildConfig] = []

    def build(config: BuildConfig, ranges: object) -> Any:
        seen.append(config)
        return None, SimpleNamespace(ranges=None)

    bench = AccuracyBench(config, build, lambda *_: ())
    bench.parts("int8", {"layer[[]2]*": "fp32"}, tune=False)
    bench.parts("fp32", {}, tune=False)
    assert list(seen[0].layer_precisions.items()) == [("*", "int8"), ("layer[[]2]*", "fp32")]
    assert (seen[0].tune, seen[0].accuracy) == ("cache", None)
    assert seen[1].layer_precisions == {}
    assert (seen[1].calibrator, seen[1].weights) == (None, None)
    assert seen[0].weights == config.weights
