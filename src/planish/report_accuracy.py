"""What the search for a mix of precisions tried: as data, as lines of text, and as a picture."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

WIDTH, HEIGHT, MARGIN = 480, 240, 40  # of the curve, in pixels
LISTED = 12  # layers that the text names


@dataclass(frozen=True)
class Trial:
    """One engine of the search.

    Attributes
    ----------
    name : str
        "float32", or what of it is lower.
    raised : int
        Layers that are kept above the lowest precision.
    metric : float
        On the data of the budget.
    milliseconds : float
        Of one inference on this machine: the fastest of some, run in turns with float32.
    accepted : bool
        Whether the metric is within the budget.
    """

    name: str
    raised: int
    metric: float
    milliseconds: float
    accepted: bool


@dataclass(frozen=True)
class KeptLayer:
    """A layer that the budget keeps above the lowest precision.

    `signal_to_noise` is that of the outputs, in decibels, when this layer alone runs in the lower
    precision.
    """

    name: str
    precision: str
    signal_to_noise: float


@dataclass(frozen=True)
class AccuracyReport:
    """Accuracy before and after, and the way there.

    Attributes
    ----------
    metric : str
    higher_is_better : bool
    limit : float
        Worst value of the metric that the budget accepts.
    before, after : float
        The metric of the float32 engine and of this one.
    samples : int
        Samples that were evaluated.
    layers : int
        Layers that could run in the lowest precision.
    kept : tuple of KeptLayer
        Those of them that do not.
    trials : tuple of Trial
        In the order of the search.
    chosen : str
        Name of the trial that the engine is.
    notes : tuple of str
    """

    metric: str
    higher_is_better: bool
    limit: float
    before: float
    after: float
    samples: int
    layers: int
    kept: tuple[KeptLayer, ...]
    trials: tuple[Trial, ...]
    chosen: str
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON: numbers that are not finite as text ("inf")."""
        found: dict[str, Any] = _finite(asdict(self))
        return found

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> AccuracyReport:
        """Read what `to_dict` wrote."""
        numbers = {name: float(data[name]) for name in ("limit", "before", "after")}
        kept = [
            KeptLayer(**{**entry, "signal_to_noise": float(entry["signal_to_noise"])})
            for entry in data["kept"]
        ]
        trials = [Trial(**{**entry, "metric": float(entry["metric"])}) for entry in data["trials"]]
        lists = {"kept": tuple(kept), "trials": tuple(trials), "notes": tuple(data["notes"])}
        return AccuracyReport(**{**data, **numbers, **lists})

    def lines(self) -> list[str]:
        """Return the result, the layers that are kept and all trials as lines of text."""
        side = "at least" if self.higher_is_better else "at most"
        lines = [
            f"accuracy ({self.metric} on {self.samples} samples): float32 {self.before:.6g}, this "
            f"engine {self.after:.6g}, allowed {side} {self.limit:.6g}"
        ]
        rows = [("", "tried", self.metric, "ms", "")]
        rows += [
            (
                "*" if trial.name == self.chosen else "",
                trial.name,
                f"{trial.metric:.6g}",
                f"{trial.milliseconds:.3f}",
                "" if trial.accepted else "beyond the budget",
            )
            for trial in self.trials
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for mark, name, metric, time, verdict in rows:
            cells = (mark.ljust(1), name.ljust(widths[1]), metric.rjust(widths[2]),
                     time.rjust(widths[3]), verdict)  # fmt: skip
            lines.append("  " + "  ".join(cells).rstrip())
        for layer in self.kept[:LISTED]:
            lines.append(
                f"  {layer.name} is kept in {layer.precision}: lowered alone, it leaves a "
                f"signal-to-noise ratio of {layer.signal_to_noise:.1f} dB"
            )
        if len(self.kept) > LISTED:
            lines.append(f"  and {len(self.kept) - LISTED} more layers; the JSON report lists all")
        return [*lines, *(f"  {note}" for note in self.notes)]

    def picture(self) -> str:
        """Return the curve of the metric against time as an HTML section."""
        title = html.escape(self.metric)
        return (
            f"<h2>Accuracy</h2><p>{title} on {self.samples} samples: float32 {self.before:.6g}, "
            f"this engine {self.after:.6g}. A point is an engine that was tried, the filled one is "
            "this engine, and the red line is what the budget allows.</p>"
            f"{curve_svg(self)}"
        )


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data


def curve_svg(report: AccuracyReport) -> str:
    """Return the trials as points: milliseconds to the right, the metric upwards."""
    times = [trial.milliseconds for trial in report.trials]
    finite = [t.metric for t in report.trials if math.isfinite(t.metric)]
    values = [*finite, *([report.limit] if math.isfinite(report.limit) else [])]
    if not times or not values:
        return ""
    right, low, high = _wider(0.0, max(times))[1], *_wider(min(values), max(values))

    def x(time: float) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * time / right

    def y(value: float) -> float:
        clipped = min(max(value, low), high) if not math.isnan(value) else low
        return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (clipped - low) / (high - low)

    bottom, end = HEIGHT - MARGIN, WIDTH - MARGIN
    parts = [
        f'<path d="M{MARGIN} {MARGIN}V{bottom}H{end}" fill="none" stroke="#888"/>',
        f'<line x1="{MARGIN}" x2="{end}" y1="{y(report.limit):.1f}" y2="{y(report.limit):.1f}" '
        'stroke="#c33"/>',
        _text(end, round(y(report.limit)) - 4, f"allowed {report.limit:.5g}", "end"),
        _text(end, bottom + 16, f"{right:.3g} ms", "end"),
        _text(MARGIN, bottom + 16, "0", "middle"),
        _text(MARGIN, MARGIN - 8, f"{report.metric} {high:.5g}", "start"),
        _text(MARGIN + 4, bottom - 4, f"{low:.5g}", "start"),
    ]
    parts += [_point(trial, trial.name == report.chosen, x, y) for trial in report.trials]
    size = f'width="{WIDTH}" height="{HEIGHT}" font-size="11" font-family="sans-serif"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(parts)}</svg>'


def _point(trial: Trial, chosen: bool, x: Any, y: Any) -> str:
    colour = "#4a7" if trial.accepted else "#c33"
    fill = colour if chosen else "#fff"
    label = html.escape(f"{trial.name}: {trial.metric:.6g}, {trial.milliseconds:.3f} ms")
    return (
        f'<circle cx="{x(trial.milliseconds):.1f}" cy="{y(trial.metric):.1f}" r="5" '
        f'fill="{fill}" stroke="{colour}" stroke-width="2"><title>{label}</title></circle>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _wider(low: float, high: float) -> tuple[float, float]:
    """Return an interval a little wider than [low, high], and never empty."""
    room = 0.08 * (high - low) or max(abs(high), 1e-9) * 0.01
    return low - room, high + room
