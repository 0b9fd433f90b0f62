"""Batches: by name, checked, and cut to what the engine accepts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planish.errors import InputError
from planish.ir.shape import symbol
from planish.plan.plan import TensorInfo
from planish.quantize.data import BatchAxis, batch_axis, named, pieces

X = TensorInfo("x", "f32", (symbol("N"), 3))
MASK = TensorInfo("mask", "i64", (symbol("N"),))
RANGES = {"N": (1, 4, 16)}


def rows(count: int) -> np.ndarray[Any, Any]:
    return np.arange(3 * count, dtype=np.float32).reshape(count, 3)


@pytest.mark.parametrize(
    "batch", [rows(2), [rows(2)], (rows(2),), {"x": rows(2)}, rows(4)[::2], rows(2).tolist()]
)
def test_a_batch_has_many_forms(batch: Any) -> None:
    if isinstance(batch, list) and isinstance(batch[0], list):
        batch = [np.asarray(batch, np.float32)]
    arrays = named(batch, [X], "batch 0")
    assert arrays["x"].shape == (2, 3)
    assert arrays["x"].flags.c_contiguous


def test_several_inputs_come_in_order_or_by_name() -> None:
    mask = np.ones(2, np.int64)
    for batch in ([rows(2), mask], {"mask": mask, "x": rows(2)}):
        arrays = named(batch, [X, MASK], "batch 0")
        assert list(arrays) == ["x", "mask"]


def test_a_single_number_stays_one() -> None:
    limit = TensorInfo("limit", "f32", ())
    assert named(np.float32(0.5), [limit], "batch 0")["limit"].shape == ()


WRONG = {
    "two arrays": ([rows(1), rows(1)], "holds 2 array"),
    "dtype": (rows(2).astype(np.float64), "dtype float64, the model takes float32"),
    "bytes": (rows(2).astype(np.uint8), "dtype uint8"),
    "rank": (rows(2)[0], r"shape \[3\], the model takes \[N, 3\]"),
    "name": ({"y": rows(2)}, "missing: x; unknown: y"),
    "nan": (rows(2) * np.float32(np.nan), "NaN or infinity"),
    "infinity": (rows(2) + np.float32(np.inf), "NaN or infinity"),
    "text": ("hello", "dtype"),
    "object": (object(), "no array"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused_with_its_batch(name: str) -> None:
    batch, message = WRONG[name]
    with pytest.raises(InputError, match=message) as caught:
        named(batch, [X], "calibration batch 7")
    assert "calibration batch 7" in str(caught.value)


def test_a_symbolic_batch_is_cut_to_what_fits() -> None:
    assert batch_axis([X, MASK], RANGES, 5) == BatchAxis(1, 5)
    assert batch_axis([X], RANGES, 1000) == BatchAxis(1, 16)
    assert batch_axis([X], {"N": (8, 8, 16)}, 2) == BatchAxis(8, 8)


def test_axes_that_are_no_batch_are_left_alone() -> None:
    other = TensorInfo("y", "f32", (symbol("M"), 3))
    assert not batch_axis([X, other], {**RANGES, "M": (1, 2, 3)}, 5).exists
    assert not batch_axis([TensorInfo("y", "f32", ())], {}, 5).exists
    (piece,) = pieces({"x": rows(9)}, BatchAxis(0, 0, exists=False), "")
    assert piece["x"].shape == (9, 3)


@pytest.mark.parametrize(("size", "sizes"), [(1, [1]), (4, [4]), (9, [4, 4, 1])])
def test_batches_are_cut_and_the_last_piece_is_smaller(size: int, sizes: list[int]) -> None:
    cut = list(pieces({"x": rows(size)}, BatchAxis(1, 4), ""))
    assert [piece["x"].shape[0] for piece in cut] == sizes
    np.testing.assert_array_equal(np.concatenate([piece["x"] for piece in cut]), rows(size))


def test_a_rest_below_the_smallest_batch_is_filled_up() -> None:
    cut = list(pieces({"x": rows(5)}, BatchAxis(4, 4), ""))
    np.testing.assert_array_equal(cut[1]["x"], rows(5)[[4, 0, 1, 2]])
    (piece,) = pieces({"x": rows(2)}, BatchAxis(5, 5), "")
    np.testing.assert_array_equal(piece["x"], rows(2)[[0, 1, 0, 1, 0]])


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(InputError, match="is empty"):
        list(pieces({"x": rows(0)}, BatchAxis(1, 4), "calibration batch 2"))
