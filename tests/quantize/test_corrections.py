"""Corrections of depthwise networks: they lower the error, or are left out; caches keep them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import planish
from planish.config import BuildConfig
from planish.errors import ConfigError
from planish.quantize.corrections_file import read_corrections, write_corrections
from planish.quantize.scheme import Corrections

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep compiled objects: the tests build engines of one model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANISH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def depthwise_model() -> bytes:
    """An inverted bottleneck whose channels have ranges from 1 to 1/100, then a classifier."""
    generator = np.random.default_rng(3)
    ranges = np.geomspace(1, 0.01, 16).astype(np.float32)

    def weight(*shape: int) -> Array:
        scale = np.sqrt(np.prod(shape[1:]))
        return (generator.standard_normal(shape) / scale).astype(np.float32)

    first, second = weight(16, 3, 1, 1), weight(16, 1, 3, 3)
    tensors = {
        "w0": first * ranges.reshape(-1, 1, 1, 1),
        "b0": generator.standard_normal(16).astype(np.float32) * ranges,
        "w1": second / ranges.reshape(-1, 1, 1, 1),
        "w2": weight(8, 16, 1, 1),
        "w3": weight(4, 8, 1, 1),
        "six": np.float32(6),
        "zero": np.float32(0),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["a"], name="expand"),
        helper.make_node("Clip", ["a", "zero", "six"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"], name="depthwise", group=16, pads=[1] * 4),
        helper.make_node("Clip", ["c", "zero", "six"], ["d"]),
        helper.make_node("Conv", ["d", "w2"], ["e"], name="project"),
        helper.make_node("Conv", ["e", "w3"], ["f"], name="head"),
        helper.make_node("GlobalAveragePool", ["f"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "depthwise",
        [helper.make_tensor_value_info("x", 1, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", 1, ["n", 4, 1, 1])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opset).SerializeToString())


def images(seed: int, size: int = 16) -> Array:
    return np.random.default_rng(seed).standard_normal((size, 3, 8, 8)).astype(np.float32)


def build(calibrator: Any, **options: Any) -> planish.Engine:
    config = BuildConfig(precision="int8", calibrator=calibrator, tune="off", threads=1, **options)
    return planish.build(depthwise_model(), config)


def error(engine: planish.Engine) -> float:
    x = images(9)
    model = onnx.load_from_string(depthwise_model())
    want = ReferenceEvaluator(model).run(None, {"x": x})[0]
    return float(np.linalg.norm(engine(x) - want) / np.linalg.norm(want))


def test_corrections_lower_the_error_and_a_cache_keeps_them(tmp_path: Path) -> None:
    cache = tmp_path / "calibration"
    plain = build(planish.EntropyCalibrator2([images(0)]), corrections=False)
    engine = build(planish.EntropyCalibrator2(iter([images(0)]), cache=cache))
    assert error(engine) < 0.7 * error(plain)
    notes = "\n".join(engine.report.warnings)
    assert "depthwise network: the channels of" in notes
    assert "depthwise network" not in "\n".join(plain.report.warnings)
    again = build(planish.EntropyCalibrator2(cache=cache))
    np.testing.assert_array_equal(again(images(9)), engine(images(9)))
    assert "corrected as in calibration.corrections.npz" in "\n".join(again.report.warnings)


def test_a_foreign_cache_has_no_corrections(tmp_path: Path) -> None:
    cache = tmp_path / "calibration"
    cache.write_text("TRT-8000-MinMaxCalibration\nx: 3d000000\nb: 3d000000\n")
    found = Corrections({"b": np.ones(16)}, {"c": np.ones((16, 1, 1), np.float32)})
    assert read_corrections(cache) is None
    write_corrections(cache, found)
    stored = read_corrections(cache)
    assert stored is not None
    np.testing.assert_array_equal(stored.gains["b"], found.gains["b"])
    np.testing.assert_array_equal(stored.shifts["c"], found.shifts["c"])
    cache.write_text("TRT-8000-MinMaxCalibration\nx: 3e000000\n")
    assert read_corrections(cache) is None
    (tmp_path / "calibration.corrections.npz").write_bytes(b"PK not a file")
    with pytest.raises(ConfigError, match="corrections beside a calibration cache cannot be read"):
        read_corrections(cache)
