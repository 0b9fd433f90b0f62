"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from planish.errors import ConfigError


def write_bytes(path: Path, contents: bytes, what: str) -> None:
    """Write a file that appears under its name only when it is whole; ConfigError if it cannot."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(contents)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
    except OSError as error:
        raise ConfigError(
            f"cannot write the {what}: {error.strerror or error}",
            where=str(path),
            fix="give a path in an existing folder that you may write to, with enough space",
        ) from error
