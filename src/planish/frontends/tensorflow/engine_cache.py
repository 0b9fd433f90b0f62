"""Engines that one engine operation keeps: which serves which shapes, which is given up, and why.

A cache belongs to a *resource name* (see `resources`). Engines for different shapes are kept up to
a capacity; the least recently used one goes first. A shape that had to go and comes back is built
once more, and then the cache grows instead: alternating shapes never rebuild for ever.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakSet

import numpy as np

from planish.config import environment
from planish.errors import ConfigError

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Shapes = tuple[Shape, ...]  # of all inputs, in the operation's order
Allocate = Callable[[int, Shape], Array]

LOG = logging.getLogger("planish.tensorflow")
DEFAULT_TIME_BUDGET = 120.0  # seconds of building at run time, all engines of a process together
MAX_EXTRA = 8  # engines kept beyond the capacity because their shapes alternate
MAX_REMEMBERED = 1024  # shapes whose fate is remembered


class RunnableEngine(Protocol):
    """What a cache keeps; `planish.Engine` is one."""

    def accepts(self, shapes: Shapes) -> bool:
        """Return whether inputs of these shapes can be run."""

    def execute(self, inputs: Sequence[Array], allocate: Allocate | None = None) -> list[Array]:
        """Run one inference on the inputs in order and return the outputs in order.

        `allocate` gives the array for an output, by its index and shape, as soon as that is known.
        """

    def to_bytes(self) -> bytes:
        """Return the engine as the bytes of a ``.plan`` file."""


class Dependent(Protocol):
    """What holds memory on behalf of a cache."""

    def release(self) -> None:
        """Free what can be made again."""


@dataclass(frozen=True)
class CachedEngine:
    """An engine and the shapes for which it was built (those it is fastest with)."""

    engine: RunnableEngine
    shapes: Shapes


class TimeBudget:
    """Seconds that a process may spend building engines while it runs inferences.

    Parameters
    ----------
    seconds : float, optional
        PLANISH_TF_TIME_BUDGET by default, which is read at the first build, or 120.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds
        self._spent = 0.0
        self._building = threading.Lock()

    @property
    def seconds(self) -> float:
        """All that may be spent."""
        if self._seconds is None:
            self._seconds = _budget_of_environment()
        return self._seconds

    @property
    def remaining(self) -> float:
        """What is left."""
        return max(self.seconds - self._spent, 0.0)

    @contextmanager
    def building(self) -> Iterator[bool]:
        """Count the time of the block as spent; gives False when another thread is building."""
        if not self._building.acquire(blocking=False):
            yield False
            return
        start = time.monotonic()
        try:
            yield True
        finally:
            self._spent += time.monotonic() - start
            self._building.release()


def _budget_of_environment() -> float:
    text = environment("PLANISH_TF_TIME_BUDGET")
    if text is None or not text.strip():
        return DEFAULT_TIME_BUDGET
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise ConfigError(
            f"PLANISH_TF_TIME_BUDGET is {text!r}, expected seconds",
            where="environment variable PLANISH_TF_TIME_BUDGET",
            fix="give a number like 120; 0 builds nothing at run time",
        )
    return seconds


