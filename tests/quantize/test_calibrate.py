"""Calibration inside of a build: ranges, caches, interruptions, and what can be wrong."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import planish
from planish.config import BuildConfig, Progress
from planish.errors import BuildCancelled, ConfigError, InputError
from planish.importers.importer import read_model
from planish.quantize.cache import CalibrationCache
from planish.quantize.calibrators import Calibrator
from planish.quantize.request import PrecisionRequest, PrecisionWarning
from planish.runtime.engine import Engine
from planish.tactics.target import Target
from tests import small_models

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep compiled objects: most tests calibrate the same model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANISH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def images(count: int = 3, size: int = 4, seed: int = 0) -> list[Array]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal((size, 3, 12, 12)).astype(np.float32) for _ in range(count)]


def ranges_of(calibrator: Calibrator, model: Any = None, **options: Any) -> planish.Ranges:
    config = BuildConfig(precision="int8", calibrator=calibrator, threads=1, **options)
    return planish.calibrate(model or small_models.convolutions(), config)


def build(calibrator: Calibrator | None, model: Any = None, **options: Any) -> Engine:
    # corrections, which test_corrections.py tests, compile three more engines
    options = {"precision": "int8", "tune": "off", "threads": 1, "corrections": False, **options}
    config = BuildConfig(calibrator=calibrator, **options)
    return planish.build(model or small_models.convolutions(), config)


def two_layers(weight: float = 1.0) -> onnx.ModelProto:
    """Two matrix products with a Relu between; the first multiplies by `weight`."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["p"], name="first"),
        node("Relu", ["p"], ["r"], name="relu"),
        node("MatMul", ["r", "w2"], ["y"], name="second"),
    ]
    constants = {
        "w": np.full((16, 16), weight, np.float32),
        "w2": small_models.weights(1, w=(16, 16))["w"],
    }
    return small_models.model(nodes, {"x": ("N", 16)}, {"y": ("N", 16)}, constants)


# -- what it finds -------------------------------------------------------------------------------


def test_ranges_are_those_of_the_float32_model() -> None:
    data = images()
    ranges = ranges_of(planish.MinMaxCalibrator(data))
    assert ranges.batches == 3
    every = np.concatenate(data)
    assert ranges["x"].amax == np.abs(every).max()
    assert ranges["x"].threshold == pytest.approx(ranges["x"].amax, rel=1e-7)
    assert (ranges["x"].minimum, ranges["x"].maximum) == (every.min(), every.max())
    relu = small_models.convolutions()
    relu.graph.output.append(helper.make_tensor_value_info("r1", 1, None))
    want = planish.build(relu, BuildConfig(tune="off")).run({"x": every})["r1"]
    assert ranges["r1"].threshold == pytest.approx(want.max(), rel=1e-5)
    assert ranges["r1"].minimum == 0
    histogram = ranges["r1"].histogram
    assert histogram is not None
    assert histogram.total == want.size


def test_an_int8_engine_is_close_to_the_float32_one() -> None:
    data = images()
    engine = build(planish.MinMaxCalibrator(data))
    assert sum(layer.precision == "int8" for layer in engine.report.layers) >= 3
    want = planish.build(small_models.convolutions(), BuildConfig(tune="off"))(data[0])
    assert np.abs(engine(data[0]) - want).max() < 0.05 * np.abs(want).max()


def test_order_and_size_of_batches_do_not_matter() -> None:
    kind = planish.EntropyCalibrator2
    data = [batch * np.float32(scale) for batch, scale in zip(images(), (1, 7, 3), strict=True)]
    whole = np.concatenate(data)
    want = ranges_of(kind(data)).thresholds
    assert ranges_of(kind(data[::-1])).thresholds == pytest.approx(want, rel=1e-3)
    assert ranges_of(kind(np.array_split(whole, 5))).thresholds == pytest.approx(want, rel=1e-3)


