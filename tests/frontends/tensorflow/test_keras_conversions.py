"""Keras models become one engine each and compute what they did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from planish.frontends.tensorflow import trt_convert as trt  # noqa: E402
from planish.frontends.tensorflow.functions import engine_nodes  # noqa: E402

layers = keras.layers
IMAGE = {"weights": None, "input_shape": (64, 64, 3), "classes": 10, "classifier_activation": None}


def resnet() -> Any:
    return keras.applications.ResNet50(**IMAGE)


def mobilenet() -> Any:
    return keras.applications.MobileNetV2(**IMAGE)


def lstm() -> Any:
    tokens = keras.Input([20], dtype="int32")
    hidden = layers.LSTM(32)(layers.Embedding(500, 16)(tokens))
    return keras.Model(tokens, layers.Dense(3)(hidden))


def masked_lstms() -> Any:
    tokens = keras.Input([20], dtype="int32")
    embedded = layers.Embedding(500, 16, mask_zero=True)(tokens)
    return keras.Model(tokens, layers.Dense(3)(layers.Bidirectional(layers.LSTM(16))(embedded)))


def transformer() -> Any:
    tokens = keras.Input([24], dtype="int32")
    x = layers.Embedding(500, 32, mask_zero=True)(tokens)
    for _ in range(2):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 8)(x, x))
        x = layers.LayerNormalization()(x + layers.Dense(32)(layers.Dense(64, "gelu")(x)))
    return keras.Model(tokens, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


def with_statistics(model: Any) -> Any:
    """Give vectors (biases, statistics of normalizations) values other than zeros and ones."""
    rng = np.random.default_rng(0)
    changed = []
    for weight in model.get_weights():
        noise = np.abs(rng.standard_normal(weight.shape)).astype(weight.dtype)
        changed.append(weight * (1 + noise / 10) + noise / 50 if weight.ndim == 1 else weight)
    model.set_weights(changed)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("make", [resnet, mobilenet, lstm, masked_lstms, transformer])
def test_one_engine_and_the_same_results(make: Callable[[], Any], tmp_path):
    keras.utils.set_random_seed(1)
    model = with_statistics(make())
    model.export(str(tmp_path / "in"))
    converter = trt.TrtGraphConverterV2(str(tmp_path / "in"), time_budget=20)
    converter.convert()
    (engine,) = engine_nodes(converter._converted_graph_def)
    outside = [n.op for n in converter._converted_graph_def.node if n.name != engine.name]
    assert set(outside) <= {"Placeholder", "EnsureShape", "Identity"}
    converter.save(str(tmp_path / "out"))
    rng = np.random.default_rng(1)
    shape = (3, *model.inputs[0].shape[1:])
    is_image = len(shape) == 4
    x = rng.standard_normal(shape) if is_image else rng.integers(0, 500, shape)
    x = x.astype(np.float32 if is_image else np.int32)
    signature = tf.saved_model.load(str(tmp_path / "out")).signatures["serving_default"]
    (got,) = signature(tf.constant(x)).values()
    expected = np.asarray(model(x, training=False))
    assert expected.std() > 1e-3
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-4 * np.abs(expected).max())
