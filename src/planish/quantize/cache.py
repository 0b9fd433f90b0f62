"""The calibration cache, in TensorRT's text format.

    TRT-8601-EntropyCalibration2
    data: 3c008912
    conv1_relu: 3d2a0c31

The first line names version and algorithm; every other line a tensor and its scale (threshold /
127) as the eight hexadecimal digits of a big-endian float32. A calibration that did not see every
batch adds a tensor that no model has, whose "scale" is the number of batches it saw: TensorRT reads
such a cache, too.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from planish.errors import ConfigError
from planish.quantize.scheme import LEVELS, Ranges, TensorRange

VERSION = "8601"  # written as TensorRT's; the last releases with calibrators read any version's
PARTIAL = "(planish: calibration ended early, after batches)"
SHOWN = 8  # tensors that a message names


@dataclass(frozen=True)
class CalibrationCache:
    """Contents of a calibration cache.

    Attributes
    ----------
    algorithm : str
        "EntropyCalibration2", "MinMaxCalibration", ...
    scales : dict of str to float
        Tensor name to scale, in the order of the file. Scales of 0 (tensors that were always
        zero) are left out.
    partial_batches : int
        Batches that a calibration saw which did not see all; 0 for a complete one.
    """

    algorithm: str
    scales: Mapping[str, float]
    partial_batches: int = 0

    @staticmethod
    def parse(contents: bytes | str, where: str = "calibration cache") -> CalibrationCache:
        """Read the text form; raise ConfigError when it is none.

        Parameters
        ----------
        contents : bytes or str
        where : str
            File or argument, for messages.
        """
        try:
            text = contents if isinstance(contents, str) else bytes(contents).decode()
        except UnicodeDecodeError as error:
            raise _damaged("it is not text", where) from error
        lines = text.splitlines()
        header = lines[0].split("-") if lines else []
        if len(header) < 3 or header[0] != "TRT":
            raise _damaged(f"its first line is {lines[0][:60]!r}" if lines else "empty", where)
        scales: dict[str, float] = {}
        for number, line in enumerate(lines[1:], start=2):
            if not line.strip():
                continue
            name, separator, digits = line.rpartition(": ")
            scale = _float_of(digits.strip())
            if not separator or not name or scale is None:
                raise _damaged(f"line {number} is {line[:60]!r}", where)
            if scale > 0:
                scales[name] = scale
        partial = int(scales.pop(PARTIAL, 0))
        return CalibrationCache("-".join(header[2:]), scales, partial)

    def ranges(self, names: list[str], where: str = "calibration cache") -> Ranges:
        """Return the ranges of the tensors `names`; the notes list what does not match.

        Raises
        ------
        ConfigError
            When the cache knows none of them.
        """
        known = {name: self.scales[name] for name in names if name in self.scales}
        if not known and names:
            raise ConfigError(
                f"the calibration cache is for another model: it knows none of the "
                f"{len(names)} tensors to quantize",
                where=f"{where}: it holds {_listed(list(self.scales))}; "
                f"the model has {_listed(names)}",
                fix="give this model's cache, or delete the file and calibrate with data",
            )
        missing = [name for name in names if name not in known]
        foreign = [name for name in self.scales if name not in known]
        notes = []
        if self.partial_batches:
            notes.append(
                f"the calibration cache is partial: its calibration ended early, after "
                f"{self.partial_batches} batches; delete {where} to calibrate again"
            )
        if missing:
            notes.append(
                f"not in the calibration cache, so their layers stay in floating point: "
                f"{', '.join(missing)}"
            )
        if foreign:
            notes.append(
                f"in the calibration cache, but not among the tensors to quantize: "
                f"{', '.join(foreign)}"
            )
        tensors = {
            name: TensorRange(scale * LEVELS, 0.0, -scale * LEVELS, scale * LEVELS)
            for name, scale in known.items()
        }
        partial = self.partial_batches > 0
        return Ranges(tensors, self.algorithm, 0, tuple(notes), partial=partial)


def format_cache(ranges: Ranges) -> bytes:
    """Return `ranges` in the text form."""
    lines = [f"TRT-{VERSION}-{ranges.algorithm}"]
    scales = {name: entry.scale for name, entry in ranges.items()}
    if ranges.partial:
        scales[PARTIAL] = float(ranges.batches)
    lines += [f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in scales.items()]
    return ("\n".join(lines) + "\n").encode()


def _float_of(digits: str) -> float | None:
    """Return the number that eight hexadecimal digits spell; None unless finite and at least 0."""
    if len(digits) != 8:
        return None
    try:
        (number,) = struct.unpack(">f", bytes.fromhex(digits))
    except ValueError:
        return None
    return float(number) if math.isfinite(number) and number >= 0 else None


def _damaged(reason: str, where: str) -> ConfigError:
    return ConfigError(
        f"this is no calibration cache: {reason}",
        where=where,
        fix="expected 'TRT-<version>-<algorithm>', then lines 'tensor: 8 hexadecimal digits'; "
        "delete the file to calibrate again",
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "nothing") + more
