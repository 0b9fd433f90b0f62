from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from planish.ir.dtypes import F32
from planish.ir.graph import Value
from planish.ir.layout import Layout
from planish.ir.shape import evaluate, product, symbol
from planish.passes import views
from planish.passes.views import View

Array = np.ndarray[Any, Any]


def addresses(view: View) -> Array:
    """Return the address of every element, by walking over the pieces."""
    result = np.array(evaluate(view.offset, {}))
    for axis in view.axes:
        along = np.zeros(1, np.int64)
        for extent, stride in axis:
            along = (
                along[:, None] + np.arange(evaluate(extent, {})) * evaluate(stride, {})
            ).reshape(-1)
        result = result[..., None] + along
    return result


def random_view(generator: random.Random) -> View:
    shape = tuple(generator.choice([1, 2, 3, 4, 6]) for _ in range(generator.randint(1, 4)))
    order = list(range(len(shape)))
    generator.shuffle(order)
    halo = tuple((generator.choice([0, 0, 1]), generator.choice([0, 0, 2])) for _ in shape)
    return views.whole(Value("x", F32, shape), Layout(tuple(order), halo))


def random_factors(total: int, generator: random.Random) -> tuple[int, ...]:
    factors = []
    while total > 1:
        factors.append(generator.choice([d for d in range(2, total + 1) if total % d == 0]))
        total //= factors[-1]
    if generator.random() < 0.3:
        factors.insert(generator.randrange(len(factors) + 1), 1)
    return tuple(factors) or (1,)


def apply(view: View, array: Array, generator: random.Random) -> tuple[View | None, Array]:
    """Apply a random view operator to a view and to the array of its addresses."""
    match generator.choice(["transpose", "reshape", "slice"]):
        case "transpose":
            perm = list(range(array.ndim))
            generator.shuffle(perm)
            return views.transpose(view, perm), array.transpose(perm)
        case "reshape":
            shape = random_factors(array.size, generator)
            return views.reshape(view, shape), array.reshape(shape)
    axis = generator.randrange(array.ndim)
    start, step = generator.randrange(array.shape[axis]), generator.choice([1, 1, 2])
    extent = generator.randint(1, math.ceil((array.shape[axis] - start) / step))
    sliced = views.slice_axis(view, axis, start, extent, step)
    taken = np.take(array, range(start, start + extent * step, step), axis)
    return sliced, taken


@pytest.mark.parametrize("block", range(5))
def test_random_chains_address_what_numpy_addresses(block: int) -> None:
    followed = 0
    for seed in range(block * 200, block * 200 + 200):
        generator = random.Random(seed)
        view = random_view(generator)
        array = addresses(view)
        for _ in range(5):
            result, expected = apply(view, array, generator)
            if result is None:
                continue
            view, array = result, expected
            followed += 1
            np.testing.assert_array_equal(addresses(view), array)
            storage = view.storage()
            if storage is None:
                continue
            plain = np.full(array.shape, evaluate(storage.offset, {}))
            for index, stride in zip(np.indices(array.shape), storage.strides, strict=True):
                plain = plain + index * evaluate(stride, {})
            np.testing.assert_array_equal(plain, array)
    assert followed > 600  # most operators are views


def test_shuffle_is_a_view_of_two_pieces() -> None:
    value = Value("x", F32, (2, 8, 3, 3))
    view = views.whole(value, Layout.channels_last(4))
    split = views.reshape(view, (2, 2, 4, 3, 3))
    assert split is not None
    joined = views.reshape(views.transpose(split, (0, 2, 1, 3, 4)), (2, 8, 3, 3))
    assert joined is not None
    assert joined.axes[1] == ((4, 1), (2, 4))
    assert joined.storage() is None


def test_symbolic_heads_split_and_join() -> None:
    batch, length = symbol("B"), symbol("S")
    view = views.whole(Value("x", F32, (batch, length, 24)), Layout.row_major(3))
    heads = views.reshape(view, (batch, length, 3, 8))
    assert heads is not None
    swapped = views.transpose(heads, (0, 2, 1, 3))
    storage = swapped.storage()
    assert storage is not None
    assert storage.strides == (24 * length, 8, 24, 1)
    rows = views.reshape(view, (batch * length, 24))
    assert rows is not None
    back = views.reshape(rows, (batch, length, 24))
    assert back is not None
    assert back.storage() == view.storage()


def test_extents_that_do_not_divide_need_a_copy_unless_dense() -> None:
    length = symbol("S")
    dense = views.whole(Value("x", F32, (length, 6)), Layout.row_major(2))
    halved = views.reshape(dense, (product((length, 6)) // 4, 4))
    assert halved is not None  # one arithmetic progression can be cut anywhere
    padded = views.whole(Value("x", F32, (length, 6)), Layout((0, 1), ((0, 0), (0, 2))))
    assert views.reshape(padded, (product((length, 6)) // 4, 4)) is None


def test_reshape_keeps_the_halo_of_axes_that_it_keeps() -> None:
    layout = Layout((0, 2, 3, 1), ((0, 0), (0, 0), (1, 1), (1, 1)))
    view = views.whole(Value("x", F32, (2, 8, 3, 3)), layout)
    split = views.reshape(view, (2, 4, 2, 3, 3))
    assert split is not None
    assert split.halo == ((0, 0), (0, 0), (0, 0), (1, 1), (1, 1))
    assert views.reshape(view, (2, 8, 9)) is not None
    flat = views.reshape(view, (2, 8, 9))
    assert flat is not None
    assert flat.storage() is None


@pytest.mark.parametrize(
    ("strides", "order", "expected"),
    [
        ((24, 6, 1), (0, 1, 2), True),
        ((24, 1, 4), (0, 2, 1), True),
        ((24, 1, 4), (0, 1, 2), False),
        ((24, 12, 2), (0, 1, 2), False),
        ((12, 5, 1), (0, 1, 2), False),  # rows of six interleave
    ],
)
def test_follows(strides: tuple[int, ...], order: tuple[int, ...], expected: bool) -> None:
    assert views.follows(strides, (2, 4, 6), order, {}) is expected
