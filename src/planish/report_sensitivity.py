"""How much each layer's lower precision costs: as data, as lines of text, and as a picture."""

from __future__ import annotations

import html
import math
from dataclasses import asdict, dataclass
from typing import Any

WIDTH, HEIGHT = 360, 14  # of a layer's bar, in pixels
QUIETEST = 80.0  # decibels at which a bar has no length left: nobody sees such an error


@dataclass(frozen=True)
class LayerError:
    """Error of the model's outputs against float32 on the data.

    Attributes
    ----------
    name : str
        The layer that runs in the lower precision, by the user's name; "" for all of them.
    signal_to_noise : float
        Decibels: 10 log10(sum of squares of the outputs / sum of squares of their errors);
        infinite without any error. Of several outputs, the one that suffers most.
    cosine : float
        Of the angle between the outputs and those of float32; again of the worst output.
    operations : int
        Arithmetic operations of the layer, at the shapes that the profile says to tune for.
    names : tuple of str
        The layer as `layer_precisions` knows it, all of its names.
    """

    name: str
    signal_to_noise: float
    cosine: float
    operations: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sensitivity:
    """What each layer's lower precision costs; see `planish.sensitivity`.

    Attributes
    ----------
    precision : str
        The lower precision.
    layers : tuple of LayerError
        One layer at a time, the worst first.
    whole : LayerError or None
        All of them together, run with the kernels of a build; for int8.
    samples : int
        Samples of the data that were run, or batches where the model has no batch axis.
    notes : tuple of str
        What the user should know: layers that stay floating point, data that were not seen.
    """

    precision: str
    layers: tuple[LayerError, ...]
    whole: LayerError | None
    samples: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [("layer alone in " + self.precision, "signal-to-noise", "cosine")]
        rows += [_cells(entry, entry.name) for entry in self.layers]
        if self.whole is not None:
            rows.append(_cells(self.whole, "all of them"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            f"{name.ljust(widths[0])}  {noise.rjust(widths[1])}  {cosine.rjust(widths[2])}"
            for name, noise, cosine in rows
        ]
        seen = f"outputs against float32 on {self.samples} samples, the worst layer first"
        return "\n".join([seen, *lines, *self.notes])

    def to_html(self) -> str:
        """Return a page with a bar for each layer, the longer the worse."""
        rows = "\n".join(_row(entry, entry.name) for entry in self.layers)
        together = "" if self.whole is None else _row(self.whole, "all of them")
        notes = "".join(f"<li>{html.escape(note)}" for note in self.notes)
        return (
            "<!doctype html><meta charset=utf-8><title>Planish sensitivity</title>"
            f"<h1>Layers alone in {html.escape(self.precision)}</h1>"
            f"<p>Error of the outputs against float32 on {self.samples} samples. A bar has no "
            f"length at {QUIETEST:g} dB and is full at 0 dB, where the error is as large as the "
            "output.</p><table><tr><th>layer<th>error<th>signal-to-noise<th>cosine</tr>"
            f"{together}{rows}</table><ul>{notes}</ul>"
        )


def _cells(entry: LayerError, name: str) -> tuple[str, str, str]:
    return name, f"{entry.signal_to_noise:.1f} dB", f"{entry.cosine:.6f}"


def _row(entry: LayerError, name: str) -> str:
    cells = _cells(entry, name)
    return (
        f"<tr><td>{html.escape(name)}<td>{_bar(entry.signal_to_noise)}<td>{cells[1]}"
        f"<td>{cells[2]}</tr>"
    )


def _bar(decibels: float) -> str:
    share = 1.0 if math.isnan(decibels) else min(max(1 - decibels / QUIETEST, 0.0), 1.0)
    colour = "#4a7" if decibels >= 40 else "#da3" if decibels >= 20 else "#c33"
    size = f'height="{HEIGHT}"'
    bar = f'<rect width="{WIDTH * share:.1f}" {size} fill="{colour}"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" {size}>{bar}</svg>'
