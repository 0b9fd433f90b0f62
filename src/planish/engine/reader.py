"""Files to engines, trusting nothing: every byte is compared, checked by digest, or refused."""

from __future__ import annotations

import json
import mmap
import os
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from planish.engine.compatibility import check_format
from planish.engine.container import (
    TAIL_BYTES,
    Placed,
    lay_out,
    parse_directory,
    parse_members,
)
from planish.engine.device_code import device_code
from planish.engine.parts import DeviceCode, EngineParts, NativeCode
from planish.engine.writer import (
    CODE,
    CUBINS,
    FORMAT_VERSION,
    GRAPH,
    KERNELS,
    MANIFEST,
    MEMBERS,
    PLAN,
    REPORT,
    SOURCE,
    TRITON,
    WEIGHTS,
    digest,
)
from planish.errors import EngineFileError
from planish.plan.serialize import plan_from_json

Array = np.ndarray[Any, Any]

IN_MEMORY = "an engine in memory"
MAX_TEXT = 1 << 30  # bytes of any member but the weights
MAX_THREADS = 8
_THREADED_FROM = 8 << 20  # bytes of weights


@dataclass(frozen=True)
class EngineFile:
    """A file that was read and found sound.

    Attributes
    ----------
    parts : EngineParts
    manifest : dict
        For `planish.engine.compatibility.check_machine`.
    """

    parts: EngineParts
    manifest: Mapping[str, Any]


def read_engine(
    path: str | Path | bytes | memoryview,
    check: Callable[[Mapping[str, Any]], None] = lambda manifest: None,
) -> EngineFile:
    """Read and check an engine file. Nothing in it is executed.

    Parameters
    ----------
    path : path, bytes or memoryview
        The weights of the engine are a view of what is given: the file, mapped, or the memory.
    check : callable, optional
        Called with the manifest before anything large is read; may raise CompatibilityError.

    Raises
    ------
    EngineFileError
        When the file is missing, damaged or no engine; CompatibilityError when it has another
        format version.
    """
    if isinstance(path, bytes | memoryview):
        return _Reader(IN_MEMORY, _Memory(memoryview(path).cast("B"))).read(check)
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _Reader(str(path), _File(file.fileno())).read(check)
    except OSError as error:
        raise EngineFileError(
            f"cannot read the engine: {error.strerror or error}", where=str(path)
        ) from error


