"""Time for each region of an engine, and its export for a trace viewer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RegionTime:
    """One region: its C name, the user's layers, and microseconds (median and minimum)."""

    name: str
    layers: str
    median: float
    minimum: float


@dataclass(frozen=True)
class Profile:
    """Times of an engine's regions, in execution order.

    Attributes
    ----------
    regions : tuple of RegionTime
    runs : int
        Inferences measured.
    total : float
        Microseconds of a whole inference, median, with everything around the regions.
    threads : int
    """

    regions: tuple[RegionTime, ...]
    runs: int
    total: float
    threads: int

    def to_text(self, limit: int | None = None) -> str:
        """Return a table, slowest region first; `limit` regions at most."""
        inside = sum(region.median for region in self.regions)
        lines = [
            f"{self.total:.1f} us an inference ({self.threads} threads, median of {self.runs}), "
            f"{inside:.1f} us in {len(self.regions)} regions"
        ]
        order = sorted(self.regions, key=lambda region: -region.median)
        lines += [
            f"{region.median:10.1f} us {100 * region.median / max(inside, 1e-9):5.1f} %  "
            f"{region.name}  {region.layers}"
            for region in order[:limit]
        ]
        return "\n".join(lines) + "\n"

    def to_chrome_trace(self) -> str:
        """Return JSON for chrome://tracing and Perfetto: one inference made of the medians."""
        events, start = [], 0.0
        for region in self.regions:
            events.append(
                {
                    "name": region.name,
                    "ph": "X",
                    "ts": start,
                    "dur": region.median,
                    "pid": 1,
                    "tid": 1,
                    "args": {"layers": region.layers, "minimum_us": region.minimum},
                }
            )
            start += region.median
        return json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}, indent=1)

    def save_chrome_trace(self, path: str | Path) -> None:
        """Write `to_chrome_trace()` to a file."""
        Path(path).write_text(self.to_chrome_trace())


def summarize(
    names: Sequence[tuple[str, str]],
    nanoseconds: Sequence[Sequence[int]],
    totals: Sequence[int],
    threads: int,
) -> Profile:
    """Return the profile of measured runs.

    Parameters
    ----------
    names : sequence of (str, str)
        Name and layers of each region.
    nanoseconds : sequence
        For each run, the time of each region.
    totals : sequence of int
        The time of each run.
    threads : int
    """
    regions = []
    for index, (name, layers) in enumerate(names):
        times = sorted(run[index] / 1000 for run in nanoseconds)
        regions.append(RegionTime(name, layers, times[len(times) // 2], times[0]))
    total = sorted(totals)[len(totals) // 2] / 1000
    return Profile(tuple(regions), len(totals), total, threads)
