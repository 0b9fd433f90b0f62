"""The scheme: symmetric linear quantization, and what calibration knows about a tensor.

A real number x is stored as the integer q = clip(round(x / scale), -128, 127) with
scale = threshold / 127; weights use [-127, 127] and a scale for each output channel. The threshold
of an activation is chosen by a calibrator from the histogram of |x|.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from planish.ir.graph import Value
from planish.quantize.files import write_bytes
from planish.quantize.histogram import BINS, Histogram

Array = np.ndarray[Any, Any]

LEVELS = 127  # the largest quantized magnitude


@dataclass(frozen=True)
class TensorRange:
    """What calibration found out about one activation tensor.

    Attributes
    ----------
    threshold : float
        Magnitude that becomes 127; larger ones are clipped.
    amax : float
        Largest magnitude seen; 0 when it is not known (from a cache).
    minimum, maximum : float
        Smallest and largest number seen; -threshold and threshold from a cache.
    clipped_share : float
        Share of the elements seen whose magnitude is above the threshold.
    histogram : Histogram or None
        Magnitudes seen; None from a cache.
    """

    threshold: float
    amax: float = 0.0
    minimum: float = 0.0
    maximum: float = 0.0
    clipped_share: float = 0.0
    histogram: Histogram | None = field(default=None, repr=False)

    @property
    def scale(self) -> float:
        """Step between two quantized numbers."""
        return self.threshold / LEVELS


@dataclass(frozen=True)
class Corrections:
    """What is done to a model besides quantizing it, so that it loses less.

    Attributes
    ----------
    gains : dict of str to float64[channels]
        What the channels of a tensor are multiplied by, by its name (see equalize.py).
    shifts : dict of str to float32[channels, 1, ...]
        What is added to the sums of a layer, by the name of its result (see bias_correction.py).
    notes : tuple of str
        Lines for the report.
    """

    gains: Mapping[str, Array] = field(default_factory=dict)
    shifts: Mapping[str, Array] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ranges(Mapping[str, TensorRange]):
    """The result of a calibration: tensor name to `TensorRange`.

    Attributes
    ----------
    tensors : dict of str to TensorRange
        In the order of the graph. Tensors that were always zero, or held infinities, are not in
        it.
    algorithm : str
        Of the calibrator, as the calibration cache spells it ("EntropyCalibration2").
    batches : int
        Batches seen; 0 from a cache.
    notes : tuple of str
        What the user has to be told.
    infinite : tuple of str
        Tensors that held infinities.
    partial : bool
        Whether calibration ended before it saw every batch.
    corrections : Corrections or None
        What was found to lower the error on the data; None when it was not looked for.
    """

    tensors: Mapping[str, TensorRange]
    algorithm: str
    batches: int = 0
    notes: tuple[str, ...] = ()
    infinite: tuple[str, ...] = ()
    partial: bool = False
    corrections: Corrections | None = None

    def __getitem__(self, name: str) -> TensorRange:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def title(self) -> str:
        """Algorithm, and how much data it saw."""
        seen = f"{self.batches} batches" if self.batches else "from a cache"
        return f"{self.algorithm}, {seen}"

    @property
    def thresholds(self) -> dict[str, float]:
        """Tensor name to threshold."""
        return {name: entry.threshold for name, entry in self.tensors.items()}

    def save_histograms(self, path: str | Path) -> None:
        """Write the histograms to an .npz file; ConfigError when that is not possible.

        The file holds, for every tensor in order, its name (``names``), the width of its bins
        (``widths``), largest magnitude (``amax``), threshold (``thresholds``), and counts
        (``counts``, int64[tensors, 2048]; unused bins at the end are 0).
        """
        known = {name: entry for name, entry in self.tensors.items() if entry.histogram}
        histograms = [entry.histogram for entry in known.values() if entry.histogram]
        counts = np.zeros((len(histograms), BINS), np.int64)
        for row, histogram in zip(counts, histograms, strict=True):
            row[: len(histogram.counts)] = histogram.counts
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            names=np.array(list(known), dtype=str),
            widths=np.array([histogram.width for histogram in histograms]),
            amax=np.array([entry.amax for entry in known.values()]),
            thresholds=np.array([entry.threshold for entry in known.values()]),
            counts=counts,
        )
        write_bytes(Path(path), buffer.getvalue(), "histograms")


def tensor_name(value: Value) -> str:
    """Return the name under which calibration knows `value`: the user's where it has one."""
    return value.origin or value.name