def test_a_fixed_batch_takes_batches_of_any_size() -> None:
    model = small_models.convolutions(batch=2)
    data = images(1, size=7)
    ranges = ranges_of(planish.MinMaxCalibrator(data), model)
    assert ranges["x"].amax == np.abs(data[0]).max()


def test_the_report_shows_every_tensor() -> None:
    report = build(planish.EntropyCalibrator2(images())).report
    assert report.calibrator == "EntropyCalibration2, 3 batches"
    names = [entry.name for entry in report.tensors]
    assert names[0] == "x"
    assert "r1" in names
    assert all(sum(entry.bars) > 0 for entry in report.tensors)
    assert all(entry.stored.startswith(("i8", "u8")) for entry in report.tensors)
    page = report.to_html()
    assert page.count("<svg") == len(names)
    assert "calibrated tensors (EntropyCalibration2, 3 batches):" in report.to_text()


def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for name in ("a.plan", "b.plan"):
        build(planish.EntropyCalibrator2(images()), threads=2).save(tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


def test_histograms_are_saved(tmp_path: Path) -> None:
    calibrator = planish.EntropyCalibrator2(images())
    ranges = ranges_of(calibrator)
    assert calibrator.ranges is ranges
    ranges.save_histograms(tmp_path / "h.npz")
    with np.load(tmp_path / "h.npz") as saved:
        assert list(saved["names"]) == list(ranges)
        assert saved["counts"].shape == (len(ranges), 2048)
        assert saved["thresholds"].tolist() == list(ranges.thresholds.values())
        assert saved["counts"][0].sum() == 3 * 4 * 3 * 144


# -- caches --------------------------------------------------------------------------------------


def test_a_cache_alone_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "x.cache"
    first = build(planish.EntropyCalibrator2(images(), cache=path))
    second = build(planish.EntropyCalibrator2(cache=path))
    np.testing.assert_array_equal(first(images()[0]), second(images()[0]))
    assert second.report.calibrator == "EntropyCalibration2, from a cache"


def test_a_cache_replaces_the_data(tmp_path: Path) -> None:
    path = tmp_path / "x.cache"
    ranges_of(planish.MinMaxCalibrator(images(), cache=path))

    def never() -> Iterator[Array]:
        raise AssertionError("the data were read")

    ranges_of(planish.MinMaxCalibrator(never, cache=path))


def test_another_algorithm_calibrates_again(tmp_path: Path) -> None:
    path = tmp_path / "x.cache"
    ranges_of(planish.MinMaxCalibrator(images(), cache=path))
    assert ranges_of(planish.EntropyCalibrator2(images(), cache=path)).batches == 3
    assert CalibrationCache.parse(path.read_bytes()).algorithm == "EntropyCalibration2"
    assert ranges_of(planish.MinMaxCalibrator(cache=path)).algorithm == "EntropyCalibration2"


def test_a_tensorrt_cache_with_other_names_is_used_and_they_are_listed() -> None:
    class Cached(planish.EntropyCalibrator2):
        def read_calibration_cache(self) -> bytes:
            return b"TRT-8601-EntropyCalibration2\nx: 3d000000\nr1: 3d000000\nconv_out: 3d000000\n"

    report = build(Cached()).report
    notes = "\n".join(report.warnings)
    assert "not in the calibration cache" in notes
    assert "conv_out" in notes
    assert any(layer.precision == "int8" for layer in report.layers)
    with pytest.raises(ConfigError, match="no range is known of"):
        build(Cached(), strict=True)


def test_a_cache_for_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.cache"
    ranges_of(planish.MinMaxCalibrator([np.ones((2, 16), np.float32)], cache=path), two_layers())
    path.write_text(path.read_text().replace("x:", "input:").replace("r:", "relu_7:"))
    with pytest.raises(ConfigError, match="for another model"):
        ranges_of(planish.MinMaxCalibrator(images(), cache=path))


# -- streams, time, interruptions ----------------------------------------------------------------


def test_batches_are_let_go() -> None:
    alive: list[weakref.ref[Array]] = []
    most = 0

    def generate() -> Iterator[Array]:
        nonlocal most
        for i in range(300):
            batch = np.full((2, 16), i, np.float32)
            alive.append(weakref.ref(batch))
            yield batch
            del batch
            most = max(most, sum(reference() is not None for reference in alive))

    ranges = ranges_of(planish.EntropyCalibrator2(generate), two_layers())
    assert ranges.batches == 300
    assert most <= 2


def test_cancelling_keeps_what_was_collected(tmp_path: Path) -> None:
    path = tmp_path / "x.cache"
    calibrator = planish.MinMaxCalibrator(images(count=50), cache=path)
    reports: list[Progress] = []
    with pytest.raises(BuildCancelled):
        build(
            calibrator,
            progress=reports.append,
            cancel=lambda: any("calibrating" in each.detail for each in reports),
        )
    assert calibrator.ranges is not None
    assert 1 <= calibrator.ranges.batches < 50
    assert calibrator.ranges.partial
    engine = build(planish.MinMaxCalibrator(cache=path))
    said = [text for text in engine.report.warnings if "partial" in text]
    assert len(said) == 1
    assert f"after {calibrator.ranges.batches} batches" in said[0]
    seen = [each for each in reports if "calibrating" in each.detail]
    assert (seen[0].done, seen[0].total) == (1, 50)


def test_an_interruption_keeps_what_was_collected(tmp_path: Path) -> None:
    def generate() -> Iterator[Array]:
        yield images()[0]
        raise KeyboardInterrupt

    calibrator = planish.MinMaxCalibrator(generate, cache=tmp_path / "x.cache")
    with pytest.raises(KeyboardInterrupt):
        ranges_of(calibrator)
    cache = CalibrationCache.parse((tmp_path / "x.cache").read_bytes())
    assert cache.partial_batches == 1
    assert calibrator.ranges is not None
    assert calibrator.ranges["x"].amax == np.abs(images()[0]).max()


def test_calibration_ends_with_its_share_of_the_time() -> None:
    def generate() -> Iterator[Array]:
        while True:
            yield images()[0]

    ranges = ranges_of(planish.MinMaxCalibrator(generate), time_budget=2.0)
    assert any("time budget" in note for note in ranges.notes)
    assert ranges.partial


def test_time_that_ends_with_the_data_leaves_nothing_out() -> None:
    done = []

    def generate() -> Iterator[Array]:
        yield images()[0]
        done.append(True)  # from here on the build is cancelled

    calibrator = planish.MinMaxCalibrator(generate)
    with pytest.raises(BuildCancelled):
        build(calibrator, cancel=lambda: bool(done))
    assert calibrator.ranges is not None
    assert not calibrator.ranges.partial


# -- what can be wrong ---------------------------------------------------------------------------


def test_int8_without_scales_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs to know the ranges"):
        build(None)
    with pytest.raises(ConfigError, match="no calibration data"):
        build(planish.EntropyCalibrator2())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "x.cache does not exist"),
        (lambda path: path.touch(), "x.cache is empty"),
        (lambda path: path.mkdir(), "x.cache is a folder"),
    ],
)
def test_a_cache_that_is_none_is_named(
    make: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    make(tmp_path / "x.cache")
    with pytest.raises(ConfigError, match=rf"no calibration data, and .*{says}"):
        ranges_of(planish.MinMaxCalibrator(cache=tmp_path / "x.cache"))


def test_a_cache_that_cannot_be_written_is_found_before_the_data_are_read(tmp_path: Path) -> None:
    read = []

    def generate() -> Iterator[Array]:
        read.append(True)
        yield images()[0]

    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "absent" / "x.cache"):
        with pytest.raises(ConfigError, match="cannot write the calibration cache"):
            ranges_of(planish.MinMaxCalibrator(generate, cache=path))
    assert not read