class _File:
    """The bytes of an open file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read_into(self, part: memoryview, offset: int) -> bool:
        """Fill `part` with the bytes from `offset`; return False when there are too few."""
        while part:
            count = os.preadv(self._descriptor, [part], offset)
            if count == 0:
                return False
            part, offset = part[count:], offset + count
        return True

    def view(self, offset: int, size: int) -> Array:
        """Return bytes as a read-only array over the mapped file."""
        whole = mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_READ)
        return np.frombuffer(whole, np.uint8, size, offset)


class _Memory:
    """The bytes of a buffer."""

    def __init__(self, data: memoryview) -> None:
        self._data = data.toreadonly()
        self.size = len(data)

    def read_into(self, part: memoryview, offset: int) -> bool:
        """Fill `part` with the bytes from `offset`; return False when there are too few."""
        found = self._data[offset : offset + len(part)]
        part[: len(found)] = found
        return len(found) == len(part)

    def view(self, offset: int, size: int) -> Array:
        """Return bytes as a read-only array over the buffer."""
        return np.frombuffer(self._data, np.uint8, size, offset)


class _Reader:
    def __init__(self, where: str, source: _File | _Memory) -> None:
        self._where, self._source, self._size = where, source, source.size

    def read(self, check: Callable[[Mapping[str, Any]], None]) -> EngineFile:
        placed = self._members()
        manifest = self._manifest(placed[MANIFEST])
        check_format(manifest.get("format"), FORMAT_VERSION, self._where)
        self._check_manifest(manifest, placed)
        check(manifest)
        texts = {
            name: self._member(one, manifest["blake2b"].get(name))
            for name, one in placed.items()
            if name not in (WEIGHTS, MANIFEST)
        }
        kernels = self._kernels(manifest, texts)
        report = self._json(texts[REPORT], REPORT)
        parts = EngineParts(
            plan=plan_from_json(texts[PLAN]),
            weights=self._weights(placed[WEIGHTS], manifest["weights"]),
            kernels=kernels,
            graph_text=self._text(texts[GRAPH], GRAPH),
            report=report,
        )
        return EngineFile(parts, manifest)

    def _members(self) -> dict[str, Placed]:
        """Return the members' places after comparing every header byte with what it must be."""
        tail = self._bytes(max(self._size - TAIL_BYTES, 0), min(TAIL_BYTES, self._size))
        found = parse_directory(tail, self._size)
        if found is None:
            raise self._damaged("it does not end like an engine file (cut off, or no engine)")
        offset, size = found
        directory = self._bytes(offset, size)
        members = parse_members(directory)
        if members is None:
            raise self._damaged("its table of contents is wrong")
        names = [member.name for member in members]
        optional = {name for pair in KERNELS for name in pair}
        required = [n for n in MEMBERS if n in names or n not in optional]
        torn = any(_is_torn(names, pair) for pair in KERNELS)
        if names != required or torn or optional <= set(names):
            raise self._damaged(f"it holds {', '.join(names) or 'nothing'}")
        if sum(member.size for member in members) > self._size:
            raise self._damaged("its members are larger than the file")
        placed, expected = lay_out(members)
        if placed[-1].offset + members[-1].size != offset or expected != directory + tail:
            raise self._damaged("its table of contents is wrong")
        for one in placed:
            if self._bytes(one.header_offset, len(one.header)) != one.header:
                raise self._damaged(f"the header of {one.member.name} is wrong")
        return {one.member.name: one for one in placed}

    def _manifest(self, one: Placed) -> dict[str, Any]:
        manifest = self._json(self._member(one, None), MANIFEST)
        if not isinstance(manifest, dict):
            raise self._damaged(f"{MANIFEST} is not a mapping")
        return manifest

    def _check_manifest(self, manifest: Mapping[str, Any], placed: Mapping[str, Placed]) -> None:
        """Check the type of every field that is used later."""
        digests, weights, native = (manifest.get(k) for k in ("blake2b", "weights", "native"))
        sound = (
            isinstance(digests, dict)
            and set(digests) == set(placed) - {WEIGHTS, MANIFEST}
            and isinstance(weights, dict)
            and isinstance(weights.get("crc32"), list)
            and weights.get("bytes") == placed[WEIGHTS].member.size
            and weights.get("crc32_of_all") == placed[WEIGHTS].member.crc
            and type(weights.get("chunk")) is int
            and 1 << 16 <= weights["chunk"] <= 1 << 30
            and len(weights["crc32"]) == -(-weights["bytes"] // weights["chunk"])
            and isinstance(manifest.get("byte_order"), str)
            and (native is None) == (CODE not in placed)
            and (manifest.get("gpu") is None) == (CUBINS not in placed)
            and (native is None or _native_is_sound(native))
        )
        if not sound:
            raise self._damaged(f"a field of {MANIFEST} is missing or has a wrong type")

    def _kernels(
        self, manifest: Mapping[str, Any], texts: Mapping[str, bytes]
    ) -> NativeCode | DeviceCode | None:
        native, gpu = manifest["native"], manifest.get("gpu")
        if gpu is not None:
            code = device_code(gpu, self._text(texts[TRITON], TRITON), texts[CUBINS])
            if code is None:
                raise self._damaged(f"what {MANIFEST} says of the GPU's kernels is wrong")
            return code
        if native is None:
            return None
        return NativeCode(
            source=self._text(texts[SOURCE], SOURCE),
            code=texts[CODE],
            features=tuple(native["features"]),
            compiler=native["compiler"],
            threads=native["threads"],
        )

    def _member(self, one: Placed, expected_digest: str | None) -> bytes:
        """Return a member's bytes; the digest is that in the manifest, None for itself."""
        name, size = one.member.name, one.member.size
        if size > MAX_TEXT:
            raise self._damaged(f"{name} is {size} bytes long, more than {MAX_TEXT}")
        data = self._bytes(one.offset, size)
        if zlib.crc32(data) != one.member.crc:
            raise self._damaged(f"the contents of {name} do not match their checksum")
        if expected_digest is not None and digest(data) != expected_digest:
            raise self._damaged(f"the contents of {name} do not match the manifest's digest")
        return data

    def _weights(self, one: Placed, facts: Mapping[str, Any]) -> Array:
        """Return the weights as a read-only map of the file, after checking every chunk."""
        size, chunk = one.member.size, facts["chunk"]
        buffers = threading.local()  # small enough to stay in cache between read and checksum

        def is_sound(index: int) -> bool:
            if not hasattr(buffers, "view"):
                buffers.view = memoryview(bytearray(min(chunk, size)))
            part = buffers.view[: min(chunk, size - index * chunk)]
            self._fill(part, one.offset + index * chunk)
            return bool(zlib.crc32(part) == facts["crc32"][index])

        indices = range(len(facts["crc32"]))
        if size < _THREADED_FROM:
            sound = list(map(is_sound, indices))
        else:
            count = min(len(os.sched_getaffinity(0)), MAX_THREADS)
            parts = [indices[number::count] for number in range(count)]
            with ThreadPoolExecutor(count) as threads:
                checked = threads.map(lambda part: [is_sound(index) for index in part], parts)
                found = dict(zip(chain(*parts), chain(*checked), strict=True))
            sound = [found[index] for index in indices]
        if not all(sound):
            at = sound.index(False) * chunk
            raise self._damaged(f"the weights after byte {at} do not match their checksum")
        if size == 0:
            return np.zeros(0, np.uint8)
        return self._source.view(one.offset, size)

    def _text(self, data: bytes, name: str) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self._damaged(f"{name} is not text: {error}") from error

    def _json(self, data: bytes, name: str) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"{name} is not JSON: {error}") from error

    def _bytes(self, offset: int, size: int) -> bytes:
        buffer = bytearray(size)
        self._fill(memoryview(buffer), offset)
        return bytes(buffer)

    def _fill(self, part: memoryview, offset: int) -> None:
        if not self._source.read_into(part, offset):
            raise self._damaged("it is shorter than it says")

    def _damaged(self, what: str) -> EngineFileError:
        return EngineFileError(
            f"the engine file is damaged: {what}",
            where=self._where,
            fix="copy the file again, or build the engine again from its model",
        )


def _is_torn(names: Sequence[str], pair: tuple[str, str]) -> bool:
    """Whether only one of a pair is among `names`."""
    return (pair[0] in names) != (pair[1] in names)


def _native_is_sound(native: Any) -> bool:
    if not isinstance(native, dict) or not isinstance(native.get("features"), list):
        return False
    threads = native.get("threads")
    return (
        all(isinstance(name, str) for name in native["features"])
        and all(isinstance(native.get(key), str) for key in ("machine", "compiler"))
        and type(threads) is int
        and 1 <= threads <= 1024
    )
