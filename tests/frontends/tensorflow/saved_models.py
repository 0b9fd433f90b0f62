"""Small SavedModels, for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def save(folder: Path, function: Callable[..., Any], *specs: Any) -> Path:
    """Save a function of tensors as the signature serving_default."""
    import tensorflow as tf

    module = tf.Module()
    module.run = tf.function(function, input_signature=specs)
    tf.saved_model.save(module, str(folder), signatures=module.run)
    return folder


def spec(*shape: int | None, dtype: str = "float32", name: str = "x") -> Any:
    """Return the type of an input."""
    import tensorflow as tf

    return tf.TensorSpec(shape, tf.dtypes.as_dtype(dtype), name)


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    """Return normally distributed float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def network(x: Any) -> dict[str, Any]:
    """Two layers, with weights in constants: five operations and an Identity."""
    import tensorflow as tf

    hidden = tf.nn.relu(tf.nn.bias_add(x @ weights(8, 16), weights(16)))
    return {"scores": tf.nn.softmax(hidden @ weights(16, 4))}


def split_network(x: Any) -> Any:
    """Two segments around an operation that stays TensorFlow's."""
    import tensorflow as tf

    left = tf.nn.relu(x * 2.0 + 1.0)
    return tf.nn.relu(tf.math.lgamma(left + 3.0) * 0.5 - 1.0)
