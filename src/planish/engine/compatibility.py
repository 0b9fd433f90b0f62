"""Whether an engine fits this machine and this version; a refusal lists what differs."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Set
from typing import Any

from planish.errors import CompatibilityError

_REBUILD = "build the engine again on this machine: planish build MODEL"


def check_format(version: Any, supported: int, where: str) -> None:
    """Raise CompatibilityError when the file has another format version."""
    if version == supported:
        return
    newer = isinstance(version, int) and version > supported
    raise CompatibilityError(
        f"the engine file has format version {version}, this planish reads version {supported}",
        where=where,
        fix="upgrade planish, or build the engine again" if newer else "build the engine again",
    )


def check_machine(manifest: Mapping[str, Any], features: Set[str], where: str) -> None:
    """Raise CompatibilityError when the engine needs what this machine does not have.

    Parameters
    ----------
    manifest : dict
        The engine's manifest.
    features : set of str
        CPU flags that this process may use.
    where : str
        The engine's path, for messages.
    """
    if manifest["byte_order"] != sys.byteorder or sys.maxsize < 1 << 32:
        raise CompatibilityError(
            f"the engine is for 64-bit little-endian machines, this one is {sys.byteorder}-endian "
            f"with {sys.maxsize.bit_length() + 1} bits",
            where=where,
            fix=_REBUILD,
        )
    native = manifest["native"]
    if native is None:  # nothing to run here, or a GPU's code, which its driver checks
        return
    if native["machine"] != platform.machine() or sys.platform != "linux":
        raise CompatibilityError(
            f"the engine's code is for Linux on {native['machine']}, this is {sys.platform} on "
            f"{platform.machine()}",
            where=where,
            fix=_REBUILD,
        )
    missing = [name for name in native["features"] if name not in features]
    if missing:
        raise CompatibilityError(
            f"the engine uses instructions that this CPU does not have: {', '.join(missing)}",
            where=where,
            fix=_REBUILD,
        )
