"""The generic convolution kernel against the numpy reference, forward and transposed."""

from __future__ import annotations

import pytest

from planish.backends.cpu.device import detect
from planish.backends.cpu.tactics.direct_convolution import DirectConvolution
from planish.tactics.target import Target
from tests.backends.cpu.convolution_cases import Convolution, check

PLAIN = Target("cpu", frozenset(), threads=1)
TARGET = Target("cpu", detect().features, threads=2)


def transposed(
    label: str, shape: tuple, outputs: int, kernel: tuple, **more: object
) -> Convolution:
    return Convolution(label, shape, outputs, kernel, op="ConvTranspose", **more)


CASES = [
    Convolution("3x3", (2, 5, 7, 6), 9, (3, 3), pad=1, halo=0, epilogue="residual"),
    Convolution("nchw", (1, 6, 7, 7), 70, (3, 3), pad=1, halo=0, in_nchw=True, out_nchw=True),
    Convolution("groups", (1, 6, 7, 7), 12, (3, 2), group=3, stride=(2, 1), epilogue="sigmoid"),
    Convolution("multiplier", (1, 4, 7, 7), 8, (3, 3), group=4, dilation=(2, 1), pad=1, halo=0),
    Convolution("1d", (2, 3, "W"), 5, (4,), pad=1, halo=0, epilogue="relu"),
    transposed("up", (1, 6, 5, 4), 8, (2, 2), stride=(2, 2), epilogue="relu"),
    transposed("up odd", (2, 3, 5, 4), 7, (4, 3), stride=(2, 3), pad=1),
    transposed("up groups", (1, 6, "H", 4), 8, (3, 3), stride=(2, 2), group=2, dilation=(1, 2)),
    transposed("up 1d", (1, 6, 9), 4, (5,), stride=(3,)),
]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("target", [PLAIN, TARGET], ids=["baseline", "best"])
def test_every_case_matches_the_reference(dtype: str, target: Target) -> None:
    check(DirectConvolution(), CASES, dtype, target)
