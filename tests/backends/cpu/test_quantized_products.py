"""Convolutions and matrix products of bytes against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from planish.backends.cpu.device import detect
from planish.backends.cpu.tactics.convolution import GemmConvolution
from planish.backends.cpu.tactics.depthwise import DepthwiseConvolution
from planish.backends.cpu.tactics.direct_convolution import DirectConvolution
from planish.backends.cpu.tactics.matmul import GemmMatMul
from planish.backends.cpu.tactics.transposed_convolution import PhasedTransposedConvolution
from planish.tactics.tactic import Kernel
from planish.tactics.target import Target
from tests.backends.cpu.kernel_harness import Case, Library, prepare
from tests.backends.cpu.quantized_cases import Quantized, check, region_of
from tests.guarded import Guarded

WIDEST = Target("cpu", detect().features, threads=1, l1=32 << 10, l2=1 << 20)
VNNI = frozenset(("avx512_vnni", "avx_vnni"))
TARGETS = {
    "widest": WIDEST,
    "no_vnni": Target("cpu", WIDEST.features - VNNI, threads=2),
    "avx2_vnni": Target("cpu", WIDEST.features - {"avx512f", "avx512_vnni"}, threads=1),
    "avx2": Target("cpu", WIDEST.features - VNNI - {"avx512f"}, threads=1, l1=16 << 10),
}
NO_VBMI = Target("cpu", WIDEST.features - {"avx512vbmi", "avx512_vbmi2"})
CONVOLUTIONS = [
    Quantized("1x1", (2, 64, 7, 9), 48, (1, 1)),
    Quantized("3x3", (1, 32, 9, 8), 40, (3, 3), pad=1, epilogue=("Relu",), result="u8"),
    Quantized("signed", (1, 24, 6, 7), 33, (3, 3), data="i8", pad=1, result_zero=-5),
    Quantized("stem", (1, 3, 23, 21), 64, (7, 7), pad=3, stride=2, data="i8", epilogue=("Relu",)),
    Quantized("ragged", (2, 13, 5, 6), 19, (3, 3), pad=1, result="u8", result_zero=7),
    Quantized("residual", (1, 64, 7, 7), 64, (1, 1), epilogue=("residual", "Relu"), result="u8"),
    Quantized("residual_u8", (1, 20, 5, 5), 24, (1, 1), epilogue=("residual_u8", "Relu")),
    Quantized("zero", (1, 20, 5, 5), 24, (3, 3), zero=11, weight_zero=2),
    Quantized("zero_padding", (1, 20, 7, 6), 24, (3, 3), pad=1, zero=11, weight_zero=2),
    Quantized("strided_zero_padding", (2, 3, 15, 16), 24, (5, 3), "i8", pad=2, zero=-9, stride=2),
    Quantized("signed_zero", (1, 20, 5, 5), 24, (1, 1), data="i8", zero=-7, bias=False),
    Quantized("unsigned", (1, 20, 5, 5), 24, (3, 3), weights="u8", weight_zero=128, pad=1),
    Quantized("groups", (1, 64, 9, 9), 96, (3, 3), pad=1, group=2, data="i8"),
    Quantized("dilated", (1, 16, 12, 12), 16, (3, 3), pad=2, dilation=2, epilogue=("Clip",)),
    Quantized("float_out", (1, 16, 6, 6), 20, (1, 1), result="f32"),
    Quantized("one_scale", (1, 16, 6, 6), 20, (1, 1), per_channel=False),
    Quantized("sigmoid", (1, 16, 6, 6), 20, (3, 3), pad=1, epilogue=("Sigmoid",), result="u8"),
    Quantized("table", (1, 16, 6, 6), 37, (3, 3), pad=1, epilogue=("byte", "SiLU"), result="u8"),
    Quantized(
        "tables",
        (1, 16, 6, 6),
        37,
        (1, 1),
        data="i8",
        epilogue=("residual", "byte", "Sigmoid", "byte", "Relu"),
    ),
    Quantized("long", (1, 512, 7, 7), 128, (3, 3), pad=1, epilogue=("Relu",), result="u8"),
    Quantized("runtime", (1, 20, 5, 5), 24, (3, 3), data="i8", runtime=True),
    Quantized("runtime_padding", (1, 20, 5, 5), 24, (3, 3), pad=1, runtime=True),
    Quantized("line", (2, 24, 31), 40, (3,), pad=1, data="i8"),
]
DEPTHWISE = [
    Quantized("dw", (1, 96, 14, 14), 96, (3, 3), pad=1, group=96, epilogue=("Clip",), result="u8"),
    Quantized("dw_signed", (2, 40, 9, 8), 40, (3, 3), "i8", pad=1, stride=2, group=40, zero=5),
    Quantized("dw_5x5", (1, 37, 10, 11), 37, (5, 5), pad=2, group=37, epilogue=("HardSwish",)),
    Quantized("dw_table", (1, 21, 9, 9), 21, (3, 3), pad=1, group=21, epilogue=("byte", "SiLU")),
    Quantized("dw_line", (1, 24, 31), 24, (9,), "i8", pad=4, group=24, epilogue=("Relu",)),
    Quantized("dw_volume", (1, 16, 5, 6, 7), 16, (3, 3, 3), pad=1, group=16, result="f32"),
    Quantized("dw_dilated", (1, 20, 9, 9), 20, (3, 3), pad=2, dilation=2, group=20),
    Quantized("dw_heavy", (1, 20, 9, 9), 20, (7, 7), "i8", pad=3, group=20, epilogue=("Sigmoid",)),
]
MEANS = [
    Quantized("mean", (1, 40, 9, 8), 40, (3, 3), pad=1, op="AveragePool", zero=3, result="u8"),
    Quantized("mean_all", (2, 20, 9, 8), 20, (3, 3), "i8", pad=1, op="AveragePool", include_pad=1),
    Quantized("mean_2x2", (1, 33, 8, 8), 33, (2, 2), stride=2, op="AveragePool", result_zero=4),
    Quantized("mean_line", (1, 17, 20), 17, (4,), stride=3, op="AveragePool", zero=9, result="f32"),
]
# what only the plain loops do: weights beyond eight bits, a padding without zeros, upsampling
OTHERS = [
    Quantized("wide", (1, 12, 9, 8), 20, (3, 3), pad=1, zero=5, weight_zero=-14, halo=0),
    Quantized("signed_wide", (1, 12, 9, 8), 20, (3, 3), "i8", pad=1, group=2, weight_zero=12),
    Quantized("up", (1, 12, 5, 6), 20, (3, 3), "i8", pad=1, stride=2, op="ConvTranspose", zero=3),
    Quantized("up_2x2", (2, 8, 5, 6), 33, (2, 2), stride=2, op="ConvTranspose", epilogue=("Relu",)),
]
UPWARD = [
    Quantized("up", (1, 12, 5, 6), 20, (3, 3), "i8", pad=1, stride=2, op="ConvTranspose", halo=2),
    Quantized(
        "up_u8",
        (2, 16, 5, 6),
        37,
        (4, 4),
        pad=1,
        stride=2,
        op="ConvTranspose",
        halo=2,
        epilogue=("Relu",),
        result="u8",
    ),
    Quantized("up_2x2", (2, 8, 5, 6), 33, (2, 2), stride=2, op="ConvTranspose", zero=7),
    Quantized("up_line", (1, 8, 9), 33, (2,), "i8", stride=2, op="ConvTranspose", result="f32"),
]
PRODUCTS = [
    Quantized("plain", (33, 64), 48),
    Quantized("signed", (7, 130), 100, data="i8", result_zero=3),
    Quantized("gelu", (2, 9, 96), 65, data="i8", epilogue=("Gelu",)),
    Quantized("table", (9, 61), 37, epilogue=("byte", "Gelu")),
    Quantized("zero", (5, 61), 17, zero=128, result="f32"),
    Quantized("runtime", (15, 61), 33, runtime=True, result="f32"),
    Quantized("runtime_signed", (2, 15, 64), 33, data="i8", runtime=True),
    Quantized("row", (1, 768), 1000, result="f32"),
    Quantized("unsigned", (12, 40), 30, weights="u8", weight_zero=128, per_channel=False),
    Quantized("residual", (12, 40), 32, data="i8", epilogue=("residual", "Relu")),
]


def targets(**others: Target) -> list[object]:
    return [
        pytest.param(
            target,
            id=name,
            marks=[] if target.has("avx2", "fma") else pytest.mark.skip("the CPU has no AVX2"),
        )
        for name, target in {**TARGETS, **others}.items()
    ]


def some(cases: list[Quantized], target: Target) -> tuple[list[Quantized], Target, int]:
    """Return what `check` is given: two configurations of all cases, on other targets one."""
    if target is WIDEST:
        return cases, target, 2
    return (cases if target is TARGETS["avx2"] else cases[::3]), target, 1


@pytest.mark.parametrize("target", targets())
def test_convolutions_are_those_of_the_reference(target: Target) -> None:
    check(GemmConvolution(), *some(CONVOLUTIONS, target))


@pytest.mark.parametrize("target", targets(no_vbmi=NO_VBMI))
def test_depthwise_convolutions_are_those_of_the_reference(target: Target) -> None:
    check(DepthwiseConvolution(), *some([*DEPTHWISE, *MEANS], target))


def test_plain_loops_give_the_results_of_the_reference() -> None:
    check(DirectConvolution(), OTHERS, WIDEST)


@pytest.mark.parametrize("target", targets())
def test_transposed_convolutions_are_those_of_the_reference(target: Target) -> None:
    check(PhasedTransposedConvolution(), *some(UPWARD, target))


@pytest.mark.parametrize("target", targets())
def test_matrix_products_are_those_of_the_reference(target: Target) -> None:
    check(GemmMatMul(), *some(PRODUCTS, target))


def test_weights_beyond_eight_bits_are_refused() -> None:
    region, _ = region_of(Quantized("w", (4, 64), 64, weight_zero=-100))
    support = GemmMatMul().supports(region, WIDEST)
    assert support.reason is not None
    assert "eight bits" in support.reason


@pytest.mark.parametrize("target", targets()[::3])
def test_nothing_outside_of_the_operands_is_touched(target: Target) -> None:
    """Each operand borders on pages without access rights: a stray access ends the process."""
    tactics = ((GemmConvolution(), CONVOLUTIONS), (DepthwiseConvolution(), DEPTHWISE),
               (GemmMatMul(), PRODUCTS), (DirectConvolution(), OTHERS))  # fmt: skip
    cases = []
    for tactic, given in tactics:
        for case in given[::3]:
            region, arrays = region_of(case)
            kernel = tactic.build(region, tactic.configs(region, target)[0], target)
            assert isinstance(kernel, Kernel)
            cases.append(Case(case.label, region, kernel, arrays))
    library = Library([case.kernel for case in cases], target.features)
    for index, case in enumerate(cases):
        for at_end in (False, True):
            run_guarded(library, index, case, at_end)


def run_guarded(library: Library, index: int, case: Case, at_end: bool) -> None:
    """Run a kernel on operands that end (or start) at such a page."""
    buffers, pointers, symbols, scratch, items, _ = prepare(case)
    pages = Guarded()
    for place, buffer in enumerate(buffers):
        raw = buffer._raw[buffer._start : buffer._start + buffer._bytes]
        pointers[place] = pages.copy(raw, at_end).ctypes.data + buffer._offset
    for place, array in enumerate(case.kernel.packed, start=len(buffers)):
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        pointers[place] = pages.copy(flat, at_end).ctypes.data
    start = scratch.ctypes.data + -scratch.ctypes.data % 64
    library.function(index)(pointers.ctypes.data, symbols.ctypes.data, 0, items, start)
