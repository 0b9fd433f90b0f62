"""Small engines written by hand, for the tests of runtime and engine file."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from planish.backends.cpu.codegen.compile import compile_source, find_compiler
from planish.backends.cpu.codegen.driver import print_driver
from planish.backends.cpu.device import compile_flags, detect
from planish.engine.parts import EngineParts, NativeCode
from planish.ir.shape import symbol
from planish.plan.plan import (
    Binding,
    MemoryReport,
    Operand,
    Plan,
    Step,
    TensorInfo,
)
from planish.plan.weights import WeightPool
from planish.tactics.tactic import Kernel

# the few functions of the prelude that the driver needs: the whole costs the compiler more time
# than everything else in these tests
PRELUDE = """
#include <stddef.h>
#include <stdint.h>
#include <string.h>
static inline int64_t planish_min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
"""

N = symbol("N")
WIDTH = 48

# out[row] = in[row] * 2 + bias; one item a row
SCALE = Kernel(
    """
static void @NAME@(char *const *p, const int64_t *d, int64_t begin, int64_t end, char *scratch)
{
    const float *in = (const float *)p[0], *bias = (const float *)p[2];
    float *out = (float *)p[1];
    for (int64_t row = begin; row < end; row++)
        for (int64_t i = 0; i < 48; i++) out[row * 48 + i] = in[row * 48 + i] * 2.0f + bias[i];
}
""",
    N,
)

# out[row] = sum over the row, through scratch memory
TOTAL = Kernel(
    """
static void @NAME@(char *const *p, const int64_t *d, int64_t begin, int64_t end, char *scratch)
{
    const float *in = (const float *)p[0];
    float *out = (float *)p[1], *copy = (float *)scratch;
    for (int64_t row = begin; row < end; row++) {
        memcpy(copy, in + row * 48, 48 * sizeof(float));
        float sum = 0;
        for (int64_t i = 0; i < 48; i++) sum += copy[i];
        out[row] = sum;
    }
}
""",
    N,
    scratch_bytes=256,
)


def parts_of(
    plan: Plan, kernels: dict[str, Kernel], weights: Any = None, threads: int = 1
) -> EngineParts:
    target = detect(threads)
    source = print_driver(plan, kernels, PRELUDE)
    code = compile_source(source, compile_flags(target.features))
    native = NativeCode(
        source, code, tuple(sorted(target.features)), find_compiler().version, threads
    )
    return EngineParts(plan, (weights or WeightPool()).memory(), native, "graph none {}")


def f32(*shape: Any, strides: tuple[Any, ...] | None = None) -> Operand:
    running, found = 1, []
    for dim in reversed(shape):
        found.append(running)
        running = running * dim
    return Operand("f32", shape, strides or tuple(reversed(found)))


def step(name: str, bindings: list[Binding], operands: list[Operand], **others: Any) -> Step:
    return Step(
        name=name,
        layers=f"layer.{name}",
        function=others.pop("function", name),
        external=others.pop("external", None),
        bindings=tuple(bindings),
        operands=tuple(operands),
        outputs=others.pop("outputs", 1),
        items=others.pop("items", 1),
        **others,
    )


@functools.cache
def row_sums(threads: int = 1, largest: int = 512) -> EngineParts:
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
                items=N,
            ),
            step(
                "total",
                [arena, Binding("output", 0, 0)],
                [f32(N, WIDTH), f32(N)],
                items=N,
                scratch_bytes=256,
            ),
        ),
        memory=MemoryReport(largest * WIDTH * 4, largest * WIDTH * 4, largest * WIDTH * 4, 192),
        arena_bytes=64 + largest * WIDTH * 4,
    )
    return parts_of(plan, {"scale": SCALE, "total": TOTAL}, pool, threads)


def row_sums_expected(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (x * 2 + np.arange(WIDTH, dtype=np.float32)).sum(axis=1)
