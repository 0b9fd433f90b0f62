"""Keras networks of every family against the TensorFlow that is installed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.config import BuildConfig
from planish.importers.importer import read_model
from planish.ir.graph import Graph
from planish.ops.interpreter import run_graph
from planish.passes.pipeline import optimize

pytestmark = pytest.mark.slow

APPLICATIONS = {
    "ConvNeXtTiny": 64, "DenseNet121": 64, "EfficientNetB0": 64, "EfficientNetV2B0": 64,
    "InceptionV3": 75, "MobileNet": 64, "MobileNetV2": 64,
    "MobileNetV3Large": 64, "MobileNetV3Small": 64, "NASNetMobile": 64, "ResNet50": 64,
    "ResNet50V2": 64, "VGG16": 64, "Xception": 71,
}  # fmt: skip


@pytest.fixture(scope="module")
def tf() -> Any:
    tensorflow = pytest.importorskip("tensorflow")
    tensorflow.keras.utils.set_random_seed(1)
    return tensorflow


def saved(model: Any, folder: Path) -> Path:
    """Write `model` as its Keras exports one."""
    if hasattr(model, "export"):
        model.export(
            str(folder), **({"verbose": False} if "Functional" in str(type(model)) else {})
        )
    return folder


def randomized(model: Any) -> Any:
    """Give normalizations numbers that training could have left."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        path = getattr(variable, "path", variable.name)
        shape = tuple(variable.shape)
        if "variance" in path:
            variable.assign(rng.uniform(0.5, 1.5, shape))
        elif "gamma" in path:
            variable.assign(rng.uniform(0.8, 1.2, shape))
        elif "mean" in path or "beta" in path:
            variable.assign(rng.normal(0, 0.1, shape))
    return model


def check(tf: Any, model: Any, folder: Path, *inputs: np.ndarray) -> Graph:
    """Compare the imported model with TensorFlow's signature, before and after the passes."""
    path = saved(randomized(model), folder)
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    keys = sorted(signature.structured_input_signature[1])
    expected = signature(**dict(zip(keys, map(tf.constant, inputs), strict=True)))
    graph = read_model(path)
    given = dict(zip(keys, inputs, strict=True))
    for _ in range(2):
        results = run_graph(graph, [given[name] for name in graph.input_names])
        for name, result in zip(graph.output_names, results, strict=True):
            wanted = expected[name].numpy()
            limit = 2e-5 * max(float(np.abs(wanted).max()), 1e-3)
            np.testing.assert_allclose(result, wanted, atol=limit, rtol=1e-4)
        optimize(graph, BuildConfig())
    return graph


@pytest.mark.parametrize("name", APPLICATIONS)
def test_application(name: str, tf: Any, tmp_path: Path) -> None:
    size = APPLICATIONS[name]
    network = getattr(tf.keras.applications, name)
    model = network(weights=None, input_shape=(size, size, 3), classes=10)
    image = np.random.default_rng(1).uniform(0, 2, (1, size, size, 3)).astype(np.float32)
    graph = check(tf, model, tmp_path / name, image)
    moved = [node for node in graph if node.op == "Region" and _only_moves(node.body)]
    # the input's halo, and where pads or slices of NASNet and ResNet50V2 stand alone
    assert len(moved) <= 1, [str(node.source) for node in moved]


def _only_moves(body: Graph) -> bool:
    return all(node.op in ("Identity", "Transpose") for node in body)


@pytest.mark.parametrize("masked", [False, True])
def test_transformer(masked: bool, tf: Any, tmp_path: Path) -> None:
    keras = tf.keras
    tokens = keras.Input((16,), dtype="int32")
    x = keras.layers.Embedding(50, 32, mask_zero=masked)(tokens)
    for _ in range(2):
        attended = keras.layers.MultiHeadAttention(4, 8)(x, x)
        x = keras.layers.LayerNormalization(epsilon=1e-6)(x + attended)
        hidden = keras.layers.Dense(64, activation="gelu")(x)
        x = keras.layers.LayerNormalization(epsilon=1e-6)(x + keras.layers.Dense(32)(hidden))
    output = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(x))
    numbers = np.random.default_rng(0).integers(0 if masked else 1, 50, (2, 16)).astype(np.int32)
    graph = check(tf, keras.Model(tokens, output), tmp_path / "model", numbers)
    kinds = Counter(node.attributes["kind"] for node in graph if node.op == "Region")
    assert kinds["Attention"] == 2
    assert kinds["LayerNormalization"] == 4
    assert kinds["Einsum"] == 0


def test_encoder_and_decoder_of_images(tf: Any, tmp_path: Path) -> None:
    layers = tf.keras.layers
    image = tf.keras.Input((32, 48, 3))
    x = skip = layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(16, 3, padding="same", dilation_rate=2, activation="swish")(x)
    x = layers.Conv2DTranspose(8, 3, 2, padding="same")(x)
    x = layers.Concatenate()([x, skip])
    x = layers.UpSampling2D()(layers.SeparableConv2D(8, 3, padding="same")(x))
    output = layers.Conv2D(2, 1, activation="softmax")(x)
    pixels = np.random.default_rng(0).normal(size=(2, 32, 48, 3)).astype(np.float32)
    graph = check(tf, tf.keras.Model(image, output), tmp_path / "model", pixels)
    kinds = Counter(node.attributes["kind"] for node in graph if node.op == "Region")
    assert kinds["Resize"] == 1
    assert kinds["Conv"] == 5
    assert kinds["Pad"] == kinds["Tile"] == 0
