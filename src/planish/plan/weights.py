"""Packed weights: every distinct array once, at 64-byte aligned offsets."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from planish.plan.memory import SLACK, aligned
from planish.runtime.memory import allocate

Array = np.ndarray[Any, Any]

RESERVE = 1 << 30  # bytes of address space


class WeightPool:
    """Puts arrays into one memory, in huge pages, and tells their offsets; gaps are zero.

    Arrays with equal dtype, shape and bytes are stored once. Every array is copied when it is
    added, so that its packer's memory can go at once.
    """

    def __init__(self) -> None:
        self.bytes = 0  # of all arrays with their alignment, and slack for reads past the end
        self._end = 0
        self._memory = allocate(0)
        self._by_digest: dict[bytes, int] = {}

    def add(self, array: Array) -> int:
        """Return the offset in bytes, a multiple of 64, at which `array` lies."""
        digest = _digest(array)
        offset = self._by_digest.get(digest)
        if offset is not None:
            return offset
        offset = aligned(self._end)
        self._end = offset + array.nbytes
        self.bytes = aligned(self._end) + SLACK
        self._grow()
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self._memory[offset : offset + flat.nbytes] = flat
        self._by_digest[digest] = offset
        return offset

    def memory(self) -> Array:
        """Return the bytes of all arrays; the pool must not grow afterwards."""
        return self._memory[: self.bytes]

    def _grow(self) -> None:
        """Make room; pages that nothing was written to take no memory, so the reserve is large."""
        if self.bytes <= self._memory.nbytes:
            return
        larger = allocate(max(RESERVE, 4 * self.bytes))
        larger[: self._memory.nbytes] = self._memory
        self._memory = larger


def _digest(array: Array) -> bytes:
    hasher = hashlib.blake2b(f"{array.dtype}{array.shape}".encode(), digest_size=16)
    hasher.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return hasher.digest()
