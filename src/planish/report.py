"""The build report: what every stage did, as data, text, JSON and HTML."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from planish.report_accuracy import AccuracyReport
from planish.report_calibration import TensorReport, tensor_lines, tensor_pictures
from planish.report_weights import CompressedLayer, compressed_lines

LAST_FUSION = "assign_storage"
KINDS = {
    "simplify": "simplification",
    "recognise": "recognition of operators spelled out in primitives",
    "lower_precision": "lower precision",
    "fuse_siblings": "horizontal fusion: siblings that read one value",
    "fuse_regions": "vertical fusion: anchors with what surrounds them",
    "assign_layouts": "layouts: reformats added",
    "assign_storage": "tensor fusion: concats, splits and views become strides",
}


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

    `products` names the layers whose convolutions and matrix products it computes, out of all
    `layers` that it does something of. `microseconds` and `alternatives` (label, microseconds) are
    None and empty when nothing was measured; `refusals` says why other tactics were not candidates.
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
    products: tuple[str, ...] = ()


@dataclass(frozen=True)
class BuildReport:
    """Everything a build can say about itself.

    `memory` holds bytes: arena, sum_of_tensors, largest_live_set, weights. `calibrator` and
    `tensors` say how activations were calibrated; they are empty when none were. `accuracy` holds
    accuracy before and after, where a budget was given; `compressed` the layers whose weights alone
    were quantized.
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
    calibrator: str = ""
    tensors: tuple[TensorReport, ...] = ()
    accuracy: AccuracyReport | None = None
    compressed: tuple[CompressedLayer, ...] = ()

    def fusions(self) -> dict[str, int]:
        """Return how often each rewrite or fusion fired over the whole build, in order."""
        totals: dict[str, int] = {}
        for entry in self.passes:
            for name, count in entry.counts.items():
                totals[name] = totals.get(name, 0) + count
        return totals

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-compatible data."""
        accuracy = self.accuracy.to_dict() if self.accuracy else None
        return {**asdict(self), "accuracy": accuracy}

    def to_json(self) -> str:
        """Return the report as indented JSON."""
        return json.dumps(self.to_dict(), indent=1)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> BuildReport:
        """Read what `to_dict` wrote; raise KeyError or TypeError when fields are missing."""
        layers = [
            LayerReport(**{**layer, "alternatives": _pairs(layer["alternatives"]),
                           "refusals": _pairs(layer["refusals"]),
                           "products": tuple(layer.get("products", ()))})
            for layer in data["layers"]
        ]  # fmt: skip
        return BuildReport(
            **{
                **data,
                "stages": tuple(StageReport(**stage) for stage in data["stages"]),
                "passes": tuple(PassReport(**entry) for entry in data["passes"]),
                "layers": tuple(layers),
                "warnings": tuple(data["warnings"]),
                "tensors": tuple(
                    TensorReport(**{**entry, "bars": tuple(entry["bars"])})
                    for entry in data.get("tensors", ())
                ),
                "accuracy": AccuracyReport.from_dict(data["accuracy"])
                if data.get("accuracy")
                else None,
                "compressed": tuple(
                    CompressedLayer(**{**entry, "shape": tuple(entry["shape"])})
                    for entry in data.get("compressed", ())
                ),
            }
        )

    def headline(self) -> str:
        """Return the report in one line."""
        return (
            f"{self.model}: {self.nodes_imported} nodes -> {len(self.layers)} regions, "
            f"{self.precision}, tuning {self.tuned}"
        )

    def body_lines(self) -> list[str]:
        """Return stages, fusions, memory, regions and warnings as lines of plain text."""
        lines = []
        if any(stage.seconds for stage in self.stages):  # an engine file does not hold times
            lines = ["stages:", *(f"  {s.name:10s} {s.seconds:8.2f} s" for s in self.stages)]
        lines += fusion_lines(self.passes, len(self.layers))
        lines += _memory_lines(self.memory)
        lines += self.accuracy.lines() if self.accuracy else []
        lines += tensor_lines(self.tensors, self.calibrator)
        lines += compressed_lines(self.compressed)
        lines += ["regions:", *_layer_lines(self.layers)]
        lines += [f"warning: {text}" for text in self.warnings]
        return lines

    def to_text(self) -> str:
        """Return the report as plain text, widest tables last."""
        return "\n".join([self.headline(), *self.body_lines()])

    def to_html(self) -> str:
        """Return the report as one self-contained HTML page."""
        longest = max((layer.microseconds or 0 for layer in self.layers), default=0) or 1
        rows = "\n".join(_html_row(layer, longest) for layer in self.layers)
        summary = html.escape(self.to_text().split("\nregions:\n")[0])
        return (
            "<!doctype html><meta charset=utf-8><title>Planish build report</title>"
            "<style>body{font:14px sans-serif;margin:2em}td,th{padding:2px 8px;text-align:left}"
            "i{display:inline-block;height:10px;background:#4a7}</style>"
            f"<h1>{html.escape(self.model)}</h1><pre>{summary}</pre><table><tr><th>region"
            "<th>layers<th>operations<th>tactic<th>microseconds</tr>"
            f"{rows}</table>{self.accuracy.picture() if self.accuracy else ''}"
            f"{tensor_pictures(self.tensors, self.calibrator)}"
        )


def _pairs(items: Sequence[Sequence[Any]]) -> tuple[tuple[Any, Any], ...]:
    return tuple((first, second) for first, second in items)


def fusion_lines(passes: Sequence[PassReport], regions: int) -> list[str]:
    """Return a table of the layers before and after each pass, and what the pass did how often.

    Parameters
    ----------
    passes : sequence of PassReport
        In order.
    regions : int
        Regions that run: what is left when views have become strides (tensor fusion).
    """
    lines = ["layers before and after each kind of fusion:"]
    for entry in passes:
        after = min(entry.after, regions) if entry.name == LAST_FUSION else entry.after
        title = KINDS.get(entry.name, entry.name)
        lines.append(f"  {entry.before:6d} -> {after:6d}  {title}  ({entry.name})")
        lines += [f"  {count:20d}  {label}" for label, count in entry.counts.items()]
    return lines


def _memory_lines(memory: Mapping[str, int]) -> list[str]:
    if not memory:
        return []
    arena = memory["arena"]
    lines = ["memory:", f"  {arena:>14,d} bytes  arena"]
    for key, title in (("sum_of_tensors", "sum of all tensors"),
                       ("largest_live_set", "largest live set")):  # fmt: skip
        share = f"arena is {arena / memory[key]:.3f} of it" if memory[key] else ""
        lines.append(f"  {memory[key]:>14,d} bytes  {title}  {share}".rstrip())
    return [*lines, f"  {memory['weights']:>14,d} bytes  weights"]


def _layer_lines(layers: Sequence[LayerReport]) -> list[str]:
    rows = []
    for layer in layers:
        time = "" if layer.microseconds is None else f"{layer.microseconds:.1f} us"
        chosen = f"{layer.tactic}{layer.config}"
        if layer.alternatives:
            others = ", ".join(f"{label} {t:.1f}" for label, t in layer.alternatives[:3])
            chosen += f"  (others: {others})"
        operations = _short(layer.operations)
        rows.append((layer.name, layer.precision, layer.shape, time, operations, chosen))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["  " + "  ".join(row).rstrip() for row in padded]


def _short(operations: str, limit: int = 60) -> str:
    return operations if len(operations) <= limit else operations[: limit - 3] + "..."


def _html_row(layer: LayerReport, longest: float) -> str:
    time = layer.microseconds or 0.0
    cells = (layer.name, layer.layers, layer.operations, f"{layer.tactic}{layer.config}")
    text = "".join(f"<td>{html.escape(cell)}" for cell in cells)
    return f"<tr>{text}<td><i style='width:{200 * time / longest:.0f}px'></i> {time:.1f}</tr>"
