"""AMX kernels: they compile everywhere, and match the reference where the CPU has AMX."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planish.backends.cpu.device import detect
from planish.backends.cpu.tactics.amx import AmxConvolution, AmxMatMul
from planish.ir.dtypes import BF16
from planish.ops.interpreter import run_graph
from planish.ops.tolerance import mismatch, tolerance_of
from planish.tactics.tactic import Kernel, Region
from planish.tactics.target import Target
from tests.backends.cpu.amx_emulation import emulated
from tests.backends.cpu.convolution_cases import Convolution, region_of_case
from tests.backends.cpu.kernel_harness import Case, Library, run_case
from tests.backends.cpu.test_matmul import Product, region_of_product

WIDE = frozenset(
    ("avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "avx512f", "avx512bw", "avx512dq", "avx512vl",
     "avx512_bf16", "amx_tile", "amx_bf16")
)  # fmt: skip
TARGET = Target("cpu", WIDE, threads=2, l2=2 << 20)
HERE = detect().has("amx_tile", "amx_bf16", "avx512_bf16")

CONVOLUTIONS = [
    Convolution("1x1", (2, 64, 9, 7), 48, (1, 1), epilogue="relu"),
    Convolution("3x3 flat", (2, 32, 7, 7), 40, (3, 3), pad=1, epilogue="residual"),
    Convolution("3x3 lines", (1, 48, 14, 20), 33, (3, 3), pad=1, epilogue="sigmoid"),
    Convolution("3x3 stride", (1, 32, 14, 18), 24, (3, 3), pad=1, stride=(2, 2)),
    Convolution("one pixel", (1, 64, 1, 1), 70, (1, 1), epilogue="gelu"),
    Convolution("groups", (1, 64, 6, 6), 64, (3, 3), pad=1, group=2, epilogue="relu"),
    Convolution("short step", (1, 24, 10, 10), 32, (3, 3), pad=1),
    Convolution("dynamic batch", ("N", 32, 5, 5), 32, (3, 3), pad=1, epilogue="relu"),
    Convolution("row major out", (1, 32, 6, 10), 24, (3, 3), pad=1, out_nchw=True),
]
PRODUCTS = [
    Product("plain", (37, 64), (64, 48)),
    Product("gelu", (2, 17, 96), (96, 64), epilogue="gelu"),
    Product("dynamic rows", (2, "S", 48), (48, 72), epilogue="bias"),
    Product("few rows", (3, 128), (128, 100), epilogue="bias"),
    Product("batched weights", (3, 5, 32), (3, 32, 40), epilogue="bias"),
]


def test_every_configuration_compiles() -> None:
    """Cross-compilation: the code is valid and the scratch and items are computed."""
    kernels = []
    for case in CONVOLUTIONS[:4]:
        region, _, _ = region_of_case(case, "bf16")
        tactic = AmxConvolution()
        support = tactic.supports(region, TARGET)
        assert support, f"{case.label}: {support.reason}"
        kernels += [tactic.build(region, c, TARGET) for c in tactic.configs(region, TARGET)]
    natives = [kernel for kernel in kernels if isinstance(kernel, Kernel)]
    assert len(natives) == len(kernels)
    assert all("_tile_dpbf16ps" in kernel.source for kernel in natives)
    assert Library(natives, WIDE).function(0) is not None


def test_f32_and_ragged_runs_are_refused() -> None:
    region, _, _ = region_of_case(CONVOLUTIONS[0], "f32")
    assert "bf16" in str(AmxConvolution().supports(region, TARGET).reason)
    region, _, _ = region_of_case(Convolution("odd", (1, 7, 9, 9), 16, (1, 1)), "bf16")
    assert not AmxConvolution().supports(region, TARGET)


@pytest.mark.parametrize("emulate", [True, False], ids=["emulated", "amx"])
def test_every_configuration_matches_the_reference(emulate: bool) -> None:
    if not detect().has("avx512_bf16") or (not emulate and not HERE):
        pytest.skip("the CPU does not have it")
    found = [
        case
        for tactic, regions in (
            (AmxConvolution(), [region_of_case(case, "bf16") for case in CONVOLUTIONS]),
            (AmxMatMul(), [region_of_product(case, "bf16") for case in PRODUCTS]),
        )
        for region in regions
        for case in cases_of(tactic, *region)
    ]
    if emulate:
        found = [replace(case, kernel=emulated(case.kernel)) for case in found]
    library = Library([case.kernel for case in found], detect().features)
    for index, case in enumerate(found):
        for got, want in zip(run_case(library, index, case), case.expected, strict=True):
            problem = mismatch(got, want, tolerance_of(BF16))
            assert problem is None, f"{case.label}: {problem}"


def cases_of(
    tactic: AmxConvolution | AmxMatMul,
    region: Region,
    arrays: list[np.ndarray],
    bindings: dict[str, int],
) -> list[Case]:
    """Return every configuration of a region."""
    support = tactic.supports(region, TARGET)
    assert support, f"{region.name}: {support.reason}"
    expected = run_graph(region.body, arrays)
    found = []
    for config in tactic.configs(region, TARGET):
        kernel = tactic.build(region, config, TARGET)
        assert isinstance(kernel, Kernel)
        label = f"{region.name} {dict(config)}"
        found.append(Case(label, region, kernel, arrays, expected, bindings))
    return found
