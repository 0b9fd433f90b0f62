"""Time of a build: stages, the budget, progress and cancellation; and what it tells developers.

PLANISH_DEBUG, PLANISH_DUMP and PLANISH_STOP_AFTER (see config.py) are honoured here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from planish.config import BuildConfig, Progress, environment
from planish.errors import BuildCancelled, BuildStopped, ConfigError
from planish.report import StageReport

STAGES = ("import", "passes", "tactics", "tune", "plan", "compile")
COMPILE_RESERVE = 0.15  # share of the budget kept for compiling the final engine


class BuildClock:
    """Knows how much of the time budget is left and tells the user where the build is.

    Parameters
    ----------
    config : BuildConfig
        Gives the budget and the progress and cancel callbacks.

    Raises
    ------
    ConfigError
        When a PLANISH_ environment variable is unknown or has a wrong value.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        self.started = time.monotonic()
        self.stages: list[StageReport] = []
        self._stage = ""
        self._debug = _debug_level()
        self._dump = environment("PLANISH_DUMP")
        self._stop_after = _stop_after()

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
        BuildStopped
            When PLANISH_STOP_AFTER names this stage.
        """
        if self.cancelled and name in ("import", "passes", "tactics"):
            raise BuildCancelled(f"cancelled before the {name} stage", fix="start the build again")
        self._stage, started = name, time.monotonic()
        self.progress(0, 1)
        yield
        self.stages.append(StageReport(name, round(time.monotonic() - started, 3)))
        self.progress(1, 1)
        self.tell(1, [f"{name}: {self.stages[-1].seconds:.3f} s, {self.remaining:.1f} s left"])
        if name == self._stop_after:
            raise BuildStopped(
                f"stopped after the {name} stage",
                where="environment variable PLANISH_STOP_AFTER",
                fix="unset it for an engine; PLANISH_DUMP=folder keeps what the stages made",
            )

    def progress(self, done: int, total: int, detail: str = "") -> None:
        """Tell the progress callback how far the current stage is."""
        if self.config.progress is not None:
            self.config.progress(
                Progress(self._stage, done, total, max(self.remaining, 0.0), detail)
            )

    def tell(self, level: int, lines: Iterable[object]) -> None:
        """Print lines on stderr when PLANISH_DEBUG is at least `level`."""
        if self._debug >= level:
            for line in lines:
                print(f"planish: {line}", file=sys.stderr)

    def dump(self, name: str, text: str) -> None:
        """Write `text` to a file in the folder of PLANISH_DUMP, when that is set."""
        if self._dump:
            Path(self._dump).mkdir(parents=True, exist_ok=True)
            Path(self._dump, name).write_text(text)


def _debug_level() -> int:
    text = environment("PLANISH_DEBUG") or "0"
    if text not in ("0", "1", "2", "3", "4"):
        raise ConfigError(
            f"PLANISH_DEBUG is {text!r}, expected a number from 0 to 4",
            where="environment variable PLANISH_DEBUG",
            fix="1 prints stages, 2 also passes, 3 also tactics, 4 also the source",
        )
    return int(text)


def _stop_after() -> str | None:
    name = environment("PLANISH_STOP_AFTER") or None
    if name is None or name in STAGES:
        return name
    raise ConfigError(
        f"PLANISH_STOP_AFTER is {name!r}, which is no stage",
        where="environment variable PLANISH_STOP_AFTER",
        fix=f"use one of {', '.join(STAGES)}",
    )
