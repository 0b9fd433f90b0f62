"""The tuning stage: heuristic choices ("off"), known times ("cache"), or measured ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from planish.config import BuildConfig, environment
from planish.tactics.autotune import Bench, Tuner
from planish.tactics.select import Group, apply_cache
from planish.tactics.target import Target
from planish.tactics.timing_cache import TimingCache, check_cache_writable


class Clock(Protocol):
    """What tuning needs of the build's clock."""

    def tuning_time_left(self) -> float:
        """Return seconds that tuning may still take."""

    def progress(self, done: int, total: int, detail: str = "") -> None:
        """Tell the user how far tuning is."""


class Device(Protocol):
    """What tuning needs of a backend."""

    def why_untimed(self, target: Target) -> str | None:
        """Return why kernels for `target` cannot be timed here; None when they can."""

    def bench(self, target: Target) -> Bench:
        """Return what compiles and times candidates."""


def tune(
    groups: Sequence[Group], target: Target, config: BuildConfig, device: Device, clock: Clock
) -> str:
    """Fill in the groups' measured times as the configuration asks; return what was done.

    The timing cache is written after a measuring build, also one that was cancelled. Where kernels
    for the target cannot be timed, what the cache knows has to do.
    """
    if config.tune == "off":
        return "off"
    path = cache_path(config)
    cache = TimingCache.load(path)
    apply_cache(groups, cache)
    if config.tune == "cache":
        return "cache"
    reason = device.why_untimed(target)
    if reason is not None:
        return f"cache, not measured: {reason}"
    if path is not None:
        check_cache_writable(path)  # not after a minute of measuring
    Tuner(groups, target, device.bench(target), clock.tuning_time_left, clock.progress).run()
    for group in groups:
        for label, microseconds in group.times.items():
            cache.record(group.key, label, microseconds)
    apply_cache(groups, cache)  # rounded as in the file: a build from the cache decides the same
    if path is not None:
        cache.save(path)
    return "measure" if clock.tuning_time_left() > 0 else "measure (until time was up)"


def cache_path(config: BuildConfig) -> Path | None:
    """Return the timing cache's file: the configured one, else one in PLANISH_CACHE, else None."""
    if config.timing_cache is not None:
        return Path(config.timing_cache)
    folder = environment("PLANISH_CACHE")
    return Path(folder) / "timing.json" if folder else None
