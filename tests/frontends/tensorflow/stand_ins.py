"""Engines and segments without TensorFlow or a build, for tests of the engine operation."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from planish.config import Profile
from planish.frontends.tensorflow.engine_cache import Allocate, Array, Shapes

NATIVE, BUILT = 3, 2  # factors that tell who computed


class StandInEngine:
    """Multiplies its first input by 2, for shapes within the profiles."""

    def __init__(self, profiles: Sequence[Profile], error: Exception | None = None) -> None:
        self.profiles = tuple(profiles)
        self.error = error
        self.runs = 0

    def accepts(self, shapes: Shapes) -> bool:
        return len(shapes) == len(self.profiles) and all(
            len(shape) == len(profile.min)
            and all(
                low <= extent <= high
                for low, extent, high in zip(profile.min, shape, profile.max, strict=True)
            )
            for shape, profile in zip(shapes, self.profiles, strict=True)
        )

    def execute(self, inputs: Sequence[Array], allocate: Allocate | None = None) -> list[Array]:
        self.runs += 1
        if self.error is not None:
            raise self.error
        result = inputs[0] * BUILT
        if allocate is None:
            return [result]
        target = allocate(0, result.shape)
        np.copyto(target, result)
        return [target]

    def to_bytes(self) -> bytes:
        return repr(self.profiles).encode()


class StandInSegment:
    """Multiplies by 3 as TensorFlow; records what is built."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.built: list[tuple[Profile, ...]] = []
        self.native_runs = 0
        self.releases = 0
        self.gate: threading.Event | None = None
        self.started = threading.Event()

    def run(self, inputs: Sequence[Array], library: Any) -> list[Array]:
        self.native_runs += 1
        return [inputs[0] * NATIVE]

    def release(self) -> None:
        self.releases += 1

    def build(
        self, profiles: Sequence[Profile], settings: Any, time_budget: float, library: Any
    ) -> StandInEngine:
        self.built.append(tuple(profiles))
        self.started.set()
        if self.gate is not None:
            self.gate.wait(10)
        if self.error is not None:
            raise self.error
        return StandInEngine(profiles)


def fixed(*shapes: tuple[int, ...]) -> list[Profile]:
    """Return profiles that allow exactly these shapes."""
    return [Profile(shape, shape, shape) for shape in shapes]
