"""A GPU made of host memory, and engines for it whose kernels are C functions."""

from __future__ import annotations

import ctypes
import functools
import gc
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from planish.engine.parts import DeviceCode, DeviceKernel, EngineParts
from planish.ir.shape import symbol
from planish.plan.plan import Binding, MemoryReport, Plan, TensorInfo
from planish.plan.weights import WeightPool
from planish.runtime.cuda import binding, driver
from tests.runtime.engines import f32, step

HERE = Path(__file__).parent
N = symbol("N")
WIDTH = 48

# kernels: void k(void **parameters, unsigned blocks); the last two parameters are null
SCALE = """
int scale_parameters = 6;
void scale(void **p, unsigned blocks) {
    const float *in = *(float **)p[0], *bias = *(float **)p[2];
    float *out = *(float **)p[1];
    int rows = *(int *)p[3];
    if ((unsigned)rows != blocks) return;
    for (int i = 0; i < rows * 48; i++) out[i] = in[i] * 2.0f + bias[i % 48];
}
"""
TOTAL = """
int total_parameters = 4;
void total(void **p, unsigned blocks) {
    const float *in = *(float **)p[0];
    float *out = *(float **)p[1];
    for (unsigned row = 0; row < blocks; row++) {
        out[row] = 0;
        for (int i = 0; i < 48; i++) out[row] += in[row * 48 + i];
    }
}
"""
ADD = """
int add_parameters = 5; /* out[i] = in[i] + the number of the iteration */
void add(void **p, unsigned blocks) {
    const float *in = *(float **)p[0];
    float *out = *(float **)p[1];
    for (unsigned i = 0; i < blocks; i++) out[i] = in[i] + *(int *)p[2];
}
"""


@functools.cache
def compiled(text: str, *libraries: str) -> bytes:
    """Return a shared object made from C."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "made.so")
        command = ["gcc", "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", str(path), *libraries]
        subprocess.run(command, input=text.encode(), check=True)
        return path.read_bytes()


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@contextmanager
def fake_gpu() -> Iterator[ctypes.CDLL]:
    """Let the runtime find the fake driver; yield it for what tests ask and set."""
    path = Path(_folder().name, "libcuda.so")
    if not path.exists():
        path.write_bytes(compiled((HERE / "fake_driver.c").read_text(), "-ldl", "-lpthread"))
    caches = (binding.library, driver.device, driver.is_present)
    before, binding.LIBRARY = binding.LIBRARY, str(path)
    for cache in caches:
        cache.cache_clear()
    library = ctypes.CDLL(str(path))
    library.fake_used.restype = ctypes.c_size_t
    library.fake_limit.argtypes = (ctypes.c_size_t,)
    try:
        yield library
    finally:
        library.fake_limit(1 << 34)
        library.fake_arch(90)
        library.fake_absent(0)
        library.fake_fail_launch(0)
        gc.collect()
        binding.LIBRARY = before
        for cache in caches:
            cache.cache_clear()


def device_code(kernels: dict[str, tuple[str, tuple[str, ...]]], arch: int = 90) -> DeviceCode:
    """Return kernels by name: their C text, and the symbols that they take."""
    found = tuple(
        DeviceKernel(compiled(text), name, 0, 1, symbols)
        for name, (text, symbols) in kernels.items()
    )
    functions = {name: index for index, name in enumerate(kernels)}
    return DeviceCode("", arch, found, functions, "gcc")


def row_sums(arch: int = 90, largest: int = 512) -> EngineParts:
    """y[N] = sum(2 * x + bias) over rows of x[N, 48], through the arena, N dynamic."""
    pool = WeightPool()
    offset = pool.add(np.arange(WIDTH, dtype=np.float32))
    arena = Binding("arena", 0, 64)
    plan = Plan(
        inputs=(TensorInfo("x", "f32", (N, WIDTH)),),
        outputs=(TensorInfo("y", "f32", (N,)),),
        symbols=("N",),
        ranges={"N": (1, 4, largest)},
        steps=(
            step(
                "scale",
                [Binding("input", 0, 0), arena, Binding("weights", 0, offset)],
                [f32(N, WIDTH), f32(N, WIDTH)],
                grid=(N,),
            ),
            step(
                "total",
                [arena, Binding("output", 0, 0)],
                [f32(N, WIDTH), f32(N)],
                grid=(N,),
            ),
        ),
        memory=MemoryReport(largest * WIDTH * 4, largest * WIDTH * 4, largest * WIDTH * 4, 192),
        arena_bytes=64 + largest * WIDTH * 4,
    )
    code = device_code({"scale": (SCALE, ("N",)), "total": (TOTAL, ())}, arch)
    return EngineParts(plan, pool.memory(), code, "graph none {}")


def row_sums_expected(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray((x * 2 + np.arange(WIDTH, dtype=np.float32)).sum(axis=1))
