"""Builds the engines of a conversion before the model runs, within a time budget.

Progress goes to standard error. Ctrl-C ends the tuning of the engine at hand, which is kept if it
runs already; the engines after it are abandoned: TensorFlow runs their segments.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from planish.config import DEFAULT_BATCH_RANGE, Profile, Progress
from planish.errors import BuildCancelled
from planish.frontends.tensorflow import environment, resources
from planish.frontends.tensorflow.calibration import ByteCalibrator
from planish.frontends.tensorflow.engine_builder import SegmentGraph, build_engine
from planish.frontends.tensorflow.engine_cache import Array, EngineCache, Shapes
from planish.frontends.tensorflow.engine_rules import (
    FAILURES,
    implicit_batch_profiles,
    profiles_for,
)
from planish.frontends.tensorflow.graph_view import reference
from planish.frontends.tensorflow.rewriting import PlacedEngine
from planish.frontends.tensorflow.saving import engine_resource
from planish.frontends.tensorflow.summary import EngineState
from planish.runtime.engine import Engine

Profiles = tuple[Profile, ...]  # one for each input
_SECONDS_BETWEEN_LINES = 10.0
_OPEN_EXTENTS = (
    "none yet: extents besides the batch are open. Call build(input_fn) with inputs of the shapes "
    "that matter; otherwise engines are built when inputs arrive"
)


class AheadBuilder:
    """The engines of one conversion.

    Parameters
    ----------
    engines : dict of str to PlacedEngine
        By name.

    Attributes
    ----------
    states : dict of str to EngineState
        What has become of each engine, for people.
    abandoned : list of str
        Engines that the user did not want to wait for.
    """

    def __init__(self, engines: Mapping[str, PlacedEngine]) -> None:
        self._engines = engines
        self._collected: dict[str, list[list[Array]]] = {}
        self._calibration: dict[str, bytes] = {}
        self._stop = threading.Event()
        self.states = {name: EngineState() for name in engines}
        self.abandoned: list[str] = []
        names = [placed.resource for placed in engines.values()]
        weakref.finalize(self, _release, names)

    # -- building ---------------------------------------------------------------------------------

    def build_for_batches(self, time_budget: float) -> None:
        """Build the engines whose inputs are open in their batch only."""
        wanted: dict[str, list[Profiles]] = {}
        for name, placed in self._engines.items():
            profiles = batch_profiles(placed.settings.input_shapes)
            if profiles is None:
                self.states[name] = EngineState(note=_OPEN_EXTENTS)
            else:
                wanted[name] = [profiles]
        self._build(wanted, time_budget)

    def build_for_collected(self, time_budget: float) -> None:
        """Build engines for the shapes that were collected, those that fit the strategy."""
        wanted: dict[str, list[Profiles]] = {}
        for name, placed in self._engines.items():
            cache = self._cache(name)
            if not cache.collected:
                continue
            if placed.settings.implicit_batch:
                sets = [implicit_batch_profiles(s, placed.settings) for s in cache.collected]
            else:
                sets = profiles_for(placed.settings.profile_strategy, cache.collected)
            wanted[name] = [profiles for profiles in sets if not _is_served(cache, profiles)]
        self._build(wanted, time_budget)

    def build_calibrated(self, time_budget: float) -> None:
        """Build every engine for the shapes that it was calibrated with."""
        wanted: dict[str, list[Profiles]] = {}
        for name, batches in self._collected.items():
            if not batches:
                continue  # nothing that was calibrated with came here
            shapes = tuple(array.shape for array in batches[0])
            wanted[name] = [implicit_batch_profiles(shapes, self._engines[name].settings)]
        self._build(wanted, time_budget)

    def _build(self, wanted: Mapping[str, Sequence[Profiles]], time_budget: float) -> None:
        """Build the engines one after another, each with a share of the time for its size."""
        todo = [(name, profiles) for name, sets in wanted.items() for profiles in sets]
        if not todo or time_budget <= 0:
            return
        deadline = time.monotonic() + time_budget
        weights = [len(self._engines[name].segment.names) for name, _ in todo]
        with _interruptible(self._stop):
            for index, (name, profiles) in enumerate(todo):
                left = deadline - time.monotonic()
                share = left * weights[index] / sum(weights[index:])
                if self._stop.is_set() or left <= 0:
                    self._abandon(name, left)
                else:
                    self._build_one(name, profiles, share)

    def _abandon(self, name: str, left: float) -> None:
        if self._cache(name).engines:
            return
        if self._stop.is_set():
            self.abandoned.append(name)
            note = "none: building was interrupted; TensorFlow runs this segment"
        else:
            note = "none yet: the time budget of the conversion ended; built when inputs arrive"
        self.states[name] = EngineState(self.states[name].engines, note)
        _tell(f"{name}: {note}")

    def _build_one(self, name: str, profiles: Profiles, seconds: float) -> None:
        placed = self._engines[name]
        segment = placed.segment
        graph = SegmentGraph(
            segment.graph_def(),
            tuple(segment.arguments),
            tuple(reference(tensor) for tensor in segment.outputs),
        )
        _tell(f"{name}: building ({len(segment.names)} operations, {seconds:.0f} s at most)")
        started = time.monotonic()
        batches = self._collected.get(name)
        calibrator = ByteCalibrator(batches, self.calibration_data(name)) if batches else None
        try:
            engine = build_engine(
                graph,
                profiles,
                placed.settings,
                seconds,
                calibrator=calibrator,
                progress=_progress_lines(name),
                cancel=self._stop.is_set,
            )
        except BuildCancelled:
            self._abandon(name, 0.0)
            return
        except FAILURES as error:
            self._failed(name, profiles, f"the engine could not be built: {error}")
            return
        if calibrator is not None:
            self._calibration[name] = self._cache(name).calibration_data = calibrator.data
        shapes = tuple(profile.opt for profile in profiles)
        self._cache(name).put(engine, shapes)
        _export(name, engine)
        line = f"{_span(profiles)}, {_precisions(engine)}, {time.monotonic() - started:.1f} s"
        self.states[name] = EngineState((*self.states[name].engines, line))
        _tell(f"{name}: built {line}")

    def _failed(self, name: str, profiles: Profiles, text: str) -> None:
        """Remember that these shapes have no engine; the segment runs in TensorFlow."""
        key = tuple(profile.opt for profile in profiles)
        settings = self._engines[name].settings
        self._cache(name).fail(key if settings.implicit_batch else (), text)
        note = f"none: {text.splitlines()[0]}; TensorFlow runs this segment"
        self.states[name] = EngineState(self.states[name].engines, note)
        _tell(f"{name}: {text}")

    def _cache(self, name: str) -> EngineCache:
        placed = self._engines[name]
        return resources.cache_of(placed.resource, placed.settings.max_engines)

    # -- calibration ------------------------------------------------------------------------------

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keep everything that flows into the engines meanwhile."""
        for name in self._engines:
            self._collected[name] = []
            self._cache(name).collector = self._keeper(name)
        try:
            yield
        finally:
            for name in self._engines:
                self._cache(name).collector = None

    def _keeper(self, name: str) -> Callable[[list[Array]], None]:
        batches = self._collected[name]
        return lambda arrays: batches.append([array.copy() for array in arrays])

    def calibration_data(self, name: str) -> bytes:
        """Return the calibration cache of an engine, b"" where there is none."""
        return self._calibration.get(name, b"")

    # -- saving -----------------------------------------------------------------------------------

    @contextmanager
    def serialized(self, with_engines: bool) -> Iterator[dict[str, Any]]:
        """Give the resources that put the engines into a SavedModel; their files are temporary."""
        folder = Path(tempfile.mkdtemp(prefix="planish-engines-"))
        try:
            made = {}
            for name, placed in self._engines.items():
                if not self._cache(name).engines:
                    continue
                path = folder / f"{resources.ASSET_PREFIX}{name}"
                resources.save_engines(placed.resource, str(path), with_engines=with_engines)
                made[name] = engine_resource(
                    placed.resource, str(path), placed.settings.max_engines
                )
            yield made
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def batch_profiles(shapes: Sequence[tuple[int | None, ...] | None]) -> Profiles | None:
    """Return profiles for inputs that are open in their first extents only, else None."""
    low, opt, high = DEFAULT_BATCH_RANGE
    profiles = []
    for shape in shapes:
        if shape is None or None in shape[1:]:
            return None
        rest = tuple(extent for extent in shape[1:] if extent is not None)
        if shape[:1] == (None,):
            profiles.append(Profile((low, *rest), (opt, *rest), (high, *rest)))
        else:
            fixed = tuple(extent for extent in shape if extent is not None)
            profiles.append(Profile(fixed, fixed, fixed))
    return tuple(profiles)


