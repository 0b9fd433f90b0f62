"""AMX kernels of bytes against the interpreter: emulated everywhere, real where there is AMX."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from planish.backends.cpu.codegen.amx_plan import AmxBlocking
from planish.backends.cpu.codegen.compile import compile_source
from planish.backends.cpu.codegen.driver import prelude_text
from planish.backends.cpu.device import compile_flags, detect
from planish.backends.cpu.tactics.amx_convolution import AmxConvolution
from planish.backends.cpu.tactics.amx_matmul import AmxMatMul
from planish.ops.interpreter import run_graph
from planish.tactics.tactic import Kernel
from planish.tactics.target import Target
from tests.backends.cpu.kernel_harness import Case, Library, prepare
from tests.backends.cpu.quantized_cases import Quantized, difference, region_of
from tests.backends.cpu.test_amx_convolution import (
    EMULATION,
    WIDE,
    Emulation,
    emulated,
    run,
)

HERE = detect()
AMX = WIDE - {"avx512_bf16"} | {"amx_tile", "amx_int8"}
TARGET = Target("cpu", AMX, threads=2, l1=48 << 10, l2=2 << 20)
SMALL = Target("cpu", AMX, threads=1, l1=8 << 10, l2=32 << 10)  # long K everywhere

EMULATED = AMX if HERE.has(*WIDE) else HERE.features
real = pytest.mark.skipif(not HERE.has(*AMX), reason="the CPU has no AMX for bytes")

RELU = ("Relu",)
CASES = [
    Quantized("1x1", (2, 64, 9, 7), 64, (1, 1), epilogue=RELU, result="u8"),
    Quantized("1x1 signed", (1, 48, 5, 5), 37, (1, 1), data="i8", result_zero=-3),
    Quantized("1x1 overlap", (1, 76, 6, 7), 33, (1, 1)),
    Quantized("3x3", (2, 32, 7, 7), 96, (3, 3), pad=1, epilogue=("residual", "Relu")),
    Quantized("3x3 zero", (1, 16, 9, 19), 40, (3, 3), pad=1, zero=131, weight_zero=1),
    Quantized("3x3 stride", (1, 16, 14, 18), 24, (3, 3), data="i8", pad=1, stride=2, zero=-4),
    Quantized("whole lines", (2, 32, 16, 15), 40, (1, 1), stride=2, epilogue=("residual", "Relu")),
    Quantized("stem", (1, 3, 24, 22), 64, (7, 7), data="i8", pad=3, stride=2, epilogue=RELU),
    Quantized("unsigned", (1, 24, 8, 8), 20, (3, 3), weights="u8", weight_zero=128, pad=1),
    Quantized("float out", (1, 20, 8, 8), 17, (3, 3), result="f32"),
    Quantized("heavy", (1, 20, 8, 8), 17, (3, 3), pad=1, epilogue=("Sigmoid",), result="u8"),
    Quantized("table", (1, 20, 8, 8), 37, (3, 3), epilogue=("byte", "SiLU"), result="u8"),
    Quantized("long K", (1, 2048, 3, 3), 32, (1, 1)),
    Quantized("long taps", (1, 256, 7, 7), 48, (3, 3), pad=1, epilogue=RELU, result="u8"),
    Quantized("wide", (1, 256, 4, 4), 256, (1, 1), epilogue=("residual_u8", "Relu"), result="u8"),
    Quantized("product", (37, 68), 48),
    Quantized("product row", (1, 300), 250, data="i8", result="f32"),
    Quantized("product gelu", (2, 17, 64), 96, data="i8", epilogue=("Gelu",)),
    Quantized("product long", (18, 3072), 32, zero=3, result="u8", epilogue=RELU),
]
BLOCKINGS = [
    AmxBlocking(rows, vectors, order, flat=flat, interleave=between)
    for (rows, vectors), order, flat, between in itertools.product(
        ((2, 2), (4, 1), (1, 4)), "nm", (False, True), (False, True))
]  # fmt: skip


def cases_of(
    targets: Sequence[Target], limit: int, extra: Sequence[AmxBlocking] = ()
) -> list[Case]:
    """Return the configurations of every region: `limit` for a target, all that cut K, `extra`."""
    found: list[Case] = []
    for case in CASES:
        tactic = AmxConvolution() if case.kernel else AmxMatMul()
        region, arrays = region_of(case)
        expected, sources = run_graph(region.body, arrays), set()
        for target in targets:
            support = tactic.supports(region, target)
            assert support, f"{case.label}: {support.reason}"
            proposed = tactic.configs(region, target)
            configs = [c for i, c in enumerate(proposed) if i < limit or c["depth"]]
            for config in [*configs, *(blocking.as_config() for blocking in extra)]:
                kernel = tactic.build(region, config, target)
                assert isinstance(kernel, Kernel)
                if kernel.source in sources:
                    continue
                sources.add(kernel.source)
                label = f"{case.label} {dict(config)}"
                found.append(Case(label, region, kernel, arrays, expected))
    return found


def compare(cases: Sequence[Case], features: frozenset[str], preamble: str) -> None:
    """Compile all kernels at once and compare every result with the reference."""
    library = Library([case.kernel for case in cases], features, preamble)
    failures = []
    for index, case in enumerate(cases):
        problem = difference(run(library, index, case)[0], case.expected[0])
        failures += [] if problem is None else [f"{case.label}: {problem}"]
    assert not failures, f"{len(failures)} of {len(cases)} differ:\n" + "\n".join(failures[:12])


@pytest.mark.slow
@emulated
def test_first_configurations_match_the_reference_in_emulation() -> None:
    compare(cases_of([TARGET, SMALL], 1), EMULATED, EMULATION)


@pytest.mark.slow
@emulated
def test_results_overwrite_what_they_add() -> None:
    """A shortcut whose memory the result takes: rows that two tiles share are finished once."""
    adding = [
        case for case in cases_of([TARGET, SMALL], 2, BLOCKINGS[::5]) if case.kernel.overwrites
    ]
    assert len({case.label.split()[0] for case in adding}) > 1
    library = Library([case.kernel for case in adding], EMULATED, EMULATION)
    for index, case in enumerate(adding):
        buffers, pointers, symbols, scratch, items, _packed = prepare(case)
        (place,) = case.kernel.overwrites
        result = np.array(case.expected[0])
        shared = np.lib.stride_tricks.as_strided(
            buffers[place].view.view(result.dtype), result.shape, buffers[place].view.strides
        )
        pointers[len(case.region.inputs)] = pointers[place]
        start = scratch.ctypes.data + -scratch.ctypes.data % 64
        Emulation(library).watch([])
        for item in range(items):
            library.function(index)(
                pointers.ctypes.data, symbols.ctypes.data, item, item + 1, start
            )
        assert difference(np.array(shared), result) is None, case.label


@emulated
@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_every_blocking_matches_the_reference_in_emulation(part: int) -> None:
    compare(cases_of([TARGET, SMALL], 99, BLOCKINGS)[part::6], EMULATED, EMULATION)


@real
def test_every_configuration_matches_the_reference() -> None:
    compare(cases_of([TARGET, SMALL], 99), HERE.features, "")


def test_kernels_compile_with_the_real_instructions() -> None:
    """One kernel of every region; not run, the CPU may have no AMX."""
    kernels = {case.region.node: case.kernel for case in cases_of([TARGET], 1)}
    source = "".join(k.source.replace("@NAME@", f"k{i}") for i, k in enumerate(kernels.values()))
    used = "".join(f"(void *)k{i}, " for i in range(len(kernels)))
    export = '__attribute__((visibility("default"))) void *kernels[] = {' + used + "};"
    assert "_tile_dpbssd" in source
    assert "_tile_dpbusd" in source
    assert compile_source(prelude_text() + source + export, compile_flags(AMX))


def test_refusals_give_reasons() -> None:
    def reason(case: Quantized, target: Target = TARGET) -> str:
        return str(AmxConvolution().supports(region_of(case)[0], target).reason)

    plain = Quantized("plain", (1, 32, 7, 7), 16, (3, 3), pad=1)
    assert "no AMX for u8" in reason(plain, Target("cpu", WIDE))
    assert "runs of 7" in reason(Quantized("odd", (1, 7, 9, 9), 16, (1, 1)))
    assert "grouped" in reason(Quantized("g", (1, 32, 7, 7), 16, (3, 3), pad=1, group=2))
