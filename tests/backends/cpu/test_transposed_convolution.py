"""Transposed convolutions by phases against the numpy reference."""

from __future__ import annotations

import pytest

from planish.backends.cpu.device import detect
from planish.backends.cpu.tactics.transposed_convolution import (
    PhasedTransposedConvolution,
    axis_phases,
)
from planish.tactics.target import Target
from tests.backends.cpu.convolution_cases import Convolution, check, region_of_case

TARGET = Target("cpu", detect().features, threads=2)
NARROW = Target("cpu", TARGET.features - {"avx512f", "avx512_bf16"}, threads=1)


def up(label: str, shape: tuple, outputs: int, kernel: tuple, **more: object) -> Convolution:
    return Convolution(label, shape, outputs, kernel, op="ConvTranspose", **more)


CASES = [
    up("2x2", (2, 16, 5, 7), 24, (2, 2), stride=(2, 2), epilogue="relu"),
    up("3x3", (1, 19, 6, 6), 33, (3, 3), stride=(2, 2), pad=1, halo=2, epilogue="residual"),
    up("4x4", (2, 16, 5, 5), 16, (4, 4), stride=(2, 2), pad=1, halo=1, epilogue="sigmoid"),
    up("groups", (1, 12, 5, 5), 24, (3, 3), stride=(2, 1), group=3, halo=2),
    up("dilated", (1, 8, 6, 7), 16, (3, 2), stride=(2, 2), dilation=(3, 1), halo=4),
    up("1d", ("N", 16, 9), 20, (5,), stride=(3,), halo=2, epilogue="gate"),
    up("stride 1", (1, 16, 6, 6), 16, (3, 3), pad=1, halo=2, epilogue="leaky"),
]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("target", [TARGET, NARROW], ids=["best", "avx2"])
def test_every_configuration_matches_the_reference(dtype: str, target: Target) -> None:
    if not TARGET.has("avx2", "fma"):
        pytest.skip("needs AVX2")
    limit = 2 if target is TARGET else 1
    check(PhasedTransposedConvolution(), CASES, dtype, target, limit)


def test_phases_use_every_tap_once() -> None:
    phases = axis_phases(stride=2, dilation=1, pad=1, kernel=4, outputs=10)
    assert [phase.taps for phase in phases] == [(3, 1), (2, 0)]
    assert [phase.first for phase in phases] == [-1, 0]
    assert [phase.count for phase in phases] == [5, 5]


def test_an_input_without_zeros_around_it_is_refused() -> None:
    case = up("4x4", (2, 16, 5, 5), 16, (4, 4), stride=(2, 2), pad=1, halo=0)
    region, _, _ = region_of_case(case, "f32")
    support = PhasedTransposedConvolution().supports(region, TARGET)
    assert support.reason == "the input has no zeros around it"
