from __future__ import annotations

import numpy as np

from planish.ir.dtypes import BF16, DTYPES, F32, I32
from planish.ops.tolerance import EXACT, Tolerance, mismatch, tolerance_of

TIGHT = Tolerance(1e-6, 1e-6)


def test_every_float_has_a_tolerance_and_nothing_else_has() -> None:
    for dtype in DTYPES:
        assert (tolerance_of(dtype) is not EXACT) == dtype.is_float, dtype


def test_coarser_types_tolerate_more() -> None:
    assert tolerance_of(BF16).rtol > tolerance_of(F32).rtol
    assert tolerance_of(I32) is EXACT


def test_equal_tensors_agree_with_special_values() -> None:
    special = np.array([np.nan, np.inf, -np.inf, 0.0, 1e30], np.float32)
    assert mismatch(special, special.copy(), EXACT) is None


def test_special_values_must_match() -> None:
    finite = np.array([1.0, 2.0], np.float32)
    for wrong in (np.nan, np.inf, -np.inf):
        other = np.array([1.0, wrong], np.float32)
        assert mismatch(other, finite, TIGHT) is not None
        assert mismatch(finite, other, TIGHT) is not None


def test_the_message_names_the_worst_element() -> None:
    expected = np.zeros((2, 3), np.float32)
    got = expected.copy()
    got[0, 1], got[1, 2] = 0.1, -0.5
    message = mismatch(got, expected, TIGHT)
    assert message is not None
    assert "2 of 6" in message
    assert "(1, 2)" in message
    assert "-0.5" in message


def test_absolute_errors_scale_with_the_tensor() -> None:
    expected = np.array([0.0, 1000.0], np.float32)
    assert mismatch(expected + np.float32(5e-4), expected, TIGHT) is None
    assert mismatch(expected + np.float32(5e-2), expected, TIGHT) is not None


def test_shapes_must_be_equal() -> None:
    assert mismatch(np.zeros((2, 1)), np.zeros(2), TIGHT) is not None


def test_integers_and_strings_are_exact() -> None:
    big = np.array([2**62, 5])
    assert mismatch(big, big, EXACT) is None
    assert mismatch(big + 1, big, EXACT) is not None
    words = np.array(["a", "b"], dtype=object)
    assert mismatch(words, np.array(["a", "c"], dtype=object), EXACT) is not None
