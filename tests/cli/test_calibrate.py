"""`planish calibrate`, and the calibration options of `planish build`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import planish
from planish.cli.calibration import parse_layer_precisions, read_data
from planish.cli.images import named_preprocessing
from planish.errors import ConfigError, InputError, PlanishError
from tests import small_models
from tests.cli.command import call, call_json

Array = np.ndarray[Any, Any]

MODULE = """
import numpy as np

def batches():
    for seed in range(3):
        yield np.random.default_rng(seed).standard_normal((4, 3, 12, 12)).astype("float32")

def flat(image):
    return np.asarray(image.resize((12, 12)), "float32").transpose(2, 0, 1) / 255

nothing = 3
"""


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep compiled objects: most tests calibrate the same model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANISH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model and a module that makes batches."""
    onnx.save(small_models.convolutions(), tmp_path / "m.onnx")
    (tmp_path / "calibration_batches.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def batch(seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((4, 3, 12, 12)).astype(np.float32)


def read(text: object, preprocess: str | None = None) -> list[Any]:
    return list(read_data(str(text), preprocess)())


def test_calibrate_then_build_from_the_cache(folder: Path) -> None:
    data = call_json(
        "calibrate", "m.onnx", "--data", "calibration_batches:batches", "-o", "m.cache",
        "--histograms", "h.npz", "--report", "h.html",
    )  # fmt: skip
    assert data["algorithm"] == "EntropyCalibration2"
    assert data["batches"] == 3
    assert "x" in data["thresholds"]
    assert (folder / "m.cache").read_text().startswith("TRT-")
    assert (folder / "h.html").read_text().count("<svg") == len(data["thresholds"])
    with np.load(folder / "h.npz") as saved:
        assert len(saved["names"]) == len(data["thresholds"])
    text = call(
        "build", "m.onnx", "--precision", "int8", "--calibration-cache", "m.cache", "--tune", "off",
    )  # fmt: skip
    assert "calibrated tensors (EntropyCalibration2, from a cache)" in text
    assert planish.load(folder / "m.plan").report.precision == "int8"


def test_build_calibrates(folder: Path) -> None:
    np.savez(folder / "data.npz", x=batch(0))
    data = call_json(
        "build", "m.onnx", "--precision", "int8", "--calibrate", "data.npz", "--calibrator", "mse",
        "--calibration-cache", "new.cache", "--layer-precision", "stem=fp32", "--tune", "off",
    )  # fmt: skip
    assert data["report"]["calibrator"] == "MseCalibration, 1 batches"
    assert (folder / "new.cache").is_file()
    kinds = {layer["layers"].split(" + ")[0]: layer["precision"]
             for layer in data["report"]["layers"]}  # fmt: skip
    assert kinds["stem"] == "f32"
    assert "int8" in kinds.values()


def test_compare_and_bench_calibrate_what_they_build(folder: Path) -> None:
    np.savez(folder / "data.npz", x=batch(0))
    options = ("--precision", "int8", "--calibrate", "data.npz", "--calibrator", "minmax")
    compared = call_json("compare", "m.onnx", *options, "--against", "reference")
    assert 0 < compared["outputs"][0]["max_error"] < 0.2
    call("bench", "m.onnx", *options, "--seconds", "0.01", "--tune", "off", "--threads", "1")


def test_what_is_missing_is_said(folder: Path) -> None:
    call("build", "m.onnx", "--precision", "int8", code=2)
    call("build", "m.onnx", "--precision", "int8", "--calibrate", "absent.npz", code=2)
    call("calibrate", "m.onnx", "--data", "calibration_batches:batches", "--calibrator", "best",
         code=2)  # fmt: skip
    assert not (folder / "m.plan").exists()


# -- data ----------------------------------------------------------------------------------------


def test_npz_files_hold_inputs_by_name(folder: Path) -> None:
    np.savez(folder / "one.npz", x=batch(0))
    np.savez(folder / "two.npz", **{"in:a": batch(0), "in:b": batch(1), "out:y": batch(2)})
    np.testing.assert_array_equal(read("one.npz")[0], batch(0))
    assert sorted(read("two.npz")[0]) == ["a", "b"]


def test_folders_hold_a_batch_in_each_file(folder: Path) -> None:
    (folder / "d").mkdir()
    for seed in (1, 0):
        np.save(folder / "d" / f"{seed}.npy", batch(seed))
    found = read("d")
    np.testing.assert_array_equal(found, [batch(0), batch(1)])


def test_functions_are_found_in_the_working_folder(folder: Path) -> None:
    assert len(read("calibration_batches:batches")) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("absent.npz", "does not exist"), ("absent", "cannot read calibration data"),
        ("absent_module:f", "cannot import"), ("calibration_batches:absent", "no function"),
        ("calibration_batches:nothing", "no function"), ("empty", "neither .npy files nor images"),
        ("bad", "cannot read calibration data"), ("pictures", "need a preprocessing"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_read_are_refused(folder: Path, text: str, message: str) -> None:
    for name in ("empty", "bad", "pictures"):
        (folder / name).mkdir()
    (folder / "bad" / "x.npy").write_bytes(b"nothing")
    (folder / "pictures" / "x.png").write_bytes(b"nothing")
    with pytest.raises(PlanishError, match=message):
        read(text)


def test_layer_precisions() -> None:
    assert parse_layer_precisions(["a=b=fp32", "c*=int8"]) == {"a=b": "fp32", "c*": "int8"}
    for wrong in ("fp32", "=fp32"):
        with pytest.raises(ConfigError, match="cannot read"):
            parse_layer_precisions([wrong])


# -- images --------------------------------------------------------------------------------------


def test_images_become_batches(folder: Path) -> None:
    images = pytest.importorskip("PIL.Image")
    (folder / "pictures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 40, 3), np.uint8)
    for index, each in enumerate(pixels):
        images.fromarray(each).save(folder / "pictures" / f"{index:02}.png")
    found = read("pictures", "imagenet:32")
    assert [each.shape for each in found] == [(16, 3, 32, 32), (4, 3, 32, 32)]
    assert found[0].dtype == np.float32
    assert abs(float(found[0].mean())) < 0.5
    assert read("pictures", "signed")[0].shape == (16, 224, 224, 3)
    unit = read("pictures", "unit:30")[0]
    assert 0 <= unit.min() < unit.max() <= 1
    assert read("pictures", "calibration_batches:flat")[0].shape == (16, 3, 12, 12)
    (folder / "pictures" / "99.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot read the image"):
        read("pictures", "unit")


def test_the_centre_of_an_image_is_kept() -> None:
    images = pytest.importorskip("PIL.Image")
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[16:48, 48:80] = 255
    preprocessing = named_preprocessing("unit:56")
    assert preprocessing is not None
    array = preprocessing(images.fromarray(pixels))
    assert array.shape == (3, 56, 56)
    assert array[:, 28, 28].min() == 1
    assert array[:, :4].max() == 0
    assert named_preprocessing("mine:function") is None
