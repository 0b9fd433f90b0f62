"""AMX kernels against the numpy reference: emulated everywhere, for real where the CPU has AMX."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from planish.backends.cpu.codegen.amx_plan import AmxBlocking, Registers, pack_tiles, steps_of
from planish.backends.cpu.codegen.compile import compile_source
from planish.backends.cpu.codegen.driver import prelude_text
from planish.backends.cpu.codegen.element import PAIRS
from planish.backends.cpu.codegen.packing import split_columns
from planish.backends.cpu.device import compile_flags, detect
from planish.backends.cpu.tactics.amx_convolution import AmxConvolution
from planish.backends.cpu.tactics.amx_matmul import AmxMatMul
from planish.ir.dtypes import BF16
from planish.ir.layout import Layout
from planish.ops.interpreter import run_graph
from planish.ops.tolerance import mismatch, tolerance_of
from planish.tactics.region import make_region
from planish.tactics.tactic import Kernel, Region, Tactic
from planish.tactics.target import Target
from tests.backends.cpu.convolution_cases import Convolution, region_of_case
from tests.backends.cpu.kernel_harness import Buffer, Case, Library, prepare
from tests.backends.cpu.test_matmul import Product, region_of_product

FOLDER = Path(__file__).parent
HERE = detect()
WIDE = frozenset(("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq",
                  "avx512_bf16"))  # fmt: skip
AMX = WIDE | {"amx_tile", "amx_bf16"}
TARGET = Target("cpu", AMX, threads=2, l1=48 << 10, l2=2 << 20)
SMALL = Target("cpu", AMX, threads=1, l1=8 << 10, l2=32 << 10)  # long K everywhere

# what emulated kernels are compiled for: their vectors are emulated, too, where there is no AVX-512
EMULATION = "".join((FOLDER / name).read_text() for name in ("amx_emulation.h", "wide_emulation.h"))
EMULATED = AMX if HERE.has(*WIDE) else HERE.features
emulated = pytest.mark.skipif(not HERE.has("avx2", "fma"), reason="the CPU has no AVX2")
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
                prefetch=prefetch, ahead=3 * prefetch, stream=5 * prefetch)
    for (rows, vectors), order, flat, between, (blocks, panels, prefetch) in itertools.product(
        ((2, 2), (4, 1), (1, 4)), "nm", (False, True), (False, True), ((0, 1, 0), (1, 0, 2)))
]  # fmt: skip


def regions() -> Iterator[tuple[Tactic, str, tuple[Region, list[np.ndarray], dict[str, int]]]]:
    """Yield tactic, label, and the region with its inputs and symbols."""
    for convolution in CONVOLUTIONS:
        yield AmxConvolution(), convolution.label, region_of_case(convolution, "bf16")
    for product in PRODUCTS:
        yield AmxMatMul(), product.label, region_of_product(product, "bf16")


def cases_of(
    targets: Sequence[Target], limit: int, extra: Sequence[AmxBlocking] = ()
) -> list[Case]:
    """Return the configurations of every region: `limit` for a target, all that cut K, `extra`."""
    found: list[Case] = []
    for tactic, name, (region, arrays, bindings) in regions():
        expected, sources = run_graph(region.body, arrays), set()
        for target in targets:
            support = tactic.supports(region, target)
            assert support, f"{name}: {support.reason}"
            proposed = tactic.configs(region, target)
            configs = [c for i, c in enumerate(proposed) if i < limit or c["depth"]]
            for config in [*configs, *(b.as_config() for b in extra)]:
                kernel = tactic.build(region, config, target)
                assert isinstance(kernel, Kernel)
                if kernel.source in sources:
                    continue
                sources.add(kernel.source)
                label = f"{name} {dict(config)}"
                found.append(Case(label, region, kernel, arrays, expected, bindings))
    return found


class Emulation:
    """The emulated tiles' state inside a library; does nothing where tiles are real."""

    def __init__(self, library: Library) -> None:
        loaded = library._library
        self._state = loaded if hasattr(loaded, "planish_amx_forget") else None

    def watch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Forget faults; from now on tiles may touch these (address, bytes) only."""
        if self._state is None:
            return
        self._state.planish_amx_forget()
        for base, size in ranges:
            self._state.planish_amx_allow(ctypes.c_void_p(base), ctypes.c_int64(size))

    @property
    def faults(self) -> int:
        """Invalid operations since `watch`."""
        return 0 if self._state is None else int(self._state.planish_amx_faults())

    @property
    def configured(self) -> bool:
        """Whether tiles are still configured."""
        return self._state is not None and bool(self._state.planish_amx_configured())


def run(
    library: Library, index: int, case: Case, poison: Callable[[list[Buffer]], None] | None = None
) -> list[np.ndarray]:
    """Run one kernel in three calls and return its outputs; check guards and emulated faults."""
    buffers, pointers, symbols, scratch, items, packed = prepare(case)
    if poison is not None:
        poison(buffers)
    function, emulation = library.function(index), Emulation(library)
    start = -scratch.ctypes.data % 64
    sizes = [array.nbytes for array in case.kernel.packed]
    emulation.watch([
        *((b._raw.ctypes.data + b._start, b._bytes) for b in buffers),
        *((address, size) for (_, address), size in zip(packed, sizes, strict=True)),
        (scratch.ctypes.data + start, case.kernel.scratch_bytes),
    ])  # fmt: skip
    cuts = sorted({items * k // 3 for k in range(4)})
    for begin, end in reversed(list(itertools.pairwise(cuts))):
        function(pointers.ctypes.data, symbols.ctypes.data, begin, end, scratch.ctypes.data + start)
        assert not emulation.configured, f"{case.label}: tiles were not released"
    assert emulation.faults == 0, f"{case.label}: invalid tile operations"
    for position, buffer in enumerate(buffers):
        assert buffer.guard_intact, f"{case.label}: wrote behind operand {position}"
    assert (scratch[start + case.kernel.scratch_bytes :] == 0xFF).all(), f"{case.label}: scratch"
    return [np.array(buffer.view) for buffer in buffers[-len(case.region.outputs) :]]


def compare(cases: Sequence[Case], features: frozenset[str], preamble: str) -> None:
    """Compile all kernels at once and compare every result with the reference."""
    library = Library([case.kernel for case in cases], features, preamble)
    failures = []
    for index, case in enumerate(cases):
        for got, want in zip(run(library, index, case), case.expected, strict=True):
            problem = mismatch(got, want, tolerance_of(BF16))
            failures += [] if problem is None else [f"{case.label}: {problem}"]
    assert not failures, f"{len(failures)} of {len(cases)} differ:\n" + "\n".join(failures[:12])


@pytest.mark.slow
@emulated
def test_first_configurations_match_the_reference_in_emulation() -> None:
    compare(cases_of([TARGET, SMALL], 2), EMULATED, EMULATION)


@emulated
@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_every_blocking_matches_the_reference_in_emulation(part: int) -> None:
    compare(cases_of([TARGET, SMALL], 99, BLOCKINGS)[part::4], EMULATED, EMULATION)


@real
def test_every_configuration_matches_the_reference() -> None:
    compare(cases_of([TARGET, SMALL], 99), HERE.features, "")


def sliced_case(blocking: AmxBlocking) -> Case:
    """Return a 1x1 convolution whose input has strange memory around pixels and lines."""
    case = Convolution("sliced", (2, 40, 6, 7), 24, (1, 1), epilogue="relu")
    region, arrays, bindings = region_of_case(case, "bf16")
    plain = ((0, 0),) * 4
    layouts = {
        "x": Layout((0, 2, 3, 1), ((0, 0), (0, 8), (1, 2), (2, 1))),
        region.body.outputs[0].name: Layout((0, 2, 3, 1), plain),
    }
    region = make_region(region.body, "Conv", layouts, {})
    kernel = AmxConvolution().build(region, blocking.as_config(), TARGET)
    assert isinstance(kernel, Kernel)
    expected = run_graph(region.body, arrays)
    return Case(f"sliced {blocking}", region, kernel, arrays, expected, bindings)


@emulated
def test_nothing_but_the_operand_reaches_a_result() -> None:
    """NaN around every pixel and line of a view leaves results alone, flat or by line."""

    def poison(buffers: list[Buffer]) -> None:
        kept = np.array(buffers[0].view)
        raw = buffers[0]._raw[buffers[0]._start : buffers[0]._start + buffers[0]._bytes]
        raw[...] = 0xFF
        buffers[0].view[...] = kept

    cases = [sliced_case(AmxBlocking(2, 2, flat=flat)) for flat in (False, True)]
    library = Library([case.kernel for case in cases], EMULATED, EMULATION)
    for index, case in enumerate(cases):
        got = run(library, index, case, poison)[0]
        assert mismatch(got, case.expected[0], tolerance_of(BF16)) is None, case.label


@emulated
def test_emulation_counts_what_the_hardware_would_refuse() -> None:
    """A range too short and unconfigured tiles are faults: the checks above can fail."""
    case = sliced_case(AmxBlocking(2, 2))
    broken = Kernel(
        case.kernel.source.replace("planish_amx_begin(", "(void)("), case.kernel.items,
        case.kernel.packed, case.kernel.scratch_bytes,
    )  # fmt: skip
    narrow = Kernel(
        case.kernel.source.replace("(int)rows, 40)", "(int)rows, 44)"), case.kernel.items,
        case.kernel.packed, case.kernel.scratch_bytes,
    )  # fmt: skip
    library = Library([broken, narrow, case.kernel], EMULATED, EMULATION)
    for index in (0, 1):
        with pytest.raises(AssertionError, match="invalid tile operations"):
            run(library, index, case)
    run(library, 2, case)


def test_kernels_compile_with_the_real_instructions() -> None:
    """One kernel of every region; not run, the CPU may have no AMX."""
    kernels = {c.region.node: c.kernel for c in cases_of([TARGET], 1)}
    source = "".join(k.source.replace("@NAME@", f"k{i}") for i, k in enumerate(kernels.values()))
    used = "".join(f"(void *)k{i}, " for i in range(len(kernels)))
    export = '__attribute__((visibility("default"))) void *kernels[] = {' + used + "};"
    assert compile_source(prelude_text() + source + export, compile_flags(AMX))


def test_refusals_give_reasons() -> None:
    def reason(case: Convolution, dtype: str = "bf16", target: Target = TARGET) -> str:
        region, _, _ = region_of_case(case, dtype)
        return str(AmxConvolution().supports(region, target).reason)

    plain = Convolution("plain", (1, 32, 7, 7), 16, (3, 3), pad=1)
    assert "no AMX" in reason(plain, target=Target("cpu", WIDE))
    assert "not bf16" in reason(plain, "f32")
    assert "grouped" in reason(Convolution("g", (1, 32, 7, 7), 16, (3, 3), pad=1, group=2))
    assert "zeros around" in reason(Convolution("h", (1, 32, 7, 7), 16, (3, 3), pad=1, halo=0))
    assert "runs of 21" in reason(Convolution("odd", (1, 7, 9, 9), 16, (3, 3), pad=1))
    region, _, _ = region_of_product(Product("two", (3, 40), (40, 20), constant=""), "bf16")
    assert "not a constant" in str(AmxMatMul().supports(region, TARGET).reason)


@pytest.mark.parametrize(
    ("run", "count", "size"), [(32, 1, 32), (48, 2, 24), (66, 3, 22), (70, 3, 32), (67, 3, 32)]
)
def test_steps_cover_every_element_once(run: int, count: int, size: int) -> None:
    """Packed weights, multiplied step by step, are the product of the whole matrix."""
    steps = steps_of(run, PAIRS)
    assert steps is not None
    assert (steps.count, steps.size) == (count, size)
    random = np.random.default_rng(run)
    matrix = random.integers(-4, 5, (2 * run, 40)).astype(ml_dtypes.bfloat16)
    columns = split_columns(40, 16, 2)
    packed = pack_tiles(matrix, steps, columns, PAIRS).astype(np.float32)
    row = random.integers(-4, 5, 2 * run).astype(np.float32)
    result, at = np.zeros(columns.padded, np.float32), 0
    for panel in range(columns.panels):
        low, high = columns.first_column(panel), columns.first_column(panel + 1)
        for step in range(2 * count):
            first = step // count * run + min(step % count * size, run - size)
            for column in range(low, high, 16):
                tile = packed[at : at + size * 16].reshape(size // 2, 16, 2)
                taken = row[first : first + size].reshape(size // 2, 1, 2)
                result[column : column + 16] += (tile * taken).sum((0, 2))
                at += size * 16
    assert at == packed.size
    np.testing.assert_array_equal(result[:40], row @ matrix.astype(np.float32))


def test_short_odd_runs_have_no_steps() -> None:
    assert steps_of(21, PAIRS) is None


def test_blocks_fit_the_registers() -> None:
    for rows, vectors in ((2, 2), (4, 1), (1, 4), (1, 6), (3, 1)):
        use = Registers(rows, vectors)
        assert use.fits
        assert use.accumulators + use.left + use.right <= 8
    assert not Registers(2, 3).fits
    assert not Registers(1, 7).fits
