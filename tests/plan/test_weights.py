from __future__ import annotations

import numpy as np

from planish.plan.weights import WeightPool


def test_equal_arrays_are_stored_once_and_everything_is_aligned() -> None:
    pool = WeightPool()
    a, b = np.arange(10, dtype=np.float32), np.ones((3, 3), np.int8)
    first = pool.add(a)
    assert pool.add(b) == 64
    assert pool.add(a) == pool.add(a.copy()) == first == 0
    assert pool.add(a.astype(np.float64)) == 128
    stored = pool.memory()
    assert stored[64:73].tolist() == [1] * 9
    assert stored[73:128].tolist() == [0] * 55
    np.testing.assert_array_equal(stored[:40].view(np.float32), a)
    assert pool.bytes >= 128 + 80


def test_equal_bytes_of_another_shape_are_another_array() -> None:
    pool = WeightPool()
    assert pool.add(np.zeros((2, 3), np.float32)) != pool.add(np.zeros((3, 2), np.float32))


def test_empty_pool_and_empty_arrays() -> None:
    pool = WeightPool()
    assert pool.bytes == 0
    assert pool.add(np.zeros(0, np.float32)) == 0