def _is_served(cache: EngineCache, profiles: Profiles) -> bool:
    """Return whether an engine tuned for these shapes serves the whole range."""
    tuned: Shapes = tuple(profile.opt for profile in profiles)
    ends = [tuple(getattr(profile, end) for profile in profiles) for end in ("min", "max")]
    return any(
        cached.shapes == tuned and all(map(cached.engine.accepts, ends)) for cached in cache.engines
    )


def _span(profiles: Profiles) -> str:
    """Return "[1..32, 224, 224, 3]" for each input."""
    spans = []
    for profile in profiles:
        pairs = zip(profile.min, profile.max, strict=True)
        spans.append([str(low) if low == high else f"{low}..{high}" for low, high in pairs])
    return " ".join(f"[{', '.join(span)}]" for span in spans)


def _precisions(engine: Engine) -> str:
    """Return the element types that the regions really run in, the most frequent first."""
    counts: dict[str, int] = {}
    for layer in engine.report.layers:
        counts[layer.precision] = counts.get(layer.precision, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return "runs in " + ", ".join(f"{name} ({count} regions)" for name, count in ordered)


def _export(name: str, engine: Engine) -> None:
    folder = environment.export_path()
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        engine.save(Path(folder, f"{name}.plan"))


def _release(names: list[str]) -> None:
    """Let go of a conversion's engines; models that were loaded keep their own."""
    for name in names:
        resources.drop_cache(name)


# -- talking to the user --------------------------------------------------------------------------


def _tell(text: str) -> None:
    print(f"planish: {text}", file=sys.stderr, flush=True)


def _progress_lines(name: str) -> Callable[[Progress], None]:
    """Return a callback that prints a line now and then."""
    last = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last < _SECONDS_BETWEEN_LINES:
            return
        last = time.monotonic()
        _tell(
            f"{name}: {progress.stage} {progress.done}/{progress.total}, "
            f"{progress.remaining:.0f} s left"
        )

    return show


@contextmanager
def _interruptible(stop: threading.Event) -> Iterator[None]:
    """Let the first Ctrl-C end building instead of the program; the second ends the program."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: FrameType | None) -> None:
        _tell("interrupted: engines that are built are kept, the rest runs in TensorFlow")
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
