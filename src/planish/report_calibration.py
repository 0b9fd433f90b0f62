"""The calibrated tensors of a report: as data, as lines of text, and as pictures."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 320, 64  # of a histogram's picture, in pixels


@dataclass(frozen=True)
class TensorReport:
    """One calibrated activation tensor.

    Attributes
    ----------
    name : str
        The user's name.
    stored : str
        How the engine stores it ("i8 in steps of 0.02"); "" when it stays floating point.
    threshold : float
        Magnitude from which on numbers are clipped.
    amax, minimum, maximum : float
        What was seen; all 0 when the threshold comes from a cache.
    clipped_share : float
        Share of the elements seen that is clipped.
    bars : tuple of int
        Elements seen, in intervals of one width of the magnitude; empty from a cache.
    end : float
        Magnitude at which the last interval ends.
    """

    name: str
    stored: str
    threshold: float
    amax: float = 0.0
    minimum: float = 0.0
    maximum: float = 0.0
    clipped_share: float = 0.0
    bars: tuple[int, ...] = ()
    end: float = 0.0


def tensor_lines(tensors: Sequence[TensorReport], calibrator: str) -> list[str]:
    """Return a table of the tensors as lines of text."""
    if not tensors:
        return []
    other = "floating point" if any(entry.stored for entry in tensors) else ""
    rows = [("tensor", "threshold", "largest", "clipped", "stored as" if other else "")]
    rows += [
        (
            entry.name,
            f"{entry.threshold:.4g}",
            f"{entry.amax:.4g}" if entry.bars else "",
            f"{100 * entry.clipped_share:.3f} %" if entry.bars else "",
            entry.stored or other,
        )
        for entry in tensors
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"calibrated tensors ({calibrator}):"]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def tensor_pictures(tensors: Sequence[TensorReport], calibrator: str) -> str:
    """Return an HTML table with the histogram of every tensor; empty for none."""
    if not tensors:
        return ""
    rows = "\n".join(
        f"<tr><td>{html.escape(entry.name)}<td>{histogram_svg(entry)}<td>{entry.threshold:.4g}"
        f"<td>{entry.amax:.4g}<td>{100 * entry.clipped_share:.3f} %"
        f"<td>{html.escape(entry.stored or 'floating point')}</tr>"
        for entry in tensors
    )
    return (
        f"<h2>Calibrated tensors ({html.escape(calibrator)})</h2>"
        "<p>Counts of magnitudes on a logarithmic scale; what is right of the red line is clipped."
        "</p><table><tr><th>tensor<th>histogram of magnitudes<th>threshold<th>largest<th>clipped"
        f"<th>stored as</tr>{rows}</table>"
    )


def histogram_svg(entry: TensorReport) -> str:
    """Return the histogram of a tensor as an SVG element; the threshold is a red line."""
    if not entry.bars:
        return "from a cache"
    tallest = math.log1p(max(entry.bars)) or 1.0
    end = max(entry.end, entry.threshold)
    step = WIDTH * (entry.end / end) / len(entry.bars)
    bars = []
    for index, count in enumerate(entry.bars):
        if not count:
            continue
        height = max(HEIGHT * math.log1p(count) / tallest, 1.0)
        inside = (index + 0.5) * entry.end / len(entry.bars) <= entry.threshold
        colour = "#4a7" if inside else "#ccc"
        bars.append(
            f'<rect x="{index * step:.1f}" y="{HEIGHT - height:.1f}" width="{step:.2f}" '
            f'height="{height:.1f}" fill="{colour}"/>'
        )
    at = WIDTH * entry.threshold / end
    line = f'<line x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{HEIGHT}" stroke="#c33"/>'
    size = f'width="{WIDTH}" height="{HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(bars)}{line}</svg>'
