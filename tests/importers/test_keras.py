"""Keras models saved by the TensorFlow that is installed, built and run without it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planish
from planish.config import BuildConfig, Profile
from planish.errors import ModelError
from planish.importers.importer import read_model
from tests.importers.saved_model_samples import arrays_of, check, run

SHARED = Path(__file__).parents[3] / "shared" / "models"
RECORDED = sorted(SHARED.glob("*/*_savedmodel.io.npz"))

# family and image side; tests/importers/test_keras_models.py converts all families
FAMILIES = {"EfficientNetB0": 64, "MobileNetV2": 64, "NASNetMobile": 64}


@pytest.mark.skipif(not RECORDED, reason="the shared models are not beside this checkout")
@pytest.mark.parametrize("record", RECORDED, ids=lambda path: path.name.split(".")[0])
def test_models_that_tensorflow_itself_rejects(record: Path) -> None:
    inputs, outputs = arrays_of(record)
    check(run(record.with_name(record.name.split(".")[0]), inputs), outputs, 1e-4)


def randomize(model: Any, generator: np.random.Generator) -> None:
    """Give every variable other numbers than its neighbours, so that none can be mistaken."""
    for variable in model.weights:
        name = getattr(variable, "path", variable.name)
        noise = generator.standard_normal(variable.shape).astype(np.float32)
        if "gamma" in name or "variance" in name:
            variable.assign(1 + 0.3 * np.tanh(noise))
        elif any(word in name for word in ("beta", "mean", "bias")):
            variable.assign(0.1 * noise)


def record(model: Any, folder: Path, x: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Save `model`; return what its signature computes."""
    tensorflow = pytest.importorskip("tensorflow")
    model.export(str(folder), verbose=False)
    signature = tensorflow.saved_model.load(str(folder)).signatures["serving_default"]
    name = next(iter(signature.structured_input_signature[1]))
    outputs = signature(**{name: tensorflow.constant(x)})
    return {"inputs": {name: x}, "outputs": {k: v.numpy() for k, v in outputs.items()}}


def layers() -> Any:
    keras = pytest.importorskip("tensorflow").keras
    keras.utils.set_random_seed(0)
    return keras.layers


def convolutions() -> Any:
    make = layers()
    x = inputs = make.Input((16, 16, 3))
    x = make.ReLU()(make.BatchNormalization()(make.Conv2D(8, 3, padding="same")(x)))
    y = make.ReLU(6.0)(make.DepthwiseConv2D(3, strides=2, padding="same")(x))
    x = make.Add()([y, make.Conv2D(8, 1, strides=2)(x)])
    x = make.Dropout(0.5)(make.GlobalAveragePooling2D()(x))
    return model_of(inputs, make.Dense(4, activation="softmax")(x))


def model_of(inputs: Any, outputs: Any) -> Any:
    keras = pytest.importorskip("tensorflow").keras
    return keras.Model(inputs, outputs)


def recurrent() -> Any:
    make = layers()
    inputs = make.Input((6, 4))
    x = make.Bidirectional(make.LSTM(5, return_sequences=True))(make.Masking()(inputs))
    return model_of(inputs, make.Dense(3)(make.GRU(4)(x)))


def attention() -> Any:
    make = layers()
    x = inputs = make.Input((6, 8))
    x = make.LayerNormalization()(x + make.MultiHeadAttention(2, 4)(x, x))
    return model_of(inputs, make.Dense(8, activation="gelu")(x))


MODELS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "convolutions": (convolutions, (2, 16, 16, 3)),
    "recurrent": (recurrent, (2, 6, 4)),
    "attention": (attention, (2, 6, 8)),
}


@pytest.mark.parametrize("name", MODELS)
def test_fresh_models(name: str, tmp_path: Path) -> None:
    make, shape = MODELS[name]
    model, generator = make(), np.random.default_rng(0)
    randomize(model, generator)
    x = generator.standard_normal(shape).astype(np.float32)
    recorded = record(model, tmp_path / "model", x)
    check(run(tmp_path / "model", recorded["inputs"]), recorded["outputs"])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_engines_of_applications(family: str, tmp_path: Path) -> None:
    keras = pytest.importorskip("tensorflow").keras
    keras.utils.set_random_seed(0)
    side, generator = FAMILIES[family], np.random.default_rng(0)
    make = getattr(keras.applications, family)
    model = make(weights=None, input_shape=(side, side, 3), classes=10)
    randomize(model, generator)
    x = generator.standard_normal((2, side, side, 3)).astype(np.float32)
    recorded = record(model, tmp_path / "model", x)
    shapes = {name: Profile(v.shape, v.shape, v.shape) for name, v in recorded["inputs"].items()}
    config = BuildConfig(tune="off", profiles=shapes)
    engine = planish.build(tmp_path / "model", config)
    check(engine.run(recorded["inputs"]), recorded["outputs"], 1e-4)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_keras_files(suffix: str, tmp_path: Path) -> None:
    model, path = convolutions(), tmp_path / f"model{suffix}"
    randomize(model, np.random.default_rng(0))
    model.save(path)
    x = np.random.default_rng(1).standard_normal((2, 16, 16, 3)).astype(np.float32)
    want = np.asarray(model(x))
    graph = read_model(path, {})
    got = run(path, {graph.input_names[0]: x})
    np.testing.assert_allclose(next(iter(got.values())), want, rtol=1e-4, atol=1e-6)


def test_a_damaged_keras_file(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    path = tmp_path / "model.keras"
    path.write_bytes(b"PK\3\4 no archive")
    with pytest.raises(ModelError, match="Keras cannot load the file"):
        read_model(path)


def test_a_keras_file_without_tensorflow(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(b"")
    program = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from planish.errors import ModelError\n"
        "from planish.importers.importer import read_model\n"
        f"try: read_model({str(path)!r})\n"
        "except ModelError as error: assert 'planish[tensorflow]' in str(error), error\n"
        "else: raise SystemExit(1)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
