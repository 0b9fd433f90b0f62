"""AMX kernels against the numpy reference: emulated everywhere, for real where the CPU has AMX."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from planish.backends.cpu.codegen.amx import print_amx
from planish.backends.cpu.codegen.amx_plan import AmxBlocking, Registers, pack_tiles, steps_of
from planish.backends.cpu.codegen.compile import compile_source
from planish.backends.cpu.codegen.driver import prelude_text
from planish.backends.cpu.codegen.element import PAIRS
from planish.backends.cpu.codegen.packing import split_columns
from planish.backends.cpu.device import compile_flags, detect
from planish.backends.cpu.tactics.amx_convolution import AmxConvolution
from planish.backends.cpu.tactics.amx_matmul import AmxMatMul
from planish.ir.dtypes import BF16
from planish.ops.interpreter import run_graph
from planish.ops.tolerance import mismatch, tolerance_of
from planish.tactics.tactic import Kernel, Region, Tactic
from planish.tactics.target import Target
from tests.backends.cpu.convolution_cases import Convolution, region_of_case
from tests.backends.cpu.kernel_harness import Case, Library, prepare
from tests.backends.cpu.test_matmul import Product, region_of_product

EMULATION = (Path(__file__).parent / "amx_emulation.h").read_text()
HERE = detect()
WIDE = frozenset(("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq",
                  "avx512_bf16"))  # fmt: skip
AMX = WIDE | {"amx_tile", "amx_bf16"}
TARGET = Target("cpu", AMX, threads=2, l1=48 << 10, l2=2 << 20)
SMALL = Target("cpu", AMX, threads=1, l1=8 << 10, l2=32 << 10)  # long K everywhere

emulated = pytest.mark.skipif(not HERE.has(*WIDE), reason="the epilogues need AVX-512 with bf16")
real = pytest.mark.skipif(not HERE.has(*AMX), reason="the CPU has no AMX")

CONVOLUTIONS = [
    Convolution("1x1", (2, 64, 9, 7), 64, (1, 1)),
    Convolution("1x1 relu", (1, 48, 5, 5), 37, (1, 1), epilogue="relu"),
    Convolution("1x1 halo", (2, 16, 6, 6), 20, (1, 1), halo=1, epilogue="hardswish"),
    Convolution("1x1 stride", (1, 40, 9, 9), 80, (1, 1), stride=(2, 2)),
    Convolution("1x1 odd", (1, 67, 6, 7), 33, (1, 1), epilogue="relu"),
    Convolution("3x3", (2, 32, 7, 7), 96, (3, 3), pad=1, epilogue="residual"),
    Convolution("3x3 narrow", (1, 24, 9, 19), 40, (3, 3), pad=1, epilogue="relu"),
    Convolution("3x3 overlap", (1, 11, 9, 19), 33, (3, 3), pad=1, epilogue="relu"),
    Convolution("3x3 stride", (1, 16, 14, 18), 24, (3, 3), pad=1, stride=(2, 2)),
    Convolution("3x3 dilated", (1, 8, 15, 15), 16, (3, 3), pad=2, dilation=(2, 2)),
    Convolution("5x1", (1, 8, 11, 6), 100, (5, 1), epilogue="leaky"),
    Convolution("7x7 first", (1, 4, 30, 30), 16, (7, 7), pad=3, stride=(2, 2), epilogue="relu"),
    Convolution("one output", (1, 20, 8, 8), 1, (3, 3), pad=1, epilogue="sigmoid"),
    Convolution("one pixel", (1, 64, 1, 1), 100, (1, 1)),
    Convolution("long K", (1, 1024, 3, 3), 32, (1, 1)),
    Convolution("long K many", (1, 512, 14, 14), 48, (1, 1), epilogue="relu"),
    Convolution("long taps", (1, 256, 7, 7), 48, (3, 3), pad=1, epilogue="relu"),
    Convolution("long lines", (1, 16, 3, 70), 16, (3, 3), pad=1),
    Convolution("conv1d", (2, 12, 33), 20, (5,), pad=2, epilogue="gelu"),
    Convolution("conv3d", (1, 4, 5, 6, 7), 18, (3, 3, 3), pad=1),
    Convolution("dynamic batch", ("N", 16, 7, 7), 32, (3, 3), pad=1, epilogue="relu"),
    Convolution("dynamic small", ("N", 16, 1, 1), 32, (1, 1), epilogue="scale"),
    Convolution("dynamic size", (1, 8, "H", "W"), 16, (3, 3), pad=1, epilogue="residual"),
    Convolution("row major out", (1, 8, 6, 10), 24, (3, 3), pad=1, epilogue="relu", out_nchw=True),
    Convolution("broadcast", (2, 16, 6, 6), 32, (1, 1), epilogue="gate"),
]
PRODUCTS = [
    Product("plain", (37, 66), (66, 48)),
    Product("bias", (4, 30, 64), (64, 100), epilogue="bias"),
    Product("one row", (1, 300), (300, 250), epilogue="bias"),
    Product("three rows", (3, 40), (40, 1000), epilogue="relu"),
    Product("one column", (20, 33), (33, 1)),
    Product("gelu", (2, 17, 32), (32, 64), epilogue="gelu"),
    Product("residual", (2, 17, 32), (32, 40), epilogue="residual"),
    Product("dynamic rows", (2, "S", 48), (48, 72), epilogue="bias"),
    Product("dynamic batch", ("N", 16, 24), (24, 40), epilogue="relu"),
    Product("dynamic long", ("S", 768), (768, 64), epilogue="residual"),
    Product("long", (18, 1536), (1536, 32), epilogue="bias"),
    Product("many rows", (200, 512), (512, 64), epilogue="gelu"),
    Product("batched weights", (3, 5, 24), (3, 24, 40), epilogue="bias"),
    Product("strided left", (2, 3, 20, 16), (16, 24), a_order=(0, 2, 1, 3)),
]  # fmt: skip
# beyond what the model proposes: every shape of block, every switch
BLOCKINGS = [
    AmxBlocking(rows, vectors, order, blocks=blocks, panels=panels, flat=flat, interleave=between,
                prefetch=prefetch, ahead=3 * prefetch)
    for (rows, vectors), order, flat, between, (blocks, panels, prefetch) in itertools.product(
        ((2, 2), (4, 1), (1, 4)), "nm", (False, True), (False, True), ((0, 1, 0), (1, 0, 2)))
]  # fmt: skip


def cases_of(target: Target, extra: Sequence[AmxBlocking] = ()) -> list[Case]:
    """Return every configuration of every convolution and product."""
    found: list[Case] = []
    regions: list[tuple[Tactic, str, tuple[Region, list[np.ndarray], dict[str, int]]]] = [
        *((AmxConvolution(), c.label, region_of_case(c, "bf16")) for c in CONVOLUTIONS),
        *((AmxMatMul(), p.label, region_of_product(p, "bf16")) for p in PRODUCTS),
    ]
    for tactic, name, (region, arrays, bindings) in regions:
        support = tactic.supports(region, target)
        assert support, f"{name}: {support.reason}"
        expected = run_graph(region.body, arrays)
        configs = [*tactic.configs(region, target), *(b.as_config() for b in extra)]
        for config in configs:
            kernel = tactic.build(region, config, target)
            assert isinstance(kernel, Kernel)
            found.append(Case(f"{name} {dict(config)}", region, kernel, arrays, expected, bindings))
    return found


def ranges_of_case(buffers: Sequence, packed: Sequence, case: Case, scratch: int) -> list:
    """Return (address, bytes) of everything that tiles may touch."""
    ranges = [(b._raw.ctypes.data + b._start, b._bytes) for b in buffers]
    sizes = [array.nbytes for array in case.kernel.packed]
    ranges += [(address, size) for (_, address), size in zip(packed, sizes, strict=True)]
    return [*ranges, (scratch, case.kernel.scratch_bytes)]


def run(library: Library, index: int, case: Case, poison: Callable | None = None) -> list:
    """Run one kernel in three calls and return its outputs; check guards and emulated faults."""
    buffers, pointers, symbols, scratch, items, packed = prepare(case)
    if poison is not None:
        poison(buffers)
    function, start = library.function(index), -scratch.ctypes.data % 64
    state = library._library if hasattr(library._library, "planish_amx_forget") else None
    if state is not None:
        state.planish_amx_forget()
        for base, size in ranges_of_case(buffers, packed, case, scratch.ctypes.data + start):
            state.planish_amx_allow(base_pointer(base), size)
    cuts = sorted({items * k // 3 for k in range(4)})
    for begin, end in reversed(list(itertools.pairwise(cuts))):
        function(pointers.ctypes.data, symbols.ctypes.data, begin, end, scratch.ctypes.data + start)
        assert state is None or state.planish_amx_configured() == 0, "tiles were not released"
    if state is not None:
        assert state.planish_amx_faults() == 0, f"{case.label}: invalid tile operations"
    for position, buffer in enumerate(buffers):
        assert buffer.guard_intact, f"{case.label}: wrote behind operand {position}"
    assert (scratch[start + case.kernel.scratch_bytes :] == 0xFF).all(), f"{case.label}: scratch"
    return [np.array(buffer.view) for buffer in buffers[-len(case.region.outputs) :]]


def base_pointer(address: int) -> object:
    """Return `address` as a C pointer."""
    import ctypes

    return ctypes.c_void_p(address)


def compare(cases: Sequence[Case], features: frozenset[str], preamble: str) -> None:
    """Compile all kernels at once and compare every result with the reference."""
    library = Library([case.kernel for case in cases], features, preamble)
    failures = []
    for index, case in enumerate(cases):
        for got, want in zip(run(library, index, case), case.expected, strict=True):
            problem = mismatch(got, want, tolerance_of(BF16))
            failures += [] if problem is None else [f"{case.label}: {problem}"]
    assert not failures, f"{len(failures)} of {len(cases)} differ:\n" + "\n".join(failures[:12])


@emulated
@pytest.mark.parametrize("target", [TARGET, SMALL], ids=["two threads", "small caches"])
def test_every_configuration_matches_the_reference_in_emulation(target: Target) -> None:
    compare(cases_of(target), AMX, EMULATION)


@real
@pytest.mark.parametrize("target", [TARGET, SMALL], ids=["two threads", "small caches"])
def test_every_configuration_matches_the_reference(target: Target) -> None:
    compare(cases_of(target), HERE.features, "")
