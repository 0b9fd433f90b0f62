"""What a recorded TensorFlow graph is, and numbers for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """A graph: `build(tf, *tensors)` returns its outputs; `shapes` are what it declares."""

    name: str
    build: Callable[..., Any]
    inputs: tuple[Array, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    tolerance: float

    @property
    def names(self) -> list[str]:
        return [f"x{index}" for index in range(len(self.inputs))]


CASES: list[Case] = []


def case(
    name: str,
    build: Callable[..., Any],
    *inputs: Array,
    shapes: Sequence[tuple[int | None, ...]] | None = None,
    tolerance: float = 1e-5,
) -> None:
    declared = tuple(shapes or (array.shape for array in inputs))
    CASES.append(Case(name, build, inputs, declared, tolerance))


def floats(*shape: int, low: float = -3, high: float = 3, seed: int = 0) -> Array:
    drawn = np.random.default_rng((seed, *shape)).uniform(low, high, shape)
    return drawn.astype(np.float32)


def whole(
    *shape: int, low: int = -9, high: int = 10, dtype: Any = np.int32, seed: int = 0
) -> Array:
    return np.random.default_rng((seed, *shape)).integers(low, high, shape).astype(dtype)


def raw(op: str, **attributes: Any) -> Callable[..., Any]:
    """Return what builds one raw operation; operands by position in `inputs` order."""
    names = attributes.pop("names", ())

    def build(tf: Any, *tensors: Any) -> Any:
        constants = {
            key: tf.constant(value) if isinstance(value, np.ndarray) else value
            for key, value in attributes.items()
        }
        return getattr(tf.raw_ops, op)(**dict(zip(names, tensors, strict=True)), **constants)

    return build
