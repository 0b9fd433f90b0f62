"""Makes small Keras SavedModels with the TensorFlow that runs it: make_keras.py FOLDER.

Each is saved by `model.export` and by `tf.saved_model.save`; beside it lies what its signature
computed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
from make import record

KERAS = tf.keras
LAYERS = KERAS.layers


def convolutions() -> Any:
    x = inputs = LAYERS.Input((16, 16, 3))
    x = LAYERS.ReLU()(LAYERS.BatchNormalization()(LAYERS.Conv2D(8, 3, padding="same")(x)))
    y = LAYERS.ReLU(6.0)(LAYERS.DepthwiseConv2D(3, strides=2, padding="same")(x))
    x = LAYERS.Add()([y, LAYERS.Conv2D(8, 1, strides=2)(x)])
    return KERAS.Model(inputs, LAYERS.Dense(4)(LAYERS.GlobalAveragePooling2D()(x)))


def recurrent() -> Any:
    inputs = LAYERS.Input((6, 4))
    x = LAYERS.Bidirectional(LAYERS.LSTM(5, return_sequences=True))(LAYERS.Masking()(inputs))
    return KERAS.Model(inputs, LAYERS.Dense(3)(LAYERS.GRU(4)(x)))


def attention() -> Any:
    x = inputs = LAYERS.Input((6, 8))
    x = LAYERS.LayerNormalization()(x + LAYERS.MultiHeadAttention(2, 4)(x, x))
    return KERAS.Model(inputs, LAYERS.Dense(8, activation="gelu")(x))


def main() -> None:
    folder, generator = Path(sys.argv[1]), np.random.default_rng(0)
    cases = {
        "convolutions": (convolutions, (2, 16, 16, 3)),
        "recurrent": (recurrent, (2, 6, 4)),
        "attention": (attention, (2, 6, 8)),
    }
    for name, (make, shape) in cases.items():
        KERAS.utils.set_random_seed(0)
        model = make()
        x = generator.standard_normal(shape).astype(np.float32)
        for how in ("export", "save"):
            path = folder / f"{name}_{how}"
            if how == "export":
                model.export(str(path))
            else:
                tf.saved_model.save(model, str(path))
            signature = tf.saved_model.load(str(path)).signatures["serving_default"]
            key = next(iter(signature.structured_input_signature[1]))
            outputs = signature(**{key: tf.constant(x)})
            record(path, {key: x}, {name: value.numpy() for name, value in outputs.items()})


if __name__ == "__main__":
    main()