def test_all_zero_data_never_give_an_engine_in_silence() -> None:
    calibrator = planish.MinMaxCalibrator([np.zeros((4, 3, 12, 12), np.float32)])
    others = dict.fromkeys(("block", "left", "right"), "fp32")
    with pytest.warns(PrecisionWarning, match="no layer runs on integers"):
        engine = build(calibrator, layer_precisions=others)
    assert {layer.precision for layer in engine.report.layers} == {"f32"}
    assert any("always zero on the calibration data" in text for text in engine.report.warnings)


def test_empty_data_are_refused() -> None:
    for data in ([], lambda: iter(())):
        with pytest.raises(ConfigError, match="data are empty"):
            build(planish.EntropyCalibrator2(data))


def test_data_that_do_not_fit_are_refused_with_their_batch() -> None:
    wrong = [images()[0], np.zeros((4, 3, 12, 11), np.float32)]
    with pytest.raises(InputError, match="calibration batch 1"):
        build(planish.EntropyCalibrator2(wrong))
    with pytest.raises(InputError, match="calibration batch 0"):
        build(planish.EntropyCalibrator2([images()[0].astype(np.float64)]))


def test_nan_activations_are_refused_with_their_tensor() -> None:
    node = helper.make_node
    nodes = [
        node("Div", ["x", "x"], ["d"], name="divide"),
        node("MatMul", ["d", "w"], ["p"], name="first"),
        node("MatMul", ["p", "w"], ["y"], name="second"),
    ]
    constants = small_models.weights(0, w=(16, 16))
    model = small_models.model(nodes, {"x": ("N", 16)}, {"y": ("N", 16)}, constants)
    with pytest.raises(InputError, match="tensor 'd' are NaN") as caught:
        build(planish.MinMaxCalibrator([np.zeros((2, 16), np.float32)]), model)
    assert "divide" in str(caught.value)


