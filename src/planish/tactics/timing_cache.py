"""The timing cache: a JSON file of measured kernel times that makes a second build fast and equal.

Entries are keyed by declared fields only: the region's key (body, shapes, dtypes, strides,
constants' shapes), the target (device, features, threads) and the versions that shape the code.
Files merge: for one key and candidate the smaller time stays.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

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
            entries = data["entries"] if data["format"] == FORMAT else None
            checked = {
                str(key): {str(label): float(time) for label, time in times.items()}
                for key, times in entries.items()
            }
        except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
            raise ConfigError(
                f"not a timing cache: {error}",
                where=str(path),
                fix="delete the file or name another one",
            ) from error
        return cls(checked)

    def save(self, path: str | Path) -> None:
        """Merge with what `path` holds now and replace it in one step."""
        self.merge(TimingCache.load(path))
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": FORMAT, "entries": self.entries}, indent=0, sort_keys=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name)
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(temporary, target)

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
