"""Every operator's samples through every CPU tactic that accepts them, against the reference.

Single-node regions in row-major and channels-last layouts, with a symbolic first or last extent,
in float32 and bfloat16. Kernels of several operators share one compilation. Adding an operator or
a tactic adds its cases here by itself; `REFERENCE_ONLY` is what has no kernel, and has to be
kept up to date by hand, so that losing a kernel is noticed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from planish.backends.cpu.device import detect
from planish.backends.cpu.tactics import discover
from planish.ir.dtypes import dtype_of
from planish.ops.op import OPS
from planish.ops.tolerance import Tolerance, mismatch, tolerance_of
from planish.tactics.tactic import Kernel
from planish.tactics.target import Target
from tests.backends.cpu.cases import CONTROL, QUICK, THOROUGH, Setting, Variant, variants
from tests.backends.cpu.kernel_harness import Case, Library, run_case

GROUPS = 10  # tests; operators are dealt out to them in turn
KERNELS = 100  # of one compilation
POINTWISE = QUICK[:2]  # how bf16 is read and written does not depend on the operator

AVX2 = frozenset({"sse4_1", "sse4_2", "popcnt", "avx", "f16c", "fma", "bmi1", "bmi2", "avx2"})

NAMES = sorted(name for name in OPS if name not in CONTROL)
NATIVE = [tactic for tactic in discover() if tactic.name not in ("onednn", "reference")]

# no kernel of their own: passes rewrite some into others, the rest runs in numpy
REFERENCE_ONLY = {
    "AffineGrid",
    "Bernoulli",
    "BlackmanWindow",
    "CenterCropPad",
    "Col2Im",
    "Compress",
    "ConvInteger",
    "DFT",
    "DeformConv",
    "Det",
    "Dropout",
    "DynamicQuantizeLinear",
    "Einsum",
    "Gemm",
    "HammingWindow",
    "HannWindow",
    "MatMulInteger",
    "MaxRoiPool",
    "MaxUnpool",
    "MelWeightMatrix",
    "Multinomial",
    "NonMaxSuppression",
    "NonZero",
    "QLinearConv",
    "QLinearMatMul",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "RoiAlign",
    "RotaryEmbedding",
    "STFT",
    "Unique",
    "com.microsoft.DynamicQuantizeMatMul",
    "com.microsoft.FusedConv",
    "com.microsoft.FusedGemm",
    "com.microsoft.FusedMatMul",
    "com.microsoft.MatMulIntegerToFloat",
    "com.microsoft.MatMulNBits",
    "com.microsoft.MultiHeadAttention",
    "com.microsoft.QGemm",
    "com.microsoft.QLinearAdd",
    "com.microsoft.QLinearAveragePool",
    "com.microsoft.QLinearConcat",
    "com.microsoft.QLinearGlobalAveragePool",
    "com.microsoft.QLinearLeakyRelu",
    "com.microsoft.QLinearMul",
    "com.microsoft.QLinearSigmoid",
    "com.microsoft.QLinearSoftmax",
    "planish.Element",
    "planish.Refuse",
}


@pytest.mark.parametrize("group", range(GROUPS))
def test_kernels_agree_with_the_reference(group: int) -> None:
    names = NAMES[group::GROUPS]
    failures = list(_failures(names, QUICK, detect(threads=2), configs=1))
    assert not failures, "\n".join(failures)


def test_kernels_without_avx512() -> None:
    target = Target("cpu", detect().features & AVX2, threads=1)
    names = ("Add", "Softmax", "LayerNormalization", "MaxPool", "Transpose", "LSTM", "ReduceMean")
    failures = list(_failures(names, QUICK[:1], target))
    assert not failures, "\n".join(failures)


@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS))
def test_kernels_agree_with_the_reference_in_all_settings(group: int) -> None:
    failures = list(_failures(NAMES[group::GROUPS], THOROUGH, detect(threads=2)))
    assert not failures, "\n".join(failures)


def _failures(
    names: Sequence[str], settings: Sequence[Setting], target: Target, configs: int = 2
) -> Iterator[str]:
    cases = [
        case
        for name in names
        for variant in variants([name], POINTWISE if _is_light(name, settings) else settings)
        for case in _cases(variant, target, configs)
    ]
    assert cases, f"no kernel was built for {names}"
    batches = [cases[at : at + KERNELS] for at in range(0, len(cases), KERNELS)]
    with ThreadPoolExecutor(2) as pool:
        libraries = pool.map(
            lambda batch: Library([case.kernel for case in batch], target.features), batches
        )
        for library, batch in zip(libraries, batches, strict=True):
            for index, case in enumerate(batch):
                yield from _differences(library, index, case)


def _is_light(name: str, settings: Sequence[Setting]) -> bool:
    return OPS[name].pointwise and settings == QUICK and name not in ("Add", "Cast", "Where")


def _cases(variant: Variant, target: Target, configs: int) -> Iterator[Case]:
    for tactic in NATIVE:
        if tactic.device != "cpu" or not tactic.supports(variant.region, target):
            continue
        found = tactic.configs(variant.region, target)
        assert found, f"{tactic.name} supports {variant.label} without a configuration"
        for config in found[:configs]:
            kernel = tactic.build(variant.region, config, target)
            if not isinstance(kernel, Kernel):
                continue
            label = f"{variant.label} by {tactic.name}{dict(config)}"
            yield Case(
                label, variant.region, kernel, variant.inputs, variant.expected, variant.bindings
            )


def _differences(library: Library, index: int, case: Case) -> Iterator[str]:
    results = run_case(library, index, case)
    for got, expected in zip(results, case.expected, strict=True):
        found = mismatch(got, expected, _tolerance(case, expected))
        if found is not None:
            yield f"{case.label}: {found}"


def _tolerance(case: Case, expected: np.ndarray) -> Tolerance:
    """Return the tolerance of the coarsest float type that took part."""
    if not dtype_of(expected).is_float:
        return tolerance_of(dtype_of(expected))
    types = [dtype_of(array) for array in (*case.inputs, expected)]
    return max((tolerance_of(t) for t in types if t.is_float), key=lambda t: t.rtol)


def test_operators_without_a_kernel_are_known() -> None:
    target = detect(threads=2)
    covered = {
        variant.op
        for variant in variants(NAMES, QUICK[:1])
        if any(tactic.supports(variant.region, target) for tactic in NATIVE)
    }
    assert set(NAMES) - covered == REFERENCE_ONLY
