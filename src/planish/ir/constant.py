"""Constants: immutable arrays (weights, folded values) with a digest that is computed once."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from planish.ir.dtypes import STRING, DType, dtype_of


class Constant:
    """An immutable array; it may be memory-mapped, so nothing is read before it is used.

    Parameters
    ----------
    array : numpy.ndarray
        Any shape; dtype one of `planish.ir.dtypes.DTYPES`. The array must not change afterwards.
    """

    __slots__ = ("_digest", "array", "dtype")

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array
        self.dtype: DType = dtype_of(array)
        self._digest: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the array."""
        return tuple(self.array.shape)

    @property
    def digest(self) -> str:
        """Hexadecimal BLAKE2b digest (16 bytes) of dtype, shape and contents."""
        if self._digest is None:
            hasher = hashlib.blake2b(digest_size=16)
            hasher.update(f"{self.dtype.name}{self.shape}".encode())
            if self.dtype is STRING:
                hasher.update(repr(self.array.tolist()).encode())
            else:
                hasher.update(np.ascontiguousarray(self.array).reshape(-1).view(np.uint8).data)
            self._digest = hasher.hexdigest()
        return self._digest
