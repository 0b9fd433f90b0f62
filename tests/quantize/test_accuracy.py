"""Top-1 of int8 engines on labelled images, against float32 engines of the same models."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import planish
from planish.config import BuildConfig
from planish.quantize.calibrators import Calibrator
from tests.models.shared import ABSENT, FOLDER

Array = np.ndarray[Any, Any]
Images = tuple[Array, Array, list[Array]]  # to score, their labels, to calibrate with

pytestmark = pytest.mark.skipif(not (FOLDER / "datasets").is_dir(), reason=ABSENT)

MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def cifar(planes_first: bool) -> Images:
    def read(name: str) -> tuple[Array, Array]:
        with np.load(FOLDER / "datasets" / name) as data:
            pixels, labels = data["x"].astype(np.float32), data["y"].astype(int)
        if not planes_first:
            return pixels, labels
        return ((pixels / 255 - MEAN) / DEVIATION).transpose(0, 3, 1, 2).copy(), labels

    images, labels = read("cifar10_test_jpeg_2000.npz")
    return images, labels, np.array_split(read("cifar10_train_jpeg_500.npz")[0], 10)


def digits() -> Images:
    def read(name: str, header: int) -> Array:
        packed = (FOLDER / "mnist" / name).read_bytes()
        return np.frombuffer(gzip.decompress(packed), np.uint8)[header:]

    labels = read("t10k-labels-idx1-ubyte.gz", 8)
    pixels = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28).astype(np.float32)
    images = (pixels / 255 - np.float32(0.1307)) / np.float32(0.3081)
    return images[:3000], labels[:3000].astype(int), list(images[9500:, None])


MODELS: dict[str, Callable[[], Images]] = {
    "cifar10_resnet/resnet20.onnx": lambda: cifar(planes_first=True),
    "cifar10_resnet/resnet56.onnx": lambda: cifar(planes_first=True),
    "tf2onnx/pretrainedResnet.onnx": lambda: cifar(planes_first=False),
    "mnist/burn_mnist.onnx": digits,
}
CALIBRATORS = [
    planish.EntropyCalibrator2,
    planish.MinMaxCalibrator,
    planish.LegacyCalibrator,
    planish.MseCalibrator,
]


def top1(model: str, images: Images, calibrator: Calibrator | None, count: int) -> float:
    precision = "fp32" if calibrator is None else "int8"
    config = BuildConfig(precision=precision, calibrator=calibrator, tune="off")
    engine = planish.build(FOLDER / model, config)
    if calibrator is not None:
        assert sum(layer.precision == "int8" for layer in engine.report.layers) >= 3
    pixels, labels, _ = images
    step = 1 if "mnist" in model else 32
    starts = range(0, min(count, len(pixels)), step)
    scores = np.concatenate([np.asarray(engine(pixels[i : i + step])) for i in starts])
    return 100 * float((scores.argmax(1) == labels[: len(scores)]).mean())


def test_the_default_calibrator_keeps_the_accuracy_of_resnet20() -> None:
    model = "cifar10_resnet/resnet20.onnx"
    images = MODELS[model]()
    want = top1(model, images, None, 800)
    assert want > 75
    assert top1(model, images, planish.EntropyCalibrator2(images[2]), 800) >= want - 1.0


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_every_calibrator_keeps_the_accuracy(model: str) -> None:
    images = MODELS[model]()
    want = top1(model, images, None, 3000)
    for kind in CALIBRATORS:
        lost = want - top1(model, images, kind(images[2]), 3000)
        assert lost <= (1.0 if kind is planish.LegacyCalibrator else 0.5), kind.__name__
