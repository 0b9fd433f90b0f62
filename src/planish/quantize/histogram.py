"""Histograms of magnitudes: collected in a stream, finished into 2048 bins of equal width.

While data streams in, the range is [0, 2**exponent] with the smallest exponent that holds the
largest magnitude so far, in `FINE` bins. When a larger magnitude comes, the exponent grows and
neighbouring bins merge, which is exact: floor(floor(x / w) / 2) = floor(x / (2 w)). So what is
collected depends on the numbers seen, never on their order or on how they were batched.

At the end, the fine bins become `BINS` bins that end at the largest magnitude, as if all data had
been one batch. A fine bin in which such a bin ends is split in proportion, which is exact to a
part in 30 or so of a bin's noise: the entropy search finds the threshold of the exact histogram. A
fine bin between empty ones holds one value (pixels are whole numbers) and is not split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BINS = 2048  # of a finished histogram, as in TensorRT
FINE = 1 << 15  # while collecting; one more bin holds what equals the end of the range
LOWEST_EXPONENT = -100  # so that FINE / range is a float32

# mirrors planish_observed in backends/cpu/observe.c
STATE = np.dtype(
    [
        ("count", np.int64),
        ("not_finite", np.int64),
        ("nan", np.int64),
        ("exponent", np.int64),
        ("minimum", np.float32),
        ("maximum", np.float32),
    ]
)


@dataclass(frozen=True)
class Histogram:
    """Magnitudes of one tensor in bins of equal width.

    Attributes
    ----------
    counts : int64[n]
        Elements with `i * width <= |x| < (i + 1) * width`; the last bin includes its end.
    width : float
    levels : int
        Steps that the quantized form has up to its threshold: 127, or 255 for a tensor that is
        stored without a sign.
    """

    counts: Array
    width: float
    levels: int = 127

    @property
    def total(self) -> int:
        """Elements seen."""
        return int(self.counts.sum())

    @property
    def end(self) -> float:
        """Magnitude at which the last bin ends."""
        return len(self.counts) * self.width

    def bars(self, number: int) -> tuple[int, ...]:
        """Return the counts in about `number` intervals of one width, for a picture."""
        merged = -(-len(self.counts) // number)
        starts = np.arange(0, len(self.counts), merged)
        return tuple(int(count) for count in np.add.reduceat(self.counts, starts))

    def share_above(self, threshold: float) -> float:
        """Return the share of elements above `threshold`, by linear interpolation in its bin."""
        below = np.concatenate([[0], np.cumsum(self.counts)])
        edges = np.arange(len(self.counts) + 1) * self.width
        inside = float(np.interp(threshold, edges, below))
        return 1.0 - inside / max(float(below[-1]), 1.0)


class FineHistogram:
    """Collects the magnitudes of one tensor.

    Attributes
    ----------
    bins : uint64[FINE + 1]
    state : structured array of one `STATE`
        Count of all elements, of those not finite, of NaN among them; the range's exponent;
        smallest and largest finite number.
    """

    def __init__(self) -> None:
        self.bins = np.zeros(FINE + 1, np.uint64)
        self.state = np.zeros(1, STATE)
        self.state["exponent"] = LOWEST_EXPONENT
        self.state["minimum"] = np.inf
        self.state["maximum"] = -np.inf

    def __getitem__(self, name: str) -> Any:
        return self.state[name][0].item()

    @property
    def amax(self) -> float:
        """Largest finite magnitude seen; 0 before the first."""
        return float(max(-self["minimum"], self["maximum"], 0.0))

    def add(self, array: Array) -> None:
        """Count the elements of `array` (float32, any shape): the reference of observe.c."""
        numbers = array.reshape(-1).astype(np.float32, copy=False)
        finite = numbers[np.isfinite(numbers)]
        state = self.state[0]
        state["count"] += numbers.size
        state["not_finite"] += numbers.size - finite.size
        state["nan"] += np.isnan(numbers).sum()
        if not finite.size:
            return
        state["minimum"] = min(state["minimum"], finite.min())
        state["maximum"] = max(state["maximum"], finite.max())
        self._widen(np.abs(finite).max())
        scale = np.float32(2.0 ** (15 - int(state["exponent"])))
        places = (np.abs(finite) * scale).astype(np.int64)
        self.bins += np.bincount(places, minlength=FINE + 1).astype(np.uint64)

    def finish(self, levels: int = 127) -> Histogram:
        """Return 2048 bins of one width, the last of which ends at the largest magnitude.

        Of nothing but zeros it is one bin.
        """
        total, amax = int(self.bins.sum()), self.amax
        if amax == 0:
            return Histogram(np.array([total]), 2.0**LOWEST_EXPONENT, levels)
        counts = np.concatenate([self.bins.astype(np.float64), [0.0, 0.0]])
        below = np.concatenate([[0.0], np.cumsum(counts)])
        edges = np.arange(BINS) * (amax / BINS) * (FINE / 2.0 ** self["exponent"])
        place = edges.astype(np.int64)
        share = edges - place
        alone = (counts[place - 1] == 0) & (counts[place + 1] == 0)
        share = np.where(alone, share > 0.5, share)
        upto = np.rint(below[place] + share * counts[place]).astype(np.int64)
        return Histogram(np.diff(upto, append=total), amax / BINS, levels)

    def _widen(self, largest: np.float32) -> None:
        if largest == 0:
            return
        mantissa, exponent = np.frexp(largest)
        needed = int(exponent) - int(mantissa == 0.5)  # the smallest with largest <= 2**needed
        steps = needed - self["exponent"]
        if steps <= 0:
            return
        places = np.arange(FINE + 1) >> min(steps, 62)
        merged = np.bincount(places, weights=self.bins, minlength=FINE + 1)
        self.bins[:] = merged.astype(np.uint64)
        self.state["exponent"] = needed
