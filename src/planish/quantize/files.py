"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from planish.errors import ConfigError


def write_bytes(path: Path, contents: bytes, what: str) -> None:
    """Write a file that appears under its name only when it is whole; ConfigError if it cannot."""
    with _explained(path, what):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(contents)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)


def check_place(path: Path, what: str) -> None:
    """Raise ConfigError unless a file can be written at `path`; leave nothing behind."""
    with _explained(path, what):
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name[:100]}."):
            return


@contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"cannot write the {what}: {error.strerror or error}",
            where=str(path),
            fix="give a path in an existing folder that you may write to, with enough space",
        ) from error
