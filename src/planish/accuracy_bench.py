"""What the search for a mix of precisions needs of a build: engines of mixes, a ranking, time."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from planish.config import BuildConfig, Progress
from planish.engine.parts import EngineParts
from planish.quantize.request import PrecisionRequest, PrecisionWarning
from planish.quantize.scheme import Ranges
from planish.report_sensitivity import LayerError
from planish.tactics.select import FallbackWarning
from planish.tactics.tune import cache_path

RANKING_SHARE = 0.4  # of the time that is left
SHORTEST = 0.1  # seconds of a build's budget: an engine comes out of any

BuildMix = Callable[[BuildConfig, Ranges | None], tuple[EngineParts, PrecisionRequest]]
RankLayers = Callable[[BuildConfig, Ranges | None], Sequence[LayerError]]


@dataclass
class AccuracyBench:
    """Builds mixes of precisions of one model; see `planish.quantize.precision_search.Builds`.

    Parameters
    ----------
    config : BuildConfig
        What the user asked for.
    build, rank : callable
        Build an engine, and rank the layers, given a configuration and the ranges of activations,
        where these are known from an earlier build.
    """

    config: BuildConfig
    build: BuildMix
    rank: RankLayers
    ranges: Ranges | None = None
    _doing: str = ""
    _started: float = field(default_factory=time.monotonic)

    @property
    def tunes(self) -> bool:
        """Whether kernels are measured at all."""
        return self.config.tune == "measure"

    def parts(
        self, precision: str, raised: Mapping[str, str], *, tune: bool, share: float = 1.0
    ) -> EngineParts:
        """Build one mix. What is asked for as it is may warn, or fail where that is strict."""
        as_asked = precision == self.config.precision and not raised
        config = self._limited(share, precision, raised)
        config = replace(
            config,
            strict=config.strict and as_asked,
            tune="cache" if config.tune == "measure" and not tune else config.tune,
        )
        with warnings.catch_warnings():
            if not as_asked:
                warnings.simplefilter("ignore", FallbackWarning)
                warnings.simplefilter("ignore", PrecisionWarning)
            parts, request = self.build(config, self.ranges)
        self.ranges = self.ranges or request.ranges
        return parts

    def ranking(self, precision: str) -> Sequence[LayerError]:
        """Return the error that each layer brings when it alone runs in `precision`."""
        config = self._limited(RANKING_SHARE, precision, {})
        return self.rank(config, self.ranges)

    def seconds_left(self) -> float:
        """Return what is left of the time budget; 0 when the user cancelled."""
        if self.config.cancel is not None and self.config.cancel():
            return 0.0
        return self.config.time_budget - (time.monotonic() - self._started)

    def progress(self, doing: str) -> None:
        """Let the progress of what follows say what it is for."""
        self._doing = doing

    def _limited(self, share: float, precision: str, raised: Mapping[str, str]) -> BuildConfig:
        uses_ranges = precision not in ("fp32", "bf16")
        given = self._overrides(precision)
        earlier = {name: wanted for name, wanted in given.items() if name not in raised}
        return replace(
            self.config,
            precision=precision,
            accuracy=None,
            weights=None if precision == "fp32" else self.config.weights,
            calibrator=self.config.calibrator if uses_ranges else None,
            layer_precisions={**earlier, **raised},  # the later ones overrule
            time_budget=max(share * self.seconds_left(), SHORTEST),
            progress=self._tell if self.config.progress is not None else None,
        )

    def _overrides(self, precision: str) -> dict[str, str]:
        """Return what the user says of single layers, as far as `precision` knows of it."""
        given = dict(self.config.layer_precisions)
        if precision in ("int8", "best"):
            return given
        known = {"fp32"} if precision == "fp32" else {"fp32", "bf16", "fp16"}
        return {name: wanted for name, wanted in given.items() if wanted in known}

    def _tell(self, progress: Progress) -> None:
        detail = f"{self._doing}: {progress.detail}" if progress.detail else self._doing
        if self.config.progress is not None:
            self.config.progress(
                replace(progress, remaining=max(self.seconds_left(), 0.0), detail=detail)
            )


@contextmanager
def with_timing_cache(config: BuildConfig) -> Iterator[BuildConfig]:
    """Let the builds of a search share the times that they measure."""
    if config.tune != "measure" or cache_path(config) is not None:
        yield config
        return
    with tempfile.TemporaryDirectory(prefix="planish-search-") as folder:
        yield replace(config, timing_cache=Path(folder, "timing.json"))
