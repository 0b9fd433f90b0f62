"""The build report: what every stage did, as data, text, JSON and HTML."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class StageReport:
    """One stage of the build: its name, how long it took, and what it says about itself."""

    name: str
    seconds: float
    detail: str = ""


@dataclass(frozen=True)
class PassReport:
    """One pass: nodes before and after, time, and how often each of its rules fired."""

    name: str
    before: int
    after: int
    seconds: float
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerReport:
    """One region of the engine.

    `microseconds` and `alternatives` (label, microseconds) are None and empty when nothing was
    measured; `refusals` says why other tactics were not candidates.
    """

    name: str
    layers: str
    operations: str
    shape: str
    precision: str
    tactic: str
    config: str
    microseconds: float | None = None
    alternatives: tuple[tuple[str, float], ...] = ()
    refusals: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class BuildReport:
    """Everything a build can say about itself.

    `memory` holds bytes: arena, sum_of_tensors, largest_live_set, weights.
    """

    model: str
    target: Mapping[str, Any]
    precision: str
    stages: tuple[StageReport, ...]
    passes: tuple[PassReport, ...]
    layers: tuple[LayerReport, ...]
    memory: Mapping[str, int]
    warnings: tuple[str, ...] = ()
    nodes_imported: int = 0
    tuned: str = "off"

    def fusions(self) -> dict[str, int]:
        """Return how often each rewrite or fusion fired over the whole build, in first-use order."""
        totals: dict[str, int] = {}
        for entry in self.passes:
            for name, count in entry.counts.items():
                totals[name] = totals.get(name, 0) + count
        return totals

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-compatible data."""
        return asdict(self)

    def to_json(self) -> str:
        """Return the report as indented JSON."""
        return json.dumps(self.to_dict(), indent=1)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> BuildReport:
        """Read what `to_dict` wrote; raise KeyError or TypeError when fields are missing."""
        layers = [
            LayerReport(**{**layer, "alternatives": _pairs(layer["alternatives"]),
                           "refusals": _pairs(layer["refusals"])})
            for layer in data["layers"]
        ]  # fmt: skip
        return BuildReport(
            **{
                **data,
                "stages": tuple(StageReport(**stage) for stage in data["stages"]),
                "passes": tuple(PassReport(**entry) for entry in data["passes"]),
                "layers": tuple(layers),
                "warnings": tuple(data["warnings"]),
            }
        )

    def to_text(self) -> str:
        """Return the report as plain text, widest tables last."""
        lines = [f"{self.model}: {self.nodes_imported} nodes -> {len(self.layers)} regions, "
                 f"{self.precision}, tuning {self.tuned}"]  # fmt: skip
        lines += [f"  {s.name:12s} {s.seconds:8.2f} s  {s.detail}" for s in self.stages]
        lines += ["rewrites:", *(f"  {count:6d}  {name}" for name, count in self.fusions().items())]
        lines += ["memory:", *(f"  {name:18s} {size:>14,d} bytes"
                               for name, size in self.memory.items())]  # fmt: skip
        lines += ["layers:", *_layer_lines(self.layers)]
        lines += [f"warning: {text}" for text in self.warnings]
        return "\n".join(lines)

    def to_html(self) -> str:
        """Return the report as one self-contained HTML page."""
        longest = max((layer.microseconds or 0 for layer in self.layers), default=0) or 1
        rows = "\n".join(_html_row(layer, longest) for layer in self.layers)
        summary = html.escape(self.to_text().split("layers:")[0])
        return (
            "<!doctype html><meta charset=utf-8><title>Planish build report</title>"
            "<style>body{font:14px sans-serif;margin:2em}td,th{padding:2px 8px;text-align:left}"
            "i{display:inline-block;height:10px;background:#4a7}</style>"
            f"<h1>{html.escape(self.model)}</h1><pre>{summary}</pre><table><tr><th>region"
            "<th>layers<th>operations<th>tactic<th>microseconds</tr>"
            f"{rows}</table>"
        )


def _pairs(items: Sequence[Sequence[Any]]) -> tuple[tuple[Any, Any], ...]:
    return tuple((first, second) for first, second in items)


def _layer_lines(layers: Sequence[LayerReport]) -> list[str]:
    lines = []
    for layer in layers:
        time = "" if layer.microseconds is None else f"{layer.microseconds:10.1f} us"
        others = ", ".join(f"{label} {t:.1f}" for label, t in layer.alternatives[:3])
        lines.append(f"  {layer.name:32.32s} {layer.operations:40.40s} {layer.precision:5s} "
                     f"{layer.shape:24s} {layer.tactic}{layer.config}{time}"
                     + (f"   ({others})" if others else ""))  # fmt: skip
    return lines


def _html_row(layer: LayerReport, longest: float) -> str:
    time = layer.microseconds or 0.0
    cells = (layer.name, layer.layers, layer.operations, f"{layer.tactic}{layer.config}")
    text = "".join(f"<td>{html.escape(cell)}" for cell in cells)
    return f"<tr>{text}<td><i style='width:{200 * time / longest:.0f}px'></i> {time:.1f}</tr>"
