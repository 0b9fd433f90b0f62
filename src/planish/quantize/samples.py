"""The first samples of the calibration data, kept for what is measured after calibration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from planish.quantize.calibrators import Calibrator
from planish.quantize.data import BatchAxis, Inputs, batch_axis, named, pieces
from planish.runtime.engine import Engine

MOST_SAMPLES = 32
MOST_BYTES = 64 << 20
AT_ONCE = 8  # samples in one inference


@dataclass
class Samples:
    """Pieces of batches, as an engine takes them: so many samples and bytes at most.

    An iterator of batches can be read only once, so calibration hands on what it sees.

    Attributes
    ----------
    pieces : list of dict
        Arrays by input name.
    """

    pieces: list[Inputs] = field(default_factory=list)
    count: int = 0
    bytes: int = 0

    @property
    def are_enough(self) -> bool:
        """Whether no more are kept."""
        return self.count >= MOST_SAMPLES or self.bytes >= MOST_BYTES

    def offer(self, piece: Inputs, axis: BatchAxis) -> None:
        """Keep a copy of a piece, cut along `axis` to what is still wanted and run at once."""
        for part in _parts(piece, axis):
            if self.are_enough:
                return
            kept = {name: array.copy() for name, array in part.items()}
            self.pieces.append(kept)
            self.count += len(next(iter(kept.values()))) if axis.exists else 1
            self.bytes += sum(array.nbytes for array in kept.values())

    def read(self, calibrator: Calibrator, engine: Engine) -> None:
        """Take samples from the calibrator's data, where calibration did not see any."""
        axis = batch_axis(engine.inputs, engine.ranges, AT_ONCE)
        for index, batch in enumerate(calibrator.batches([info.name for info in engine.inputs])):
            where = f"calibration batch {index}"
            for piece in pieces(named(batch, engine.inputs, where), axis, where):
                self.offer(piece, axis)
            if self.are_enough:
                return


def _parts(piece: Inputs, axis: BatchAxis) -> Iterator[Inputs]:
    if not axis.exists:
        yield piece
        return
    size = max(min(axis.largest, AT_ONCE), axis.smallest)
    smaller = replace(axis, largest=size)
    yield from pieces(piece, smaller, "calibration data")
