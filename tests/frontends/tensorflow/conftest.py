"""Keeps the engines of conversions and those of hand-made graphs apart by their numbers."""

from __future__ import annotations

import itertools

import pytest

from planish.frontends.tensorflow import rewriting


@pytest.fixture(autouse=True, scope="session")
def number_conversions_from_500() -> None:
    """TensorFlow knows functions by name, and tests make TRTEngineOp_000_000 themselves."""
    rewriting._GRAPHS = itertools.count(500)
