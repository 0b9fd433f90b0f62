"""Operators' samples, convolutions and products through the CUDA tactics.

Without a GPU kernels are compiled only; with one (marker gpu) their results are compared with the
numpy reference.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from planish.backends.cuda.codegen.compile import compile_kernels
from planish.backends.cuda.codegen.printer import load_text
from planish.backends.cuda.device import detect
from planish.backends.cuda.tactics import discover
from planish.errors import CompileError
from planish.ir.dtypes import dtype_of
from planish.ops.op import OPS
from planish.ops.tolerance import mismatch, tolerance_of
from planish.tactics.tactic import Config, Tactic, TritonKernel
from tests.backends.cpu.cases import CONTROL, QUICK, THOROUGH, Variant, variants
from tests.backends.cuda.kernel_harness import run_kernel

pytest.importorskip("triton")

TARGET = detect("sm_90")
GROUPS = 8
NAMES = sorted(name for name in OPS if name not in CONTROL)
SHOWN = ("Add", "Attention", "AveragePool", "Conv", "ConvTranspose", "CumSum", "Gather", "Gelu",
         "GridSample", "GroupNormalization", "LSTM", "LayerNormalization", "MatMul", "MaxPool",
         "ReduceMean", "ReduceProd", "Resize", "ScatterND", "Softmax", "TopK")  # fmt: skip
CONFIGS = 3  # of each tactic
GENERATED = [tactic for tactic in discover() if tactic.name.startswith("triton_")]


def _candidates(variant: Variant) -> Iterator[tuple[Tactic, Config]]:
    for tactic in GENERATED:
        if tactic.supports(variant.region, TARGET):
            configs = tactic.configs(variant.region, TARGET)
            yield from ((tactic, config) for config in configs[:CONFIGS])


def _kernel(variant: Variant, tactic: Tactic, config: Config) -> TritonKernel:
    kernel = tactic.build(variant.region, config, TARGET)
    assert isinstance(kernel, TritonKernel)
    return kernel


def test_a_kernel_of_each_kind_compiles() -> None:
    kernels = {}
    for variant in variants(SHOWN, QUICK[:1]):
        for tactic, config in _candidates(variant):
            kernels.setdefault((variant.op, tactic.name), _kernel(variant, tactic, config))
    assert {op for op, _ in kernels} == set(SHOWN)
    for name, cubin in zip(kernels, compile_kernels(list(kernels.values()), 90), strict=True):
        assert not isinstance(cubin, CompileError), f"{name}: {cubin}"
        assert cubin.code[:4] == b"\x7fELF"


def test_a_kernel_that_the_compiler_refuses_has_an_error_and_the_others_compile() -> None:
    variant = next(iter(variants(["Add"], QUICK[:1])))
    tactic, config = next(_candidates(variant))
    good = _kernel(variant, tactic, config)
    bad = TritonKernel(
        "@triton.jit\ndef @NAME@(x0):\n    y = x0 + undefined\n", ("*fp32",), (True,), (1,)
    )
    first, second = compile_kernels([bad, good], 90)
    assert isinstance(first, CompileError)
    assert "undefined" in str(first)
    assert not isinstance(second, CompileError)


def test_bytes_below_zero_where_nothing_is_are_not_left_to_the_load() -> None:
    assert load_text("p", [], "-128") == "tl.load(p)"
    assert load_text("p", ["m", "n"]) == "tl.load(p, mask=m & n, other=0)"
    assert load_text("p", ["m"], "-128") == "planish_load(p, m, -128)"


def test_a_pipeline_that_needs_too_much_shared_memory_is_cut() -> None:
    variant = next(iter(variants(["MatMul"], QUICK[:1])))
    tactic = next(tactic for tactic, _ in _candidates(variant) if tactic.name == "triton_matmul")
    config = {"m": 128, "n": 256, "k": 64, "warps": 8, "stages": 9, "split": 1}
    for architecture, most in ((90, 227 << 10), (89, 99 << 10)):
        (cubin,) = compile_kernels([_kernel(variant, tactic, config)], architecture)
        assert not isinstance(cubin, CompileError), str(cubin)
        assert cubin.shared <= most


def test_what_is_not_done_by_the_deadline_has_an_error() -> None:
    kernel = TritonKernel(
        "@triton.jit\ndef @NAME@(x0):\n    tl.store(x0, 12345.0)\n", ("*fp32",), (True,), (1,)
    )
    (result,) = compile_kernels([kernel], 90, timeout=1e-9)
    assert isinstance(result, CompileError)


@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS))
def test_every_kernel_compiles(group: int) -> None:
    found = [
        (variant, tactic, config)
        for variant in variants(NAMES[group::GROUPS], QUICK)
        for tactic, config in _candidates(variant)
    ]
    kernels = [_kernel(*case) for case in found]
    for (variant, tactic, config), cubin in zip(found, compile_kernels(kernels, 90), strict=True):
        problem = str(cubin) if isinstance(cubin, CompileError) else ""
        assert not problem, f"{variant.label} {tactic.name} {dict(config)}: {problem}"


@pytest.mark.gpu
@pytest.mark.parametrize("group", range(GROUPS))
def test_kernels_agree_with_the_reference(group: int) -> None:
    found = [
        (variant, tactic, config)
        for variant in variants(NAMES[group::GROUPS], THOROUGH)
        for tactic, config in _candidates(variant)
    ]
    kernels = [_kernel(*case) for case in found]
    problems: dict[str, str] = {}  # the first of each sample is enough to read
    for (variant, tactic, config), kernel, cubin in zip(
        found, kernels, compile_kernels(kernels, detected_architecture()), strict=True
    ):
        where = f"{variant.label} {tactic.name} {dict(config)}"
        if isinstance(cubin, CompileError):
            problems.setdefault(variant.label.split("/")[0], f"{where}: {cubin}")
            continue
        outputs = run_kernel(kernel, cubin, variant.region, variant.inputs, variant.bindings)
        for got, expected in zip(outputs, variant.expected, strict=True):
            tolerance = tolerance_of(dtype_of(expected))
            problem = mismatch(got, np.asarray(expected), tolerance)
            if problem is not None:
                problems.setdefault(variant.label.split("/")[0], f"{where}: {problem}")
    assert not problems, "\n".join(problems.values())


def detected_architecture() -> int:
    """Return the architecture of the GPU that is here."""
    return int(next(iter(detect(None).features))[3:])