class EngineCache:
    """The engines of one resource name; any number of threads may use it.

    Parameters
    ----------
    name : str
        For messages.
    capacity : int
        Engines that are kept (``maximum_cached_engines``).

    Attributes
    ----------
    collector : callable or None
        While it is set, the operation calibrates: every set of inputs is given to it (a list of
        arrays that it must copy if it keeps them), and TensorFlow runs the segment.
    calibration_data : bytes
        What GetCalibrationDataOp returns.
    source : callable or None
        Puts engines into the cache again that `unload` took out; called once, when needed.
    dependents : set
        Weakly held; `unload` calls their ``release``.
    version : int
        Changes whenever an engine comes or goes.
    """

    def __init__(self, name: str, capacity: int = 1) -> None:
        self.name = name
        self.collector: Callable[[list[Array]], None] | None = None
        self.calibration_data = b""
        self.source: Callable[[EngineCache], None] | None = None
        self.dependents: WeakSet[Dependent] = WeakSet()
        self.version = 0
        self._capacity = max(capacity, 1)
        self._extra = 0
        self._engines: OrderedDict[Shapes, CachedEngine] = OrderedDict()
        self._failures: dict[Shapes, str] = {}
        self._builds: dict[Shapes, int] = {}
        self._collected: dict[Shapes, None] = {}
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._restoring = threading.Lock()

    @property
    def engines(self) -> tuple[CachedEngine, ...]:
        """The engines, the least recently used one first."""
        with self._lock:
            return tuple(self._engines.values())

    @property
    def collected(self) -> tuple[Shapes, ...]:
        """Shapes that were seen in profile generation mode, in order, once each."""
        with self._lock:
            return tuple(self._collected)

    def collect(self, shapes: Shapes) -> None:
        """Remember shapes that engines shall be built for."""
        with self._lock:
            self._collected[shapes] = None

    def put(self, engine: RunnableEngine, shapes: Shapes) -> None:
        """Keep an engine that was built ahead (by a conversion, or read from a file).

        Engines built ahead never push each other out: the capacity grows with them.

        Parameters
        ----------
        engine : RunnableEngine
        shapes : tuple of shapes
            Of all inputs: those that it is tuned for. An engine of the same shapes is replaced.
        """
        with self._lock:
            self._insert(engine, shapes)
            self._capacity = max(self._capacity, len(self._engines))

    def add(self, engine: RunnableEngine, shapes: Shapes) -> None:
        """Keep an engine that was built at run time; the least recently used one may have to go."""
        with self._lock:
            self._builds[shapes] = self._builds.get(shapes, 0) + 1
            returned = self._builds[shapes] > 1 and shapes not in self._engines
            self._insert(engine, shapes)
            if returned and self._extra < MAX_EXTRA:
                self._extra = max(self._extra, len(self._engines) - self._capacity)
            kept = self._capacity + self._extra
            while len(self._engines) > kept:
                self._engines.popitem(last=False)
        if returned:
            self.warn_once(
                "alternating",
                f"inputs of {self._capacity + 1} or more shapes take turns, but only "
                f"{self._capacity} engine(s) may be kept; {kept} are kept now. Convert with "
                f"maximum_cached_engines={kept} or more, or build with a profile (dynamic shape) "
                "that includes all of them.",
            )

    def find(self, shapes: Shapes) -> CachedEngine | None:
        """Return the engine that serves these shapes, the one built for the nearest if several."""
        with self._lock:
            fitting = [cached for cached in self._engines.values() if cached.engine.accepts(shapes)]
            if not fitting:
                return None
            nearest = min(fitting, key=lambda cached: _distance(cached.shapes, shapes))
            self._engines.move_to_end(nearest.shapes)
            return nearest

    def touch(self, cached: CachedEngine) -> None:
        """Note that an engine that `find` returned before was used again."""
        if len(self._engines) < 2:
            return
        with self._lock:
            if cached.shapes in self._engines:
                self._engines.move_to_end(cached.shapes)

    def fail(self, shapes: Shapes, reason: str) -> None:
        """Remember that there will be no engine for these shapes: an empty entry of TF-TRT."""
        with self._lock:
            if len(self._failures) < MAX_REMEMBERED:
                self._failures[shapes] = reason

    def failure(self, shapes: Shapes) -> str | None:
        """Return why there is no engine for these shapes; None when it is worth trying."""
        reason = self._failures.get(shapes)
        if reason is None and self._builds.get(shapes, 0) > 1:
            return (
                "an engine for these shapes was built twice and had to make room for others; "
                "convert with a larger maximum_cached_engines"
            )
        return reason

    def unload(self, source: Callable[[EngineCache], None] | None) -> None:
        """Free the memory of the engines; `source` brings them back if somebody needs them."""
        self.clear()
        self.source = source
        for dependent in list(self.dependents):
            dependent.release()

    def restore(self) -> bool:
        """Bring back what `unload` took out; return whether there was anything to bring back."""
        if self.source is None:
            return False
        with self._restoring:
            source, self.source = self.source, None
            if source is not None:
                source(self)
        return True

    def clear(self) -> None:
        """Forget engines, failures and collected shapes."""
        with self._lock:
            for kept in (self._engines, self._failures, self._builds, self._collected):
                kept.clear()
            self._extra = 0
            self.version += 1

    def warn_once(self, key: str, text: str) -> None:
        """Log a warning, once for each key."""
        with self._lock:
            if key in self._told or len(self._told) >= MAX_REMEMBERED:
                return
            self._told.add(key)
        LOG.warning("%s: %s", self.name, text)

    def _insert(self, engine: RunnableEngine, shapes: Shapes) -> None:
        self._engines[shapes] = CachedEngine(engine, shapes)
        self._engines.move_to_end(shapes)
        self._failures.pop(shapes, None)
        self.version += 1


def _distance(built_for: Shapes, shapes: Shapes) -> tuple[bool, int]:
    """Order engines: the one built for exactly these shapes, then the next larger or smaller."""
    elements = sum(map(math.prod, shapes))
    return built_for != shapes, abs(sum(map(math.prod, built_for)) - elements)
