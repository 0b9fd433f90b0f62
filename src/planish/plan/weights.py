"""Packed weights: every distinct array once, at 64-byte aligned offsets."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from planish.plan.memory import SLACK, aligned

Array = np.ndarray[Any, Any]


class WeightPool:
    """Collects arrays and gives each its offset in the weights' memory.

    Arrays with equal dtype, shape and bytes are stored once. The same array object is recognised
    without hashing it again.
    """

    def __init__(self) -> None:
        self.arrays: list[tuple[int, Array]] = []
        self._end = 0
        self._by_identity: dict[int, tuple[Array, int]] = {}
        self._by_digest: dict[bytes, int] = {}

    @property
    def bytes(self) -> int:
        """Bytes of all arrays with their alignment, and slack for reads past the end."""
        return aligned(self._end) + SLACK if self.arrays else 0

    def add(self, array: Array) -> int:
        """Return the offset in bytes at which `array` lies."""
        known = self._by_identity.get(id(array))
        if known is not None and known[0] is array:
            return known[1]
        digest = _digest(array)
        offset = self._by_digest.get(digest)
        if offset is None:
            offset = aligned(self._end)
            self.arrays.append((offset, array))
            self._end = offset + array.nbytes
            self._by_digest[digest] = offset
        self._by_identity[id(array)] = (array, offset)
        return offset


def _digest(array: Array) -> bytes:
    hasher = hashlib.blake2b(f"{array.dtype}{array.shape}".encode(), digest_size=16)
    hasher.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return hasher.digest()
