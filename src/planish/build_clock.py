"""Time of a build: stages, the budget, progress and cancellation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from planish.config import BuildConfig, Progress
from planish.errors import BuildCancelled
from planish.report import StageReport

COMPILE_RESERVE = 0.15  # share of the budget kept for compiling the final engine


class BuildClock:
    """Knows how much of the time budget is left and tells the user where the build is.

    Parameters
    ----------
    config : BuildConfig
        Gives the budget and the progress and cancel callbacks.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        self.started = time.monotonic()
        self.stages: list[StageReport] = []
        self._stage = ""

    @property
    def elapsed(self) -> float:
        """Seconds since the build began."""
        return time.monotonic() - self.started

    @property
    def remaining(self) -> float:
        """Seconds left of the budget; negative when it is overdrawn."""
        return self.config.time_budget - self.elapsed

    @property
    def cancelled(self) -> bool:
        """Whether the user asked to stop."""
        return self.config.cancel is not None and self.config.cancel()

    def tuning_time_left(self) -> float:
        """Return seconds that tuning may still take; 0 when cancelled."""
        return 0.0 if self.cancelled else self.remaining - COMPILE_RESERVE * self.config.time_budget

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Record how long a stage takes; before the tuning stage a cancelled build ends here.

        Raises
        ------
        BuildCancelled
            When the user cancelled before every region had a tactic.
        """
        if self.cancelled and name in ("import", "passes", "tactics"):
            raise BuildCancelled(f"cancelled before the {name} stage", fix="start the build again")
        self._stage, started = name, time.monotonic()
        self.progress(0, 1)
        yield
        self.stages.append(StageReport(name, round(time.monotonic() - started, 3)))
        self.progress(1, 1)

    def progress(self, done: int, total: int, detail: str = "") -> None:
        """Tell the progress callback how far the current stage is."""
        if self.config.progress is not None:
            self.config.progress(
                Progress(self._stage, done, total, max(self.remaining, 0.0), detail)
            )
