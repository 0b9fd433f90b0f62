"""The one place that imports TensorFlow."""

from __future__ import annotations

import importlib
from typing import Any

from planish.errors import ConfigError


def tensorflow() -> Any:
    """Return the module ``tensorflow``; raise ConfigError, with the remedy, without it."""
    return _module("tensorflow")


def internal(name: str) -> Any:
    """Return a module of ``tensorflow.python`` or ``tensorflow.core`` by its dotted name."""
    tensorflow()
    return _module(f"tensorflow.{name}")


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{name} cannot be imported: {error}",
            where="planish.frontends.tensorflow",
            fix="pip install 'planish[tensorflow]' (TensorFlow 2.13 or newer)",
        ) from error
