"""What amx.py does in processes of their own: one layer's kernels, and the peak.

usage: python amx_worker.py --layer NAME ... | --peak ...     (amx.py starts it)

A virtual core shares its physical one with whatever the host runs on the other hyperthread: while
that is busy, AMX kernels are three times slower, for milliseconds to seconds. A fixed product
(`PROBE`) before and after every burst tells: bursts that it finds slow are thrown away and
repeated, on another core where one is free.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import mmap
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from amx_layers import LAYERS, NUMPY, ROOT, Layer, random_input, region_of

from planish.backends.cpu.codegen.compile import compile_source
from planish.backends.cpu.codegen.driver import prelude_text
from planish.backends.cpu.device import compile_flags, detect
from planish.backends.cpu.tactics.amx_convolution import AmxConvolution
from planish.backends.cpu.tactics.amx_matmul import AmxMatMul
from planish.backends.cpu.tactics.convolution import GemmConvolution
from planish.backends.cpu.tactics.matmul import GemmMatMul
from planish.ir.dtypes import BF16
from planish.ops.interpreter import run_graph
from planish.ops.tolerance import mismatch, tolerance_of
from planish.tactics.tactic import Kernel
from planish.tactics.target import Target

AMX = {
    "bf16": frozenset(("amx_tile", "amx_bf16")),
    "int8": frozenset(("amx_tile", "amx_bf16", "amx_int8")),
}
EMULATION = ROOT / "tests" / "backends" / "cpu" / "amx_emulation.h"

# -- running kernels -----------------------------------------------------------------------------

HARNESS = """
#include <time.h>
typedef void (*bench_kernel)(char *const *, const int64_t *, int64_t, int64_t, char *);
static int64_t bench_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
static bench_kernel bench_kernels[];
__attribute__((visibility("default")))
void bench(int kernel, char *const *const *sets, int64_t count, int64_t items, char *scratch,
           int64_t runs, int64_t *nanoseconds) {
    const int64_t d[1] = {0};
    for (int64_t run = 0; run < runs; run++) {
        const int64_t start = bench_now();
        bench_kernels[kernel](sets[run % count], d, 0, items, scratch);
        nanoseconds[run] = bench_now() - start;
    }
}
"""

# a product of 128 x 768 by 768 x 384, tiles straight from memory, as a network has them
PROBE = """
#if defined(__AMX_TILE__)
__attribute__((visibility("default")))
int64_t probe(const char *a, const char *b) {
    const int64_t start = bench_now();
    planish_amx_begin(4, 2, 2, 16, 64);
    for (int panel = 0; panel < 12; panel++)
        for (int block = 0; block < 4; block++) {
            const char *x = a + block * 32 * 1536, *w = b + panel * 49152;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (int k = 0; k < 24; k++, x += 64, w += 2048) {
                _tile_loadd(6, w, 64);
                _tile_loadd(4, x, 1536);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(5, x + 16 * 1536, 1536);
                _tile_dpbf16ps(2, 5, 6);
                _tile_loadd(7, w + 1024, 64);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
    planish_amx_end();
    return bench_now() - start;
}
#endif
"""
PROBE_BYTES = 128 * 1536, 12 * 49152
QUIET = 1.2  # times the fastest probe


class Core:
    """Finds a core whose other hyperthread is idle, and says whether it stayed so."""

    def __init__(self, library: Any, arena: Arena, preferred: int) -> None:
        self._probe = library.probe
        self._probe.restype = ctypes.c_int64
        self._probe.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        random = np.random.default_rng(3)
        self._memory = [arena.take(size) for size in PROBE_BYTES]
        for memory in self._memory:
            values = random.standard_normal(memory.size // 2).astype(NUMPY)
            memory[...] = values.view(np.uint8)
        available = sorted(os.sched_getaffinity(0))
        self._cores = [preferred, *(core for core in reversed(available) if core != preferred)]
        self.lost = 0
        times = []
        for core in self._cores:
            os.sched_setaffinity(0, {core})
            times += [self.time() for _ in range(8)]
        self.best = min(times)

    def time(self) -> int:
        """Return the nanoseconds of the probe."""
        return int(self._probe(*(memory.ctypes.data for memory in self._memory)))

    @property
    def quiet(self) -> bool:
        """Whether the present core is not disturbed now."""
        time = min(self.time(), self.time())
        self.best = min(self.best, time)
        return time <= QUIET * self.best

    def settle(self, end: float = math.inf) -> None:
        """Move to a quiet core; stay anywhere when there is none for a third of a second."""
        end = min(end, time.monotonic() + 0.35)
        while not self.quiet and time.monotonic() < end:
            self._cores.append(self._cores.pop(0))
            os.sched_setaffinity(0, {self._cores[0]})
            self.time()


class Arena:
    """Anonymous memory in huge pages."""

    def __init__(self, size: int) -> None:
        page = 2 << 20
        self._map = mmap.mmap(-1, -(-size // page) * page + page)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self.array = np.frombuffer(self._map, np.uint8)
        self._at = -self.array.ctypes.data % page

    def take(self, size: int) -> np.ndarray:
        taken = self.array[self._at : self._at + size]
        self._at += -(-(size + 64) // 128) * 128 + 64
        self._at += -(self.array.ctypes.data + self._at) % 64
        return taken


@dataclass
class Entry:
    """One configuration of one tactic."""

    tactic: str
    config: dict[str, Any]
    kernel: Kernel

    @property
    def label(self) -> str:
        return f"{self.tactic} {json.dumps(self.config, sort_keys=True)}"


class Bench:
    """The compiled kernels of one layer, and memory for them."""

    def __init__(
        self, layer: Layer, target: Target, skip: set[str], emulate: bool, precision: str
    ) -> None:
        self.layer, self.target = layer, target
        self.region = region_of(layer, precision)
        self.entries = [e for e in self._entries() if e.label not in skip]
        random = np.random.default_rng(2)
        self.inputs = [random_input(v, random) for v in self.region.body.inputs]
        self.expected = run_graph(self.region.body, self.inputs)[0]
        self.function = self._compile(EMULATION.read_text() if emulate else "")

    def _entries(self) -> list[Entry]:
        tactics = (AmxMatMul(), GemmMatMul()) if self.layer.rows else (
            AmxConvolution(), GemmConvolution())  # fmt: skip
        found = []
        for tactic, most in zip(tactics, (99, 1), strict=True):
            support = tactic.supports(self.region, self.target)
            if not support:
                raise SystemExit(f"{tactic.name} refuses {self.layer.name}: {support.reason}")
            for config in tactic.configs(self.region, self.target)[:most]:
                kernel = tactic.build(self.region, config, self.target)
                assert isinstance(kernel, Kernel)
                found.append(Entry(tactic.name, dict(config), kernel))
        return found

    def _compile(self, preamble: str) -> Any:
        parts = [preamble + prelude_text(), HARNESS, PROBE]
        names = [f"k{index}" for index in range(len(self.entries))]
        parts += [e.kernel.source.replace("@NAME@", n)
                  for e, n in zip(self.entries, names, strict=True)]  # fmt: skip
        parts.append(f"static bench_kernel bench_kernels[] = {{{', '.join(names)}}};")
        built = compile_source("\n".join(parts), compile_flags(self.target.features))
        with tempfile.NamedTemporaryFile(suffix=".so") as file:
            file.write(built)
            file.flush()
            library = ctypes.CDLL(file.name)
        self.library = library
        library.bench.restype = None
        library.bench.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
                                  ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]  # fmt: skip
        return library.bench

    def allocate(self) -> None:
        """Place operands and copies of the weights; more copies than L2 holds."""
        layouts = [v.layout for v in (*self.region.node.inputs, *self.region.node.outputs)]
        operands = (*self.region.inputs, *self.region.outputs)
        sizes = [int(la.elements(o.shape)) * o.dtype.itemsize
                 for la, o in zip(layouts, operands, strict=True)]  # fmt: skip
        weights = max(sum(a.nbytes for a in e.kernel.packed) for e in self.entries)
        copies = min(48, 2 + 2 * self.target.l2 // max(weights, 1))
        total = sum(sizes) + (copies * weights + (1 << 14)) * len(self.entries)
        total += sum(e.kernel.scratch_bytes for e in self.entries) + (64 << 10) * len(self.entries)
        arena = Arena(2 * total + (8 << 20))
        self.arena = arena
        self.keep: list[Any] = [arena]
        addresses = []
        for layout, operand, size in zip(layouts, operands, sizes, strict=True):
            memory = arena.take(size)
            memory[...] = 0
            dtype = operand.dtype.numpy
            first = int(layout.origin(operand.shape)) * dtype.itemsize
            addresses.append(memory.ctypes.data + first)
            strides = [int(s) * dtype.itemsize for s in layout.strides(operand.shape)]
            view = np.lib.stride_tricks.as_strided(
                memory[first:].view(dtype), operand.shape, strides
            )
            self.keep.append(view)
        self.views = self.keep[1:]
        for view, array in zip(self.views, self.inputs, strict=False):
            view[...] = array
        self.output = self.views[-1]
        self.sets, self.scratch = [], []
        for entry in self.entries:
            rows = []
            for _ in range(copies):
                packed = []
                for array in entry.kernel.packed:
                    memory = arena.take(array.nbytes)
                    memory[...] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                    packed.append(memory.ctypes.data)
                rows.append(np.array([*addresses, *packed], np.uint64))
            self.keep.append(rows)
            self.sets.append(np.array([row.ctypes.data for row in rows], np.uint64))
            self.scratch.append(arena.take(entry.kernel.scratch_bytes + 64))

    def run(self, index: int, runs: int, cold: bool) -> np.ndarray:
        """Return nanoseconds of `runs` runs."""
        times, sets = np.zeros(runs, np.int64), self.sets[index]
        items = int(self.entries[index].kernel.items)  # type: ignore[call-overload]
        self.function(index, sets.ctypes.data, len(sets) if cold else 1, items,
                      self.scratch[index].ctypes.data, runs, times.ctypes.data)  # fmt: skip
        return times

    def check(self, index: int) -> str | None:
        """Return what differs from the reference."""
        self.output[...] = np.nan if self.output.dtype == NUMPY else 77
        self.run(index, 1, False)
        got = np.array(self.output)
        if got.dtype == NUMPY:
            return mismatch(got, self.expected, tolerance_of(BF16))
        steps = np.abs(got.astype(np.int64) - self.expected)
        wrong = steps.max() > 1 or (steps > 0).mean() > 0.001
        return f"{(steps > 0).sum()} differ, by up to {steps.max()}" if wrong else None


# -- the process of one layer --------------------------------------------------------------------


def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def burst(bench: Bench, core: Core, i: int, runs: int, cold: bool, end: float) -> list[int]:
    """Return the nanoseconds of `runs` runs that nothing disturbed, as long as there is time."""
    while True:
        core.settle(end)
        # the first runs pay for what was in the caches before
        found: list[int] = bench.run(i, runs + 2, cold)[2:].tolist()
        if core.quiet or time.monotonic() > end:
            return found
        core.lost += 1


def measure(bench: Bench, seconds: float, preferred: int) -> list[dict[str, Any]]:
    """Time every configuration that gives the right result, interleaved."""
    results: list[dict[str, Any]] = []
    good: list[int] = []
    for index, entry in enumerate(bench.entries):
        say(running=entry.label)
        problem = bench.check(index)
        results.append({"tactic": entry.tactic, "config": entry.config, "error": problem})
        if problem is None:
            good.append(index)
    say(running="")
    if not seconds:
        for i in good:  # emulated: how long it takes means nothing
            keys = ("min_us", "median_us", "cold_min_us", "cold_median_us")
            results[i] |= dict.fromkeys(keys, 1.0)
    if not good or not seconds:
        return results
    core = Core(bench.library, bench.arena, preferred)
    core.settle()
    estimate = {i: max(1e-6, float(bench.run(i, 3, False).min()) * 1e-9) for i in good}
    rounds, share = 12, seconds / 24 / len(good)
    times: dict[tuple[int, bool], list[int]] = {(i, c): [] for i in good for c in (False, True)}
    end = time.monotonic() + 3 * seconds
    for turn in range(rounds):
        for i in good[:: 1 if turn % 2 == 0 else -1]:
            for cold in (False, True):
                runs = min(400, max(2, int(share / estimate[i])))
                times[i, cold] += burst(bench, core, i, runs, cold, end)
    results[0]["disturbed"] = core.lost
    for i in good:
        hot, cold = times[i, False], times[i, True]
        results[i] |= {
            "min_us": min(hot) / 1e3, "median_us": statistics.median(hot) / 1e3,
            "cold_min_us": min(cold) / 1e3, "cold_median_us": statistics.median(cold) / 1e3,
            "runs": len(hot),
        }  # fmt: skip
    return results


def openvino_time(layer: Layer, precision: str) -> float | None:
    """Return the median microseconds of OpenVINO's own kernel, if it is installed.

    For int8 its transformations make integers of what stands between FakeQuantize operations.
    """
    try:
        import openvino
        from openvino import opset13 as ops
    except ImportError:
        return None
    random = np.random.default_rng(1)

    def quantized(value: Any, low: float, high: float) -> Any:
        if precision != "int8":
            return value
        bounds = [ops.constant(np.array(bound, np.float32)) for bound in (low, high, low, high)]
        return ops.fake_quantize(value, *bounds, 255 if low == -high else 256)

    if layer.rows:
        x = ops.parameter([layer.rows, layer.channels], np.float32)
        w = random.standard_normal((layer.channels, layer.outputs)).astype(np.float32)
        weights = quantized(ops.constant(w), -4.0, 4.0)
        y = ops.matmul(quantized(x, -4.0, 4.0 * 127 / 128), weights, False, False)
        y = ops.add(y, ops.constant(np.ones((1, layer.outputs), np.float32)))
        y = ops.gelu(y, "erf") if layer.epilogue == "gelu" else y
    else:
        k, pad = layer.kernel, layer.kernel // 2
        x = ops.parameter([1, layer.channels, layer.size, layer.size], np.float32)
        w = random.standard_normal((layer.outputs, layer.channels, k, k)).astype(np.float32)
        weights = quantized(ops.constant(w), -4.0, 4.0)
        y = ops.convolution(quantized(x, 0.0, 4.0), weights, [layer.stride] * 2, [pad] * 2,
                            [pad] * 2, [1, 1])  # fmt: skip
        y = ops.add(y, ops.constant(np.ones((1, layer.outputs, 1, 1), np.float32)))
        y = ops.relu(y) if layer.epilogue else y
    y = quantized(y, 0.0, 64.0)
    hint = "f32" if precision == "int8" else "bf16"
    properties = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": hint,
                  "PERF_COUNT": True}  # fmt: skip
    request = (
        openvino.Core()
        .compile_model(openvino.Model([y], [x], "layer"), "CPU", properties)
        .create_infer_request()
    )
    times = []
    for _ in range(30):
        request.infer([random.standard_normal(list(x.shape)).astype(np.float32)])
        spent = [e.real_time.total_seconds() for e in request.profiling_info
                 if e.node_type in ("Convolution", "MatMul", "FullyConnected")]  # fmt: skip
        times.append(sum(spent))
    return statistics.median(times) * 1e6 or None


def worker(arguments: argparse.Namespace) -> None:
    """Prepare, wait for a line on standard input, measure, print the result."""
    layer = next(layer for layer in LAYERS if layer.name == arguments.layer)
    target = target_of(arguments.emulate, arguments.precision)
    skip = set(json.loads(arguments.skip))
    bench = Bench(layer, target, skip, arguments.emulate, arguments.precision)
    say(ready=len(bench.entries))
    sys.stdin.readline()
    bench.allocate()
    seconds = 0.0 if arguments.emulate else arguments.seconds
    results = measure(bench, seconds, arguments.core)
    other = openvino_time(layer, arguments.precision) if arguments.openvino else None
    say(result=results, openvino_us=other)


def target_of(emulate: bool, precision: str = "bf16") -> Target:
    """Return this machine with one thread."""
    here = detect(threads=1)
    return replace(here, features=here.features | AMX[precision]) if emulate else here


# -- the peak ------------------------------------------------------------------------------------

PEAK = r"""
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}
static void begin(int rows) {
    static struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } c;
    memset(&c, 0, sizeof c);
    c.palette = 1;
    for (int i = 0; i < 8; i++) { c.bytes[i] = 64; c.rows[i] = i < 6 ? rows : 16; }
    __asm__ volatile("" ::"r"(&c) : "memory");
    _tile_loadconfig(&c);
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);
}
#define API __attribute__((visibility("default")))
/* seconds of a product, tiles in registers */
API double registers(int rows, long count, const char *a) {
    begin(rows);
    _tile_loadd(5, a, 64);
    _tile_loadd(6, a + 1024, 64);
    _tile_loadd(7, a + 2048, 64);
    const double start = now();
    for (long i = 0; i < count; i++) {
        _tile_dpbf16ps(0, 5, 6); _tile_dpbf16ps(1, 5, 7); _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7); _tile_dpbf16ps(4, 5, 6);
    }
    const double spent = now() - start;
    _tile_release();
    return spent / (5.0 * count);
}
/* seconds of a product in 2 x 2 blocks, operands walking through memory; a: rows of `stride` */
API double blocks(int rows, long count, const char *a, long a_bytes, long stride, const char *b,
                  long b_bytes, int prefetch) {
    begin(rows);
    long at = 0, bt = 0;
    const double start = now();
    for (long i = 0; i < count; i++) {
        _tile_loadd(6, b + bt, 64);
        _tile_loadd(4, a + at, stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, a + at + 16 * stride, stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_loadd(7, b + bt + 1024, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
        if (prefetch)
            for (int l = 0; l < 2048; l += 64) _mm_prefetch(b + bt + 4096 + l, _MM_HINT_T0);
        bt = bt + 2048 >= b_bytes ? 0 : bt + 2048;
        at += 64;
        if (at % stride == 0) at += 31 * stride;
        if (at + 31 * stride + 64 > a_bytes) at = 0;
    }
    const double spent = now() - start;
    _tile_release();
    return spent / (4.0 * count);
}
"""
PLACES = {  # bytes of a, stride, bytes of b
    "l1": (16 << 10, 512, 16 << 10),
    "a_l1_b_l2": (16 << 10, 512, 768 << 10),
    "a_l2_b_l1": (768 << 10, 1536, 16 << 10),
    "l2": (512 << 10, 1536, 512 << 10),
    "a_l1_b_l3": (16 << 10, 512, 16 << 20),
}


def peak(arguments: argparse.Namespace) -> None:
    """Print GFLOP/s of products alone and with loads, of random numbers (zeros are faster)."""
    integers = arguments.precision == "int8"
    source = PEAK.replace("_tile_dpbf16ps", "_tile_dpbusd") if integers else PEAK
    each = 2048 if integers else 1024  # operations of a row in a product, halved
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(compile_source(source, compile_flags(target_of(False).features)))
        file.flush()
        library = ctypes.CDLL(file.name)
    library.registers.restype = library.blocks.restype = ctypes.c_double
    cores = sorted(os.sched_getaffinity(0), key=lambda core: core != arguments.core)[:6]
    arena = Arena(40 << 20)
    a, b = arena.take(2 << 20), arena.take(18 << 20)
    a[...] = b[...] = 0

    def best(function: Any, *values: int) -> float:
        """Return the shortest of several runs on several cores, one of which may be quiet."""
        times = []
        for core in cores:
            os.sched_setaffinity(0, {core})
            times += [function(*(ctypes.c_long(value) for value in values)) for _ in range(3)]
        return min(times)

    def registers(rows: int) -> float:
        return rows * each / best(library.registers, rows, 8000, a.ctypes.data) / 1e9

    found = {"registers_zeros": registers(16)}
    random = np.random.default_rng(4)
    for memory in (a, b):
        values = random.standard_normal(memory.size // 2, np.float32).astype(NUMPY)
        memory[...] = values.view(np.uint8)
    found |= {f"registers_rows{rows}": registers(rows) for rows in (1, 4, 7, 8, 10, 13, 14, 16)}
    found["gflops"] = found["registers_rows16"]
    for place, (a_bytes, stride, b_bytes) in PLACES.items():
        for rows in (7, 14, 16) if place in ("l1", "l2") else (16,):
            for prefetch in (0, 1):
                count = max(4 * (a_bytes + b_bytes) // 2048, 5000)
                time = best(library.blocks, rows, count, a.ctypes.data, a_bytes, stride,
                            b.ctypes.data, b_bytes, prefetch)  # fmt: skip
                key = f"{place}_rows{rows}{'_prefetch' if prefetch else ''}"
                found[key] = rows * each / time / 1e9
    say(peak={key: round(value, 1) for key, value in found.items()})


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layer")
    parser.add_argument("--precision", choices=("bf16", "int8"), default="bf16")
    parser.add_argument("--peak", action="store_true")
    parser.add_argument("--skip", default="[]")
    parser.add_argument("--seconds", type=float, default=1.2)
    parser.add_argument("--core", type=int, required=True)
    parser.add_argument("--openvino", action="store_true")
    parser.add_argument("--emulate", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    given = read_arguments()
    if given.peak:
        peak(given)
    else:
        worker(given)
