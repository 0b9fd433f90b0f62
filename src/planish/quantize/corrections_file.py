"""Corrections beside a calibration cache, so that a build from the cache gives the same engine.

The cache is TensorRT's text and holds one scale a tensor. Numbers for each channel lie beside it,
in `<cache>.corrections.npz`: arrays "gain:NAME" and "shift:NAME", and the digest of the cache that
they were found with. A file that was written with another cache is not used.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np

from planish.errors import ConfigError
from planish.quantize.files import write_bytes
from planish.quantize.scheme import Corrections

DIGEST = "cache"
GAIN, SHIFT = "gain:", "shift:"


def write_corrections(cache: Path, corrections: Corrections) -> None:
    """Write what was found, beside an existing cache; ConfigError when that is not possible."""
    arrays = {GAIN + name: array for name, array in corrections.gains.items()}
    arrays |= {SHIFT + name: array for name, array in corrections.shifts.items()}
    arrays[DIGEST] = np.array(_digest(cache))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_bytes(_beside(cache), buffer.getvalue(), "corrections")


def read_corrections(cache: Path) -> Corrections | None:
    """Return what was found with this cache; None where there is nothing, or of another cache.

    Raises
    ------
    ConfigError
        When the file is damaged.
    """
    path = _beside(cache)
    if not path.is_file() or not cache.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"the corrections beside a calibration cache cannot be read: {error}",
            where=str(path),
            fix="delete the file; a build with calibration data writes it again",
        ) from error
    if str(arrays.get(DIGEST)) != _digest(cache):
        return None
    gains = {n.removeprefix(GAIN): a for n, a in arrays.items() if n.startswith(GAIN)}
    shifts = {n.removeprefix(SHIFT): a for n, a in arrays.items() if n.startswith(SHIFT)}
    note = f"depthwise network: equalized and corrected as in {path.name}"
    return Corrections(gains, shifts, (note,) if gains or shifts else ())


def _beside(cache: Path) -> Path:
    return cache.with_name(cache.name + ".corrections.npz")


def _digest(cache: Path) -> str:
    return hashlib.sha256(cache.read_bytes()).hexdigest()