def test_infinite_activations_keep_their_layers_in_floating_point() -> None:
    calibrator = planish.MinMaxCalibrator([np.full((2, 16), 1e30, np.float32)])
    precisions = {"first": "fp32", "second": "int8"}
    with pytest.warns(PrecisionWarning, match="no layer runs on integers"):
        engine = build(calibrator, two_layers(1e30), layer_precisions=precisions)
    assert any("infinite" in text and " r" in text for text in engine.report.warnings)
    assert not engine.report.tensors


def test_tensors_that_are_always_zero_keep_their_layers_in_floating_point() -> None:
    calibrator = planish.EntropyCalibrator2([np.ones((2, 16), np.float32)])
    engine = build(calibrator, two_layers(-1.0), layer_precisions={"second": "int8"})
    assert any("always zero" in text for text in engine.report.warnings)


def test_nothing_to_quantize_is_said() -> None:
    calibrator = planish.EntropyCalibrator2(images())
    with pytest.warns(PrecisionWarning, match="no layer can run on integers"):
        engine = build(calibrator, layer_precisions={"*": "fp32"})
    assert all(layer.precision == "f32" for layer in engine.report.layers)
    with pytest.raises(ConfigError, match="no layer can run on integers"):
        build(calibrator, layer_precisions={"*": "fp32"}, strict=True)


# -- requests ------------------------------------------------------------------------------------


def test_layers_are_kept_by_name() -> None:
    engine = build(planish.MinMaxCalibrator(images()), layer_precisions={"st?m": "fp32"})
    (stem,) = [layer for layer in engine.report.layers if "stem" in layer.layers.split(" + ")]
    assert stem.precision == "f32"
    assert any(layer.precision == "int8" for layer in engine.report.layers)


def test_an_unknown_layer_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="no layer or tensor is called 'stemm'") as caught:
        build(planish.MinMaxCalibrator(images()), layer_precisions={"stemm": "fp32"})
    assert "did you mean 'stem'" in str(caught.value)
    with pytest.raises(ConfigError, match="in a build with precision='bf16'"):
        build(None, precision="bf16", layer_precisions={"stem": "int8"})
    with pytest.raises(ConfigError, match="expected one of fp32, fp16, bf16, int8"):
        BuildConfig(layer_precisions={"stem": "fp64"})


