"""The search for the fastest mix of precisions within a `Budget`.

Layers are ranked by what they cost and bring: the noise that a layer alone adds to the outputs in
the lower precision, for each microsecond that it gains there. The layers of highest rank go back
to the next higher precision, and bisection finds how many have to, with a real engine evaluated on
the user's data at each step. Of these, those that gain most are then tried in the lower precision
once more, one at a time, since what the ranking blames need not be what the metric minds.

Float32 is accurate by definition, so there always is an engine to return; when the time budget ends
the search, it is the fastest accurate one so far.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from planish.engine.parts import EngineParts
from planish.errors import BuildCancelled
from planish.passes.overrides import exactly
from planish.quantize.budget import Budget
from planish.quantize.evaluation import Evaluation
from planish.report_accuracy import AccuracyReport, KeptLayer, Trial
from planish.report_sensitivity import LayerError
from planish.runtime.engine import Engine

FLOAT32 = "float32"
REFINEMENTS = 6  # layers that are tried in the lower precision once more
TIMING_SECONDS = 1.0  # of a trial, together with the float32 engine it is compared with
FEWEST_RUNS, MOST_RUNS = 3, 200
LONGER = 1.3  # a trial may take this much longer than the longest so far
RANKING = 1.5  # times as long as a trial


class Builds(Protocol):
    """What the search needs of the build."""

    @property
    def tunes(self) -> bool:
        """Whether kernels are measured at all."""

    def parts(
        self, precision: str, raised: Mapping[str, str], *, tune: bool, share: float = 1.0
    ) -> EngineParts:
        """Build one mix.

        Parameters
        ----------
        precision : str
            As in `BuildConfig`.
        raised : dict of str to str
            Layers that go no lower than this, as in `BuildConfig.layer_precisions`.
        tune : bool
            Whether to measure kernels as the user allows, or to take known times only.
        share : float
            Of the time budget's rest that the build may take.
        """

    def ranking(self, precision: str) -> Sequence[LayerError]:
        """Return the error that each layer brings when it alone runs in `precision`."""

    def seconds_left(self) -> float:
        """Return what is left of the time budget; 0 when the user cancelled."""

    def progress(self, doing: str) -> None:
        """Tell the user what is tried."""


@dataclass
class _Found:
    """An engine of the search, and what is known of it."""

    trial: Trial
    parts: EngineParts
    engine: Engine
    precision: str
    raised: Mapping[str, str]
    kept: tuple[KeptLayer, ...] = ()
    is_tuned: bool = True


@dataclass
class PrecisionSearch:
    """Finds the fastest engine within a budget.

    Parameters
    ----------
    budget : Budget
    precision : str
        What the user asked for, as in `BuildConfig`.
    levels : sequence of str
        Precisions of layers from the lowest to "fp32".
    builds : Builds
    """

    budget: Budget
    precision: str
    levels: Sequence[str]
    builds: Builds
    evaluation: Evaluation = field(init=False)
    trials: list[Trial] = field(default_factory=list, init=False)
    notes: list[str] = field(default_factory=list, init=False)
    _float32: _Found = field(init=False)
    _best: _Found = field(init=False)
    _longest: float = field(default=0.0, init=False)
    _layers: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.evaluation = Evaluation(self.budget)

    def run(self) -> tuple[EngineParts, AccuracyReport]:
        """Return the fastest engine that was found to be within the budget, and the way there."""
        self._start()
        try:
            self._search()
            self._tune_chosen()
        except BuildCancelled:
            self.notes.append("cancelled: the fastest accurate engine so far")
        return self._best.parts, self._report()

    def _start(self) -> None:
        """Build and evaluate float32, which everything else is compared with."""
        self.builds.progress(FLOAT32)
        started = time.monotonic()
        parts = self.builds.parts("fp32", {}, tune=True, share=0.2)
        engine = Engine(parts)
        metric = self.evaluation.of_float32(engine)
        self.budget.limit(metric)  # raises when nothing can reach it
        milliseconds = min(self._times(engine))
        trial = Trial(FLOAT32, 0, metric, milliseconds, accepted=True)
        self.trials.append(trial)
        self._float32 = self._best = _Found(trial, parts, engine, "fp32", {})
        self._longest = time.monotonic() - started

    def _search(self) -> None:
        lowest = self._try(self.precision, {}, self.precision, tune=True, share=0.3)
        if lowest is None or lowest.trial.accepted:
            return
        for lower, higher in pairwise(self.levels):
            if lower == self.levels[0]:
                precision, start = self.precision, lowest
            else:  # not even all layers of the lowest precision were enough: without it
                precision = lower
            if higher != self.levels[-1]:
                whole = self._try(higher, {}, higher)
                if whole is None:
                    return
                if not whole.trial.accepted:
                    start = whole
                    continue
            self._mix(precision, lower, higher, start)
            return

    def _mix(self, precision: str, lower: str, higher: str, start: _Found) -> None:
        """Find the layers that have to run in `higher`, when `lower` everywhere is too little."""
        if not self._has_time(LONGER * (1 + RANKING)):
            return
        self.builds.progress("ranking layers")
        ranked = self._ranked(self.builds.ranking(lower), start)
        self._layers = len(ranked)
        too_few, enough = 0, len(ranked)
        raised: list[LayerError] | None = None
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            found = self._try_layers(precision, ranked[:middle], higher)
            if found is None:
                return
            if found.trial.accepted:
                enough, raised = middle, ranked[:middle]
            else:
                too_few = middle
        if raised:
            self._lower_again(precision, higher, raised, start)

    def _lower_again(
        self, precision: str, higher: str, raised: Sequence[LayerError], start: _Found
    ) -> None:
        """Try single layers in the lower precision once more, those that gain most first.

        The last one is needed: bisection tried without it.
        """
        gains = self._gains(raised, start)
        kept = list(raised)
        order = sorted(raised[:-1], key=lambda layer: -gains[layer.name])
        for layer in [each for each in order if gains[each.name] > 0][:REFINEMENTS]:
            fewer = [each for each in kept if each is not layer]
            found = self._try_layers(precision, fewer, higher)
            if found is None:
                return
            if found.trial.accepted:
                kept = fewer

    def _ranked(self, layers: Sequence[LayerError], start: _Found) -> list[LayerError]:
        """Return layers in the order in which they are to be raised."""
        gains = self._gains(layers, start)

        def blame(layer: LayerError) -> float:
            gain = gains[layer.name]
            return math.inf if gain <= 0 else _noise(layer) / gain

        return sorted(layers, key=lambda layer: (-blame(layer), -_noise(layer)))

    def _gains(self, layers: Sequence[LayerError], start: _Found) -> dict[str, float]:
        """Return the microseconds that each layer gains in the lower precision.

        Where they were not measured, they are taken to be a share of the arithmetic.
        """
        before, after = _times_by_layer(self._float32.engine), _times_by_layer(start.engine)
        measured = {}
        for layer in layers:
            times = [_time_of(layer, each) for each in (before, after)]
            if times[0] is not None and times[1] is not None:
                measured[layer.name] = times[0] - times[1]
        operations = sum(layer.operations for layer in layers if layer.name in measured)
        rate = sum(measured.values()) / operations if operations else 0.0
        rate = rate if rate > 0 else 1.0
        return {
            layer.name: measured.get(layer.name, max(layer.operations, 1) * rate)
            for layer in layers
        }

    def _try_layers(
        self, precision: str, raised: Sequence[LayerError], higher: str
    ) -> _Found | None:
        name = f"{precision}, {len(raised)} of {self._layers} layers in {higher}"
        patterns = {exactly(each): higher for layer in raised for each in layer.names}
        kept = tuple(KeptLayer(layer.name, higher, layer.signal_to_noise) for layer in raised)
        return self._try(precision, patterns, name, kept)

    def _try(
        self,
        precision: str,
        raised: Mapping[str, str],
        name: str,
        kept: tuple[KeptLayer, ...] = (),
        *,
        tune: bool = False,
        share: float = 1.0,
    ) -> _Found | None:
        """Build, evaluate and time one mix; None when there is no time left for it."""
        if not self._has_time(LONGER):
            return None
        self.builds.progress(name)
        started = time.monotonic()
        parts = self.builds.parts(precision, raised, tune=tune, share=share)
        found = self._evaluated(parts, precision, raised, self._unused(name), kept)
        found.is_tuned = tune
        if not (tune and self.builds.tunes):  # tuning takes what time it is given
            self._longest = max(self._longest, time.monotonic() - started)
        self.trials.append(found.trial)
        if found.trial.accepted and found.trial.milliseconds < self._best.trial.milliseconds:
            self._best = found
        return found

    def _has_time(self, trials: float) -> bool:
        """Whether there is time for so many trials as long as the longest so far; say if not."""
        if self.builds.seconds_left() >= trials * self._longest:
            return True
        self.notes.append("the time budget ended the search: a longer one may find a faster engine")
        return False

    def _unused(self, name: str) -> str:
        taken = sum(
            trial.name == name or trial.name.startswith(f"{name} (") for trial in self.trials
        )
        return f"{name} ({taken + 1})" if taken else name

    def _evaluated(
        self,
        parts: EngineParts,
        precision: str,
        raised: Mapping[str, str],
        name: str,
        kept: tuple[KeptLayer, ...],
    ) -> _Found:
        engine = Engine(parts)
        metric = self.evaluation.of(engine)
        accepted = self.budget.accepts(metric, self._float32.trial.metric)
        trial = Trial(name, len(kept), metric, self._milliseconds(engine), accepted)
        return _Found(trial, parts, engine, precision, raised, kept)

    def _tune_chosen(self) -> None:
        """Build the chosen mix again with tuning, when it was tried without; keep the better."""
        best = self._best
        if best.is_tuned or not self.builds.tunes:
            return
        if self.builds.seconds_left() < LONGER * self._longest:
            return
        self.builds.progress(f"tuning {best.trial.name}")
        parts = self.builds.parts(best.precision, best.raised, tune=True)
        tuned = self._evaluated(parts, best.precision, best.raised, best.trial.name, best.kept)
        if not tuned.trial.accepted or tuned.trial.milliseconds > best.trial.milliseconds:
            return
        self.trials[self.trials.index(best.trial)] = tuned.trial
        self._best = tuned

    def _milliseconds(self, engine: Engine) -> float:
        """Return the time of an inference, corrected by how fast float32 runs in between.

        Fastest runs are compared: those that other programs slowed down say nothing.
        """
        others: list[float] = []
        times = self._times(engine, others)
        return min(times) * self._float32.trial.milliseconds / min(others)

    def _times(self, engine: Engine, others: list[float] | None = None) -> list[float]:
        """Return milliseconds of single inferences; those of float32 in turn go into `others`."""
        engine.run(self.evaluation.first)
        times: list[float] = []
        end = time.monotonic() + TIMING_SECONDS
        while len(times) < FEWEST_RUNS or (len(times) < MOST_RUNS and time.monotonic() < end):
            times.append(self._time(engine))
            if others is not None:
                others.append(self._time(self._float32.engine))
        return times

    def _time(self, engine: Engine) -> float:
        started = time.perf_counter()
        engine.run(self.evaluation.first)
        return 1e3 * (time.perf_counter() - started)

    def _report(self) -> AccuracyReport:
        best, before = self._best, self._float32.trial.metric
        if best is self._float32 and len(self.trials) > 1:
            self.notes.append("float32 is the fastest of what is accurate enough")
        return AccuracyReport(
            metric=self.budget.name,
            higher_is_better=self.budget.higher_is_better,
            limit=self.budget.limit(before),
            before=before,
            after=best.trial.metric,
            samples=self.evaluation.samples,
            layers=self._layers,
            kept=best.kept,
            trials=tuple(self.trials),
            chosen=best.trial.name,
            notes=tuple(self.notes),
        )


def _noise(layer: LayerError) -> float:
    """Return the power of a layer's noise, as a share of that of the outputs."""
    if math.isnan(layer.signal_to_noise):
        return math.inf
    return 10 ** (-max(layer.signal_to_noise, -3000.0) / 10)


def _times_by_layer(engine: Engine) -> dict[str, list[float | None]]:
    """Return the measured microseconds of the regions that compute each layer's product."""
    times: dict[str, list[float | None]] = {}
    for region in engine.report.layers:
        for name in region.products:
            times.setdefault(name, []).append(region.microseconds)
    return times


def _time_of(layer: LayerError, times: Mapping[str, Sequence[float | None]]) -> float | None:
    found = times.get(layer.names[0]) if layer.names else None
    if not found or any(each is None for each in found):
        return None
    return sum(each for each in found if each is not None)
