"""Calibrators, by TensorRT's names: they hold the data and choose a threshold from a histogram.

A calibrator takes its batches from an iterable, from a function that returns one, or, as in
TensorRT, from a subclass that overrides `get_batch`. What TensorRT's calibrators read and write
(`read_calibration_cache`, `write_calibration_cache`) is honoured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from planish.errors import ConfigError
from planish.quantize.files import write_bytes
from planish.quantize.threshold import entropy_threshold, mse_threshold, quantile_threshold

if TYPE_CHECKING:
    from planish.quantize.histogram import Histogram
    from planish.quantize.scheme import Ranges

Batch = Any  # array, sequence of arrays in the order of the model's inputs, or dict by input name
CACHE = "calibration cache"  # in messages
Batches = Iterable[Batch] | Callable[[], Iterable[Batch]]


class Calibrator(ABC):
    """Base class of calibrators.

    Parameters
    ----------
    batches : iterable, callable or None
        Batches, or a function that returns an iterator over them. A batch is an array (for a
        model with one input), a sequence of arrays in the order of the inputs, or a dict by input
        name. Each is read once, and let go before the next. None for a subclass that overrides
        `get_batch`, and when the cache has everything.
    cache : path, optional
        Calibration cache, in TensorRT's text format. It is used in place of data when the file
        exists, else written after a calibration. Delete it when model or data change.

    Attributes
    ----------
    algorithm : str
        Name in the first line of a calibration cache.
    ranges : Ranges or None
        What the last calibration found.
    """

    algorithm: ClassVar[str] = ""

    # class-wide, for subclasses that have an __init__ of their own and do not call this one
    cache: Path | None = None
    ranges: Ranges | None = None
    _batches: Batches | None = None
    _iterator: Iterator[Batch] | None = None

    def __init__(self, batches: Batches | None = None, *, cache: str | Path | None = None) -> None:
        if isinstance(batches, str | bytes | Path) or not (
            batches is None or callable(batches) or isinstance(batches, Iterable)
        ):
            raise ConfigError(
                f"the calibration data is a {type(batches).__name__}, expected batches",
                where=type(self).__name__,
                fix="give a list of arrays, any other iterable of batches, or a function that "
                "returns one",
            )
        self.cache = None if cache is None else Path(cache)
        self._batches = batches

    @abstractmethod
    def threshold(self, histogram: Histogram, amax: float) -> float:
        """Return the magnitude that becomes 127, from all magnitudes and the largest of them."""

    @property
    def has_data(self) -> bool:
        """Whether there are batches to calibrate with."""
        return self._batches is not None or type(self).get_batch is not Calibrator.get_batch

    @property
    def is_repeatable(self) -> bool:
        """Whether the data can be read again from the beginning."""
        own = type(self).get_batch is not Calibrator.get_batch
        return not own and (callable(self._batches) or not isinstance(self._batches, Iterator))

    @property
    def count(self) -> int:
        """Batches that there are; 0 when that is not known beforehand."""
        return len(self._batches) if isinstance(self._batches, Sized) else 0

    # -- what TensorRT calls ---------------------------------------------------------------------

    def get_batch_size(self) -> int:
        """Return the elements of a batch; only there for TensorRT's interface."""
        return 1

    def get_batch(self, names: Sequence[str]) -> Batch | None:
        """Return the next batch for the inputs `names`, or None after the last one."""
        if self._iterator is None:
            batches = self._batches() if callable(self._batches) else self._batches
            self._iterator = iter(batches if batches is not None else ())
        return next(self._iterator, None)

    def read_calibration_cache(self) -> bytes | str | None:
        """Return the contents of the calibration cache, or None when there is none."""
        return self.cache.read_bytes() if self.cache is not None and self.cache.is_file() else None

    def write_calibration_cache(self, cache: bytes) -> None:
        """Keep the contents of a calibration cache: in the file `cache`, if there is one."""
        if self.cache is not None:
            write_bytes(self.cache, cache, CACHE)

    def batches(self, names: Sequence[str]) -> Iterator[Batch]:
        """Yield the batches, from the first one on where the data allows to begin again."""
        self._iterator = None
        while True:
            batch = self.get_batch(names)
            if batch is None or (isinstance(batch, list | tuple | Mapping) and not batch):
                return
            yield batch


class EntropyCalibrator2(Calibrator):
    """Least loss of information (Kullback-Leibler divergence); the best start for CNNs.

    The search that NVIDIA published (GTC 2017, S7310): for every number of bins from 128 to 2048,
    the histogram cut there, with what is beyond added to its last bin, is compared with the same
    rounded to 128 levels. The bin of exact zeros is left out.
    """

    algorithm = "EntropyCalibration2"

    def threshold(self, histogram: Histogram, amax: float) -> float:
        """Return the threshold of least divergence."""
        return entropy_threshold(histogram)


class EntropyCalibrator(EntropyCalibrator2):
    """The older entropy calibrator.

    The search is that of `EntropyCalibrator2`. TensorRT ran it on the tensors that are left after
    fusion; those are the tensors that Planish quantizes with every calibrator. Only the name in
    the cache differs.
    """

    algorithm = "EntropyCalibration"


class MinMaxCalibrator(Calibrator):
    """Largest magnitude seen: nothing is clipped; preferred for transformers."""

    algorithm = "MinMaxCalibration"

    def threshold(self, histogram: Histogram, amax: float) -> float:
        """Return the largest magnitude."""
        return amax


class LegacyCalibrator(Calibrator):
    """Percentile: a stated share of all elements is within the threshold.

    Parameters
    ----------
    batches, cache
        See `Calibrator`.
    quantile : float
        Share of the elements (0 to 1) that are not clipped.
    regression_cutoff : float
        Elements above this fraction (0 to 1) of the largest magnitude are outliers: they do not
        count at all. 1 keeps every element.
    """

    algorithm = "LegacyCalibration"
    quantile: float = 0.9999
    regression_cutoff: float = 1.0

    def __init__(
        self,
        batches: Batches | None = None,
        *,
        quantile: float = 0.9999,
        regression_cutoff: float = 1.0,
        cache: str | Path | None = None,
    ) -> None:
        super().__init__(batches, cache=cache)
        for name, value in (("quantile", quantile), ("regression_cutoff", regression_cutoff)):
            if isinstance(value, bool) or not 0 < value <= 1:
                raise ConfigError(
                    f"{name} is {value!r}, expected a number above 0 and at most 1",
                    where=type(self).__name__,
                    fix="0.9999 and 1.0 are the defaults",
                )
        self.quantile = quantile
        self.regression_cutoff = regression_cutoff

    def threshold(self, histogram: Histogram, amax: float) -> float:
        """Return the quantile of the magnitudes within the cutoff."""
        return quantile_threshold(histogram, amax, self.quantile, self.regression_cutoff)


class MseCalibrator(Calibrator):
    """Least mean squared difference between the numbers and their quantized form."""

    algorithm = "MseCalibration"

    def threshold(self, histogram: Histogram, amax: float) -> float:
        """Return the threshold of least squared error."""
        return mse_threshold(histogram, amax)
