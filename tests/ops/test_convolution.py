"""Window arithmetic with symbolic extents, and what samples cannot show."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from planish.errors import ShapeError
from planish.ir.dtypes import F32
from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import Dim, evaluate, symbol
from planish.ops.convolution import (
    convolve,
    output_extent,
    resolve_padding,
    same_padding,
    window_for,
    window_of,
)
from planish.ops.op import OPS

N, H, W = symbol("N"), symbol("H"), symbol("W")


def convolution(
    shape: tuple[Dim, ...], weight: tuple[int, ...], op: str = "Conv", **attributes: object
) -> Node:
    graph = Graph()
    x = graph.add_input("x", F32, shape)
    kernel = graph.constant(np.zeros(weight, np.float32))
    output = Value("y", F32, None)
    return graph.append(Node(op, [x, kernel], [output], {**OPS[op].attributes, **attributes}))


def shape_of(node: Node) -> tuple[Dim, ...]:
    shape = OPS[node.op].infer(node)[0].shape
    assert shape is not None
    return shape


def brute_force_extent(extent: int, reach: int, stride: int, pads: tuple[int, int]) -> int:
    starts = range(-pads[0], extent + pads[1] - reach + 1, stride)
    return len(starts)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("reach", [1, 2, 3, 5])
def test_output_extent_counts_windows(reach: int, stride: int) -> None:
    for extent in range(reach, 12):
        for pads in ((0, 0), (1, 0), (1, 2)):
            expected = brute_force_extent(extent, reach, stride, pads)
            assert output_extent(extent, reach, stride, *pads) == expected
            symbolic = output_extent(H, reach, stride, *pads)
            assert evaluate(symbolic, {"H": extent}) == expected


def test_ceil_mode_is_the_same_for_symbols_and_numbers() -> None:
    for reach, stride, begin, end in ((3, 2, 0, 0), (2, 3, 1, 0), (1, 3, 0, 0), (2, 2, 1, 1)):
        symbolic = output_extent(H, reach, stride, begin, end, ceil_mode=True)
        for extent in range(reach, 12):
            number = output_extent(extent, reach, stride, begin, end, ceil_mode=True)
            assert evaluate(symbolic, {"H": extent}) == number
            assert (number - 1) * stride < extent + begin  # the last window starts inside


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_of_symbolic_extent(mode: str, stride: int) -> None:
    node = convolution((N, 3, H, W), (4, 3, 3, 4), auto_pad=mode, strides=(stride, stride))
    padding = resolve_padding(node)
    shape = shape_of(node)
    for extent in range(3, 12):
        known = {"N": 2, "H": extent, "W": extent + 1}
        assert evaluate(shape[2], known) == -(-extent // stride)
        assert evaluate(shape[3], known) == -(-(extent + 1) // stride)
        for axis, size in ((0, extent), (1, extent + 1)):
            pair = same_padding(size, (3, 4)[axis], stride, mode == "SAME_UPPER")
            assert (
                evaluate(padding.begin[axis], known),
                evaluate(padding.end[axis], known),
            ) == pair


def test_same_padding_with_stride_one_is_a_number() -> None:
    node = convolution((N, 3, H, W), (4, 3, 3, 4), auto_pad="SAME_LOWER")
    assert resolve_padding(node).static == ((1, 1), (2, 1))
    assert shape_of(node) == (N, 4, H, W)


def test_pads_strides_and_dilations_of_symbolic_extent() -> None:
    node = convolution(
        (N, 4, H, 17), (6, 2, 3, 3), group=2, pads=(1, 0, 1, 2), strides=(2, 1), dilations=(1, 3)
    )
    shape = shape_of(node)
    assert (shape[0], shape[1], shape[3]) == (N, 6, 13)
    assert [evaluate(shape[2], {"H": extent}) for extent in (5, 6, 7)] == [3, 3, 4]
    assert window_of(node).reach == (3, 7)


def test_transposed_convolution_resolves_padding() -> None:
    node = convolution(
        (N, 3, H, 5), (3, 2, 4, 4), "ConvTranspose", auto_pad="SAME_UPPER", strides=(2, 2)
    )
    assert resolve_padding(node).static == ((1, 1), (1, 1))
    assert shape_of(node) == (N, 2, H * 2, 10)


def test_wrong_channels_are_refused() -> None:
    with pytest.raises(ShapeError, match="5 channels"):
        shape_of(convolution((N, 5, 8, 8), (4, 3, 3, 3)))


def test_wrong_number_of_pads_is_refused() -> None:
    with pytest.raises(ShapeError, match="pads has 2 entries, expected 4"):
        shape_of(convolution((N, 3, 8, 8), (4, 3, 3, 3), pads=(1, 1)))


def test_kernel_larger_than_input_is_refused() -> None:
    with pytest.raises(ShapeError, match="larger"):
        shape_of(convolution((1, 3, 2, 8), (4, 3, 5, 3)))


def test_slabs_give_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 4, 11, 9)).astype(np.float32)
    weight = random.standard_normal((6, 2, 3, 3)).astype(np.float32)
    window = window_for({"pads": (1, 1, 1, 1), "strides": (2, 1)}, x.shape[2:], (3, 3))
    whole = convolve(x, weight, window, 2)
    monkeypatch.setattr("planish.ops.convolution.PATCH_BYTES", 1)
    np.testing.assert_allclose(convolve(x, weight, window, 2), whole, rtol=1e-5, atol=1e-5)


def test_negative_pads_crop() -> None:
    x = np.arange(36, dtype=np.float32).reshape(1, 1, 6, 6)
    weight = np.ones((1, 1, 2, 2), np.float32)
    window = window_for({"pads": (-1, -1, -1, -1)}, (6, 6), (2, 2))
    inner = window_for({}, (4, 4), (2, 2))
    expected = convolve(x[:, :, 1:-1, 1:-1], weight, inner)
    np.testing.assert_array_equal(convolve(x, weight, window), expected)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_types_accumulate_in_float32(dtype: type) -> None:
    """1 + 300 * 2^-9 rounds to 1 at every step in bfloat16 when it is accumulated there."""
    x = np.full((1, 301, 1, 1), 2.0**-9, dtype)
    x[0, 0] = 1
    weight = np.ones((1, 301, 1, 1), dtype)
    (out,) = OPS["Conv"].reference((x, weight), OPS["Conv"].attributes)
    assert out.dtype == dtype
    assert float(out.reshape(-1)[0]) == pytest.approx(1 + 300 * 2.0**-9, rel=1e-2)
