"""Calibration caches as bytes, the form in which an engine operation carries its ranges."""

from __future__ import annotations

from collections.abc import Sequence

from planish.frontends.tensorflow.engine_cache import Array
from planish.quantize.calibrators import EntropyCalibrator2


class ByteCalibrator(EntropyCalibrator2):
    """An entropy calibrator that reads and writes no file.

    Parameters
    ----------
    batches : sequence of sequence of array or None
        Each the inputs of an engine in order.
    data : bytes
        A cache of an earlier calibration, b"" for none.

    Attributes
    ----------
    data : bytes
        The cache after the build.
    """

    def __init__(self, batches: Sequence[Sequence[Array]] | None, data: bytes) -> None:
        super().__init__(batches)
        self.data = data

    def read_calibration_cache(self) -> bytes | None:
        """Return the cache, None when there is none yet."""
        return self.data or None

    def write_calibration_cache(self, cache: bytes) -> None:
        """Keep a cache."""
        self.data = bytes(cache)
