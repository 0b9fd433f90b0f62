"""Memory of engines: anonymous maps in huge pages, freed when the last array over them goes.

Weights and activations of one inference are read in long strides; with 4 KB pages the processor
spends much of its time on page tables. Asking for 2 MB pages was the largest single gain that was
measured (a fifth of the time of an int8 ResNet-50).
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

PAGE = 4096
HUGE_PAGE = 2 << 20
_HUGE_FROM = 1 << 20  # below this many bytes the page table is small anyway


def allocate(size: int) -> Array:
    """Return `size` zero bytes as a uint8 array, page aligned, in huge pages where it pays.

    The memory goes back to the system when the array and all views of it are gone.
    """
    alignment = HUGE_PAGE if size >= _HUGE_FROM else PAGE
    length = -(-max(size, 1) // alignment) * alignment
    # private: shared anonymous memory has its own, usually disabled, switch for huge pages, and a
    # forked child would write into its parent's activations
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    region = mmap.mmap(-1, length + alignment - PAGE, flags=flags)
    whole = np.frombuffer(region, dtype=np.uint8)
    start = -address_of(whole) % alignment
    if alignment == HUGE_PAGE:
        with contextlib.suppress(OSError):  # a kernel without huge pages: slower, not wrong
            region.madvise(mmap.MADV_HUGEPAGE, start, length)
    return whole[start : start + size]


def resident(array: Array) -> Array:
    """Return bytes in memory of their own, in huge pages; an array that is so already as it is."""
    if array.flags.writeable:
        return array
    memory = allocate(array.nbytes)
    memory[:] = array
    return memory


def address_of(array: Array) -> int:
    """Return the address of an array's first element."""
    return int(array.__array_interface__["data"][0])
