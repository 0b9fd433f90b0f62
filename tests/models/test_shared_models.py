"""Real models, built without tuning, against the outputs that were recorded of them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import planish
from planish.config import BuildConfig, Profile
from planish.runtime.engine import Engine
from planish.tactics.select import FallbackWarning
from tests.models.shared import ABSENT, differences, read_record, recorded_models

MODELS = recorded_models()
TOLERANCE = 5e-4

pytestmark = pytest.mark.skipif(not MODELS, reason=ABSENT)

# Models with symbolic extents that have no default range.
PROFILES = {
    "openwakeword/melspectrogram.onnx": {"input": Profile((1, 800), (1, 16000), (2, 32000))},
    "silero_vad/silero_vad.onnx": {
        "input": Profile((1, 576), (1, 576), (1, 576)),
        "state": Profile((2, 1, 128), (2, 1, 128), (2, 1, 128)),
    },
    "silero_vad/silero_vad_op18_ifless.onnx": {"input": Profile((1, 256), (1, 576), (4, 1024))},
}

# Largest error in bf16, relative to the largest output: 8 significant bits, rounded at every layer.
BF16 = {
    "cifar10_resnet/resnet20.onnx": 0.02,
    "mnist/mnist-8.onnx": 0.02,
    "openwakeword/embedding_model.onnx": 0.015,
    "portrait_seg/prisma_nchw.onnx": 0.06,
    "super_resolution/espcn_x3_core.onnx": 0.02,
    "tf2onnx/kws_ref_model_float32.onnx": 0.02,
    "ultraface/version-RFB-320.onnx": 0.06,
}


def build(name: str, **options: object) -> Engine:
    config = BuildConfig(tune="off", profiles=PROFILES.get(name, {}), **options)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        return planish.build(MODELS[name][0], config)


def assert_as_recorded(name: str, engine: Engine, tolerance: float = TOLERANCE) -> None:
    inputs, outputs = read_record(MODELS[name][1])
    assert differences(name, engine.run(inputs), outputs, tolerance) == []


@pytest.mark.parametrize("name", MODELS or ["none"])
def test_recorded_outputs(name: str) -> None:
    engine = build(name)
    assert_as_recorded(name, engine)
    memory = engine.memory
    assert memory.largest_live_set <= memory.arena <= max(memory.sum_of_tensors, 4096)


@pytest.mark.parametrize("name", BF16)
def test_bf16(name: str) -> None:
    engine = build(name, precision="bf16")
    assert_as_recorded(name, engine, BF16[name])
    assert "bf16" in {layer.precision for layer in engine.report.layers}


@pytest.mark.parametrize("name", ["cifar10_resnet/resnet20.onnx", "yunet/yunet_n_320_320.onnx"])
def test_bytes_of_two_threads_are_those_of_one(name: str) -> None:
    """Work is split between threads, sums are not: results are the same to the last bit."""
    inputs, _ = read_record(MODELS[name][1])
    one, two = (build(name, threads=threads).run(inputs) for threads in (1, 2))
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])
