"""erf against the C library's."""

from __future__ import annotations

import math

import numpy as np

from planish.ops.error_function import erf


def test_agrees_with_the_c_library() -> None:
    x = np.concatenate([np.linspace(-7, 7, 20001), [0.46875, -0.46875, 4.0, 1e-300, 0.0, 50.0]])
    expected = np.array([math.erf(each) for each in x])
    np.testing.assert_allclose(erf(x), expected, rtol=2e-15, atol=1e-300)


def test_special_values_and_types() -> None:
    x = np.array([[np.inf, -np.inf], [np.nan, -0.0]], np.float32)
    result = erf(x)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, np.array([[1, -1], [np.nan, -0.0]], np.float32))
    assert np.signbit(result[1, 1])
    scalar = erf(np.array(0.5))
    assert scalar.shape == ()
    assert float(scalar) == math.erf(0.5)
