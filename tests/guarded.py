"""Arrays between pages that nobody may touch: access outside of one ends the process."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
PAGE = mmap.PAGESIZE
_PROT_NONE = 0


class Guarded:
    """Memory for arrays that end (or start) at a page without any access rights.

    The memory is given back when the object goes; arrays must not be used after that.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._maps: list[mmap.mmap] = []

    def empty(self, shape: tuple[int, ...], dtype: Any, at_end: bool = True) -> Array:
        """Return an array whose last byte (or first, without `at_end`) borders on such a page."""
        dtype = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        pages = max(-(-size // PAGE), 1)
        memory = mmap.mmap(-1, (pages + 2) * PAGE)
        self._maps.append(memory)
        raw = np.frombuffer(memory, np.uint8)
        address = raw.ctypes.data
        for page in (0, pages + 1):
            if self._libc.mprotect(address + page * PAGE, PAGE, _PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect failed")
        start = (pages + 1) * PAGE - size if at_end else PAGE
        return np.ndarray(shape, dtype, memory, start)

    def copy(self, array: Array, at_end: bool = True) -> Array:
        """Return such a copy of `array`; strings and arrays without elements stay as they are."""
        if array.dtype.hasobject or array.size == 0:
            return array
        result = self.empty(array.shape, array.dtype, at_end)
        result[...] = array
        return result
