"""Depthwise convolutions: every configuration against the numpy reference."""

from __future__ import annotations

import pytest

from planish.backends.cpu.device import detect
from planish.backends.cpu.tactics.depthwise import DepthwiseConvolution
from planish.tactics.target import Target
from tests.backends.cpu.convolution_cases import Convolution, check, region_of_case

TARGET = Target("cpu", detect().features, threads=2)
NARROW = Target("cpu", TARGET.features - {"avx512f", "avx512_bf16"}, threads=1)

CASES = [
    Convolution("3x3", (2, 32, 9, 16), 32, (3, 3), pad=1, group=32, epilogue="relu"),
    Convolution("3x3 stride", (1, 24, 11, 13), 24, (3, 3), pad=1, stride=(2, 2), group=24),
    Convolution("5x5", (1, 19, 7, 7), 19, (5, 5), pad=2, group=19, epilogue="hardswish"),
    Convolution("7x7", (1, 40, 7, 9), 40, (7, 7), pad=3, group=40, epilogue="gelu"),
    Convolution("dilated", (1, 16, 9, 12), 16, (3, 3), pad=2, dilation=(2, 2), group=16),
    Convolution("1d", (2, 20, 31), 20, (5,), pad=2, group=20, epilogue="residual"),
    Convolution("3d", (1, 16, 4, 5, 6), 16, (3, 3, 3), pad=1, group=16),
    Convolution("dynamic", ("N", 16, "H", "W"), 16, (3, 3), pad=1, group=16, epilogue="relu"),
    Convolution("gate", (2, 35, 6, 6), 35, (3, 3), pad=1, group=35, epilogue="gate"),
    Convolution("nchw", (1, 18, 6, 6), 18, (3, 3), pad=1, group=18, out_nchw=True),
]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("target", [TARGET, NARROW], ids=["best", "avx2"])
def test_every_configuration_matches_the_reference(dtype: str, target: Target) -> None:
    if not TARGET.has("avx2", "fma"):
        pytest.skip("needs AVX2")
    limit = None if target is TARGET else 1
    check(DepthwiseConvolution(), CASES, dtype, target, limit)


def test_other_convolutions_are_refused() -> None:
    region, _, _ = region_of_case(Convolution("full", (1, 16, 7, 7), 16, (3, 3), pad=1), "f32")
    assert DepthwiseConvolution().supports(region, TARGET).reason == "it is not depthwise"