def test_layers_are_kept_in_bf16_too() -> None:
    engine = build(None, precision="bf16", layer_precisions={"stem": "fp32"})
    (stem,) = [layer for layer in engine.report.layers if "stem" in layer.layers.split(" + ")]
    assert stem.precision == "f32"
    assert any(layer.precision == "bf16" for layer in engine.report.layers)


def test_a_model_without_products_is_lowered_nowhere() -> None:
    node = helper.make_node
    model = small_models.model([node("Relu", ["x"], ["y"])], {"x": ("N", 16)}, {"y": ("N", 16)})
    assert build(None, model, precision="bf16").report.layers[0].precision == "f32"
    with pytest.raises(ConfigError, match="every layer runs in float32"):
        build(None, model, precision="bf16", strict=True)
    calibrator = planish.MinMaxCalibrator([np.ones((1, 16), np.float32)])
    with pytest.warns(PrecisionWarning) as caught:
        build(calibrator, model)
    assert len(caught) == 1


def test_best_needs_no_calibrator_and_uses_one() -> None:
    plain = {layer.precision for layer in build(None, precision="best").report.layers}
    assert "int8" not in plain
    engine = build(planish.MinMaxCalibrator(images()), precision="best")
    assert "int8" in {layer.precision for layer in engine.report.layers}


def test_fp16_says_what_it_runs_as() -> None:
    engine = build(None, precision="fp16")
    kinds = {layer.precision for layer in engine.report.layers}
    notes = "\n".join(engine.report.warnings)
    assert ("bf16" in kinds and "runs as bfloat16" in notes) or "no fast 16-bit" in notes


def test_fp16_keeps_layers_in_float32_whose_numbers_do_not_fit() -> None:
    data = [np.full((2, 16), 100, np.float32)]
    engine = build(planish.MinMaxCalibrator(data), two_layers(100.0), precision="fp16")
    notes = "\n".join(engine.report.warnings)
    if "no fast 16-bit floats" in notes:
        pytest.skip("this CPU has no fast 16-bit floats")
    assert "first stays float32: p reaches 1.6e+05, and float16 ends at 65504" in notes
    assert {layer.precision for layer in engine.report.layers} == {"f32"}
    want = planish.build(two_layers(100.0), BuildConfig(tune="off"))(data[0])
    np.testing.assert_allclose(engine(data[0]), want, rtol=1e-5)
    engine = build(None, two_layers(1e5), precision="fp16")
    assert any("first stays float32: its weights" in text for text in engine.report.warnings)
    engine = build(planish.MinMaxCalibrator([data[0] * 0.01]), two_layers(), precision="fp16")
    assert {layer.precision for layer in engine.report.layers} == {"bf16"}


def test_fp16_without_the_instructions_runs_in_float32_and_says_so() -> None:
    plain = Target("cpu", frozenset({"avx2", "fma"}))
    graph = read_model(two_layers(), profiles={})
    with pytest.warns(PrecisionWarning, match="no fast 16-bit floats"):
        request = PrecisionRequest.of(BuildConfig(precision="fp16"), plain, graph)
    assert request.floats == "fp32"
    with pytest.raises(ConfigError, match="no fast 16-bit floats"):
        PrecisionRequest.of(BuildConfig(precision="fp16", strict=True), plain, graph)
    assert PrecisionRequest.of(BuildConfig(precision="best"), plain, graph).floats == "fp32"


def test_a_quantized_model_keeps_its_own_scales() -> None:
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("MatMul", ["d", "w"], ["y"], name="product"),
    ]
    constants = {
        "s": np.float32(0.1), "z": np.int8(0), **small_models.weights(0, w=(16, 16))
    }  # fmt: skip
    model = small_models.model(nodes, {"x": ("N", 16)}, {"y": ("N", 16)}, constants)
    with pytest.warns(PrecisionWarning, match="no layer runs on integers"):  # float weights
        assert build(None, model).report.calibrator == ""
    calibrator = planish.MinMaxCalibrator([np.ones((1, 16), np.float32)])
    engine = build(calibrator, model, precision="best")
    assert any("quantized already" in text for text in engine.report.warnings)
