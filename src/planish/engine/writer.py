"""Engines to files: the same engine gives the same bytes, and a file is whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import secrets
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from planish import __version__
from planish.engine.container import Member, lay_out
from planish.engine.device_code import device_manifest
from planish.engine.parts import Array, DeviceCode, EngineParts, NativeCode
from planish.errors import EngineFileError
from planish.plan.serialize import plan_to_json

FORMAT_VERSION = 3
CHUNK = 1 << 20  # bytes of weights under one checksum

MANIFEST, PLAN, GRAPH, REPORT = "manifest.json", "plan.json", "graph.txt", "report.json"
SOURCE, CODE, WEIGHTS = "kernels/engine.c", "kernels/engine.so", "weights.bin"
TRITON, CUBINS = "kernels/engine.py", "kernels/engine.cubins"
# in the file's order
MEMBERS = (MANIFEST, PLAN, GRAPH, REPORT, SOURCE, CODE, TRITON, CUBINS, WEIGHTS)
KERNELS = ((SOURCE, CODE), (TRITON, CUBINS))  # an engine has one of these pairs, or none


def write_engine(path: str | Path, parts: EngineParts) -> None:
    """Write an engine; at any moment `path` holds the old file or the whole new one.

    Raises
    ------
    EngineFileError
        When the file cannot be written.
    """
    pieces = _pieces(parts)
    with _replacing(Path(path)) as file:
        for piece in pieces:
            file.write(piece)


def engine_bytes(parts: EngineParts) -> bytes:
    """Return what `write_engine` would write."""
    return b"".join(_pieces(parts))


def check_writable(path: str | Path) -> None:
    """Raise EngineFileError unless a file can be written at `path`; leave nothing behind."""
    path = Path(path)
    with _explained(path):
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        probe = _temporary(path)
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        probe.unlink()


def report_bytes(report: Any) -> bytes:
    """Return the report as JSON; how long the stages took is not part of an engine."""
    return _json(_without_seconds(report))


def _pieces(parts: EngineParts) -> list[bytes | memoryview]:
    """Return the bytes of an engine file, in order."""
    members, contents = _contents(parts)
    placed, directory = lay_out(members)
    pieces: list[bytes | memoryview] = []
    for one in placed:
        name = one.member.name
        pieces += [one.header, parts.weights.data if name == WEIGHTS else contents[name]]
    return [*pieces, directory]


def _contents(parts: EngineParts) -> tuple[list[Member], dict[str, bytes]]:
    contents = {
        PLAN: plan_to_json(parts.plan).encode(),
        GRAPH: parts.graph_text.encode(),
        REPORT: report_bytes(dict(parts.report)),
    }
    if isinstance(parts.kernels, NativeCode):
        contents[SOURCE] = parts.kernels.source.encode()
        contents[CODE] = parts.kernels.code
    elif parts.kernels is not None:
        contents[TRITON] = parts.kernels.source.encode()
        contents[CUBINS] = b"".join(kernel.cubin for kernel in parts.kernels.kernels)
    checksums, total = _checksums(parts.weights)
    contents[MANIFEST] = _manifest(parts, contents, checksums, total)
    members = [
        Member(name, len(contents[name]), zlib.crc32(contents[name]))
        for name in MEMBERS
        if name in contents
    ]
    return [*members, Member(WEIGHTS, parts.weights.nbytes, total)], contents


def _manifest(
    parts: EngineParts, contents: dict[str, bytes], checksums: Sequence[int], total: int
) -> bytes:
    kernels = parts.kernels
    native = None
    if isinstance(kernels, NativeCode):
        native = {
            "machine": platform.machine(),
            "features": sorted(kernels.features),
            "compiler": kernels.compiler,
            "threads": kernels.threads,
        }
    manifest = {
        "format": FORMAT_VERSION,
        "planish": __version__,
        "byte_order": "little",
        "native": native,
        "gpu": device_manifest(kernels) if isinstance(kernels, DeviceCode) else None,
        "precision": parts.report.get("precision", "fp32"),
        "profiles": {name: list(bounds) for name, bounds in sorted(parts.plan.ranges.items())},
        "blake2b": {name: digest(data) for name, data in sorted(contents.items())},
        "weights": {
            "bytes": parts.weights.nbytes,
            "chunk": CHUNK,
            "crc32": list(checksums),
            "crc32_of_all": total,
        },
    }
    return _json(manifest)


def digest(data: bytes) -> str:
    """Return the digest of a member as the manifest holds it."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1).encode() + b"\n"


def _without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: 0.0 if k == "seconds" else _without_seconds(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_seconds(item) for item in value]
    return value


def _checksums(weights: Array) -> tuple[list[int], int]:
    """Return the CRC-32 of every chunk, and of all."""
    chunks = [weights.data[at : at + CHUNK] for at in range(0, weights.nbytes, CHUNK)]
    return [zlib.crc32(chunk) for chunk in chunks], zlib.crc32(weights.data)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")


@contextmanager
def _replacing(path: Path) -> Iterator[Any]:
    """Yield a file in the same folder that takes the name `path` when all went well."""
    temporary = _temporary(path)
    with _explained(path):
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EngineFileError(
            f"cannot write the engine: {error.strerror or error}",
            where=str(path),
            fix="give a path in an existing folder that you may write to, with enough space",
        ) from error
