"""The timing cache: a JSON file of measured kernel times that makes a second build fast and equal.

Entries are keyed by declared fields only: the region's key (body, shapes, dtypes, strides,
constants' shapes), the target (device, features, threads) and the versions that shape the code.
Files merge: for one key and candidate the smaller time stays.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from planish.errors import ConfigError

FORMAT = "planish-timing-cache-1"


class TimingCache:
    """Measured microseconds by region key and candidate label."""

    def __init__(self, entries: Mapping[str, Mapping[str, float]] | None = None) -> None:
        self.entries = {key: dict(times) for key, times in (entries or {}).items()}

    @classmethod
    def load(cls, path: str | Path | None) -> TimingCache:
        """Read `path`; an absent file is an empty cache; raise ConfigError for a damaged one."""
        if path is None or not Path(path).exists():
            return cls()
        try:
            data = json.loads(Path(path).read_text())
            if data["format"] != FORMAT:
                raise ValueError(f"its format is {data['format']!r}, expected {FORMAT!r}")
            entries = {
                str(key): {str(label): _time(value) for label, value in times.items()}
                for key, times in data["entries"].items()
            }
        except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
            raise ConfigError(
                f"not a timing cache: {error}",
                where=str(path),
                fix="delete the file or name another one",
            ) from error
        return cls(entries)

    def save(self, path: str | Path) -> None:
        """Merge with what `path` holds now and replace it in one step.

        Raises
        ------
        ConfigError
            When the file cannot be written, or is no timing cache.
        """
        self.merge(TimingCache.load(path))
        text = json.dumps({"format": FORMAT, "entries": self.entries}, indent=0, sort_keys=True)
        with _replacing(Path(path)) as file:
            file.write(text)

    def merge(self, other: TimingCache) -> None:
        """Take over every entry of `other`; where both have a time the smaller one stays."""
        for key, times in other.entries.items():
            mine = self.entries.setdefault(key, {})
            for label, time in times.items():
                mine[label] = min(time, mine.get(label, time))

    def times(self, key: str) -> Mapping[str, float]:
        """Return the known times of a region's candidates (empty when never measured)."""
        return self.entries.get(key, {})

    def record(self, key: str, label: str, microseconds: float) -> None:
        """Remember one measurement."""
        self.entries.setdefault(key, {})[label] = round(microseconds, 3)


def check_cache_writable(path: str | Path) -> None:
    """Raise ConfigError unless a timing cache can be written at `path`; leave nothing behind."""
    with _replacing(Path(path), keep=False):
        pass


def _time(value: object) -> float:
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{value!r} is no time")
    return float(value)


@contextmanager
def _replacing(path: Path, keep: bool = True) -> Iterator[TextIO]:
    """Yield a file in the same folder that takes the name `path` when it is whole."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        try:
            with os.fdopen(handle, "w") as file:
                yield file
            if keep:
                os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot write the timing cache: {error.strerror or error}",
            where=str(path),
            fix="give a path in a folder that you may write to",
        ) from error
