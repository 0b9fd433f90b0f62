from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from planish.runtime.memory import HUGE_PAGE, PAGE, address_of, allocate


@pytest.mark.parametrize("size", [0, 1, 4096, 1 << 20, (3 << 20) + 5])
def test_memory_is_zero_aligned_and_writable(size: int):
    memory = allocate(size)
    assert memory.shape == (size,)
    assert not memory.any()
    memory[:] = 1
    assert address_of(memory) % (HUGE_PAGE if size >= 1 << 20 else PAGE) == 0


def test_memory_goes_back_with_the_last_view():
    def mapped() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0])

    before = mapped()
    view = allocate(256 << 20)[100:200]
    assert mapped() - before > 50_000
    view[0] = 1
    del view
    gc.collect()
    assert mapped() - before < 10_000


def test_address_is_that_of_the_first_element():
    array = np.arange(10, dtype=np.int32)
    assert address_of(array[3:]) == address_of(array) + 12
