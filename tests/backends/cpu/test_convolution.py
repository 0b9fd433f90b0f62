"""Convolutions as implicit GEMM: every configuration against the numpy reference."""

from __future__ import annotations

import pytest

from planish.backends.cpu.device import detect
from planish.backends.cpu.tactics.convolution import GemmConvolution
from planish.tactics.target import Target
from tests.backends.cpu.convolution_cases import Convolution, check, region_of_case

TARGET = Target("cpu", detect().features, threads=2, l1=32 << 10, l2=1 << 20)
NARROW = Target("cpu", TARGET.features - {"avx512f", "avx512_bf16"}, threads=1, l1=16 << 10)
NO_PAIRS = Target("cpu", TARGET.features - {"avx512_bf16"}, threads=1, l1=16 << 10)

CASES = [
    Convolution("1x1", (2, 16, 9, 7), 48, (1, 1)),
    Convolution("1x1 relu", (1, 19, 5, 5), 37, (1, 1), epilogue="relu"),
    Convolution("1x1 halo", (2, 16, 6, 6), 20, (1, 1), halo=1, epilogue="hardswish"),
    Convolution("1x1 stride", (1, 24, 9, 9), 16, (1, 1), stride=(2, 2)),
    Convolution("3x3", (2, 16, 7, 7), 40, (3, 3), pad=1, epilogue="residual"),
    Convolution("3x3 odd", (1, 7, 9, 19), 33, (3, 3), pad=1, epilogue="relu"),
    Convolution("3x3 stride", (1, 16, 14, 18), 24, (3, 3), pad=1, stride=(2, 2)),
    Convolution("3x3 dilated", (1, 8, 15, 15), 16, (3, 3), pad=2, dilation=(2, 2)),
    Convolution("dead taps", (1, 8, 10, 7), 16, (3, 3), pad=12, dilation=(12, 12)),
    Convolution("rows clipped", (1, 8, 9, 16), 32, (3, 3), pad=6, dilation=(6, 6), epilogue="relu"),
    Convolution("stride clipped", (1, 16, 9, 15), 32, (5, 5), pad=2, stride=(2, 2)),
    Convolution("5x1", (1, 8, 11, 6), 100, (5, 1), epilogue="leaky"),
    Convolution("7x7 first", (1, 3, 30, 30), 16, (7, 7), pad=3, stride=(2, 2), epilogue="relu"),
    Convolution("one output", (1, 20, 8, 8), 1, (3, 3), pad=1, epilogue="sigmoid"),
    Convolution("two outputs", (2, 7, 9, 8), 2, (3, 3), pad=1, epilogue="relu"),
    Convolution("four outputs", (1, 9, 9, 20), 4, (1, 1), epilogue="residual"),
    Convolution("eight outputs", (1, 3, 12, 12), 8, (3, 3), pad=1, stride=(2, 2), epilogue="relu"),
    Convolution("long K", (1, 2048, 3, 3), 32, (1, 1)),
    Convolution("long taps", (1, 512, 7, 7), 16, (3, 3), pad=1, epilogue="relu"),
    Convolution("groups", (2, 12, 8, 8), 24, (3, 3), pad=1, group=3, epilogue="relu"),
    Convolution("many groups", (1, 32, 6, 6), 32, (3, 3), pad=1, group=8),
    Convolution("conv1d", (2, 12, 33), 20, (5,), pad=2, epilogue="gelu"),
    Convolution("conv3d", (1, 4, 5, 6, 7), 18, (3, 3, 3), pad=1),
    Convolution("dynamic batch", ("N", 16, 7, 7), 32, (3, 3), pad=1, epilogue="relu"),
    Convolution("dynamic small", ("N", 16, 1, 1), 32, (1, 1), epilogue="scale"),
    Convolution("dynamic size", (1, 8, "H", "W"), 16, (3, 3), pad=1, epilogue="residual"),
    Convolution("row major out", (1, 8, 6, 10), 24, (3, 3), pad=1, epilogue="relu", out_nchw=True),
    Convolution("broadcast", (2, 16, 6, 6), 32, (1, 1), epilogue="gate"),
]


@pytest.mark.parametrize(
    ("target", "dtype"),
    [(TARGET, "f32"), (TARGET, "bf16"), (NARROW, "f32"), (NARROW, "bf16"), (NO_PAIRS, "bf16")],
    ids=["f32", "bf16", "avx2-f32", "avx2-bf16", "no_bf16-bf16"],
)
def test_every_configuration_matches_the_reference(dtype: str, target: Target) -> None:
    if not TARGET.has("avx2", "fma"):
        pytest.skip("needs AVX2")
    if target is NO_PAIRS and not target.has("avx512f"):
        pytest.skip("needs AVX-512")
    limit = 1 if target is not TARGET else 2 if dtype == "bf16" else None
    check(GemmConvolution(), CASES, dtype, target, limit)


def test_prologue_and_missing_halo_are_refused_with_a_reason() -> None:
    case = Convolution("3x3", (1, 16, 7, 7), 16, (3, 3), pad=1, halo=0)
    region, _, _ = region_of_case(case, "f32")
    assert "zeros around" in str(GemmConvolution().supports(region, TARGET).reason)
