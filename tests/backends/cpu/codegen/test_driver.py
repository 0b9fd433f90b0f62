"""Each test prints a driver around a few hand-written kernels, compiles it and runs it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from planish.backends.cpu.codegen.driver import print_driver
from planish.errors import PlanError
from planish.ir.shape import symbol
from planish.plan.plan import Binding, HaloFill, Loop, MemoryReport, Plan, TensorInfo
from planish.plan.weights import WeightPool
from planish.runtime.engine import Engine
from planish.tactics.tactic import Kernel
from tests.runtime.engines import f32, parts_of, row_sums, row_sums_expected, step

BOTH = pytest.mark.parametrize("threads", [1, 2])


def kernel(body: str, items: Any = 1) -> Kernel:
    return Kernel(
        "static void @NAME@(char *const *p, const int64_t *d, int64_t begin, int64_t end, "
        f"char *scratch)\n{{\n{body}\n}}\n",
        items,
    )


def plan_of(steps: list[Any], inputs: Any, outputs: Any, **others: Any) -> Plan:
    arena = others.pop("arena_bytes", 4096)
    return Plan(
        inputs=tuple(TensorInfo(*info) for info in inputs),
        outputs=tuple(TensorInfo(*info) for info in outputs),
        symbols=others.pop("symbols", ()),
        ranges=others.pop("ranges", {}),
        steps=tuple(steps),
        memory=MemoryReport(arena, arena, arena, 0),
        arena_bytes=arena,
        **others,
    )


@BOTH
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 9, 25, 512])
def test_dynamic_extent_through_arena_and_scratch(threads: int, rows: int):
    engine = Engine(row_sums(threads))
    x = np.random.default_rng(rows).standard_normal((rows, 48)).astype(np.float32)
    for _ in range(10):  # together and alone: the first inferences try both
        np.testing.assert_allclose(engine(x), row_sums_expected(x), rtol=1e-5, atol=1e-3)


@BOTH
@pytest.mark.parametrize("items", [0, 1, 2, 5, 8, 9, 16, 17, 100, 1001])
def test_every_item_is_done_exactly_once(threads: int, items: int):
    count = kernel("for (int64_t i = begin; i < end; i++) ((float *)p[0])[i] += 1.0f;", items)
    one = step("count", [Binding("output", 0, 0)], [f32(2000)], items=items)
    plan = plan_of([one], [], [("y", "f32", (2000,))])
    engine = Engine(parts_of(plan, {"count": count}, threads=threads))
    for _ in range(9):
        y = np.zeros(2000, np.float32)
        engine.run({}, {"y": y})
        assert (y[:items] == 1).all()
        assert (y[items:] == 0).all()


@BOTH
def test_loops_nest_and_tell_the_iteration(threads: int):
    n, i, j = symbol("n"), symbol("i"), symbol("j")
    body = kernel("((int32_t *)p[0])[0] = (int32_t)(d[1] * 100 + d[2] + 1);")
    write = step(
        "write", [Binding("output", 0, i * n * 4 + j * 4)], [f32(1)], loop=1, function="write"
    )
    plan = plan_of(
        [write],
        [("x", "f32", (n,))],
        [("y", "i32", (3, n))],
        symbols=("n", "i", "j"),
        ranges={"n": (1, 4, 8)},
        loops=(Loop(0, 1, 3, "i"), Loop(0, 1, n, "j", parent=0)),
    )
    engine = Engine(parts_of(plan, {"write": body}, threads=threads))
    y = engine(np.zeros(5, np.float32))
    np.testing.assert_array_equal(y, [[a * 100 + b + 1 for b in range(5)] for a in range(3)])


@BOTH
def test_a_loop_that_does_not_iterate(threads: int):
    write = step("write", [Binding("output", 0, 0)], [f32(1)], loop=0)
    zero = step("zero", [Binding("output", 0, 0)], [f32(1)])
    plan = plan_of(
        [zero, write],
        [("x", "f32", (symbol("n"),))],
        [("y", "f32", (1,))],
        symbols=("n", "i"),
        ranges={"n": (1, 1, 9)},
        loops=(Loop(1, 2, symbol("n") - 1, "i"),),
    )
    kernels = {
        "write": kernel("((float *)p[0])[0] += 5.0f;"),
        "zero": kernel("((float *)p[0])[0] = 0.0f;"),
    }
    engine = Engine(parts_of(plan, kernels, threads=threads))
    assert engine(np.zeros(1, np.float32))[0] == 0
    assert engine(np.zeros(4, np.float32))[0] == 15


@BOTH
def test_guards_choose_the_branch(threads: int):
    condition = Binding("arena", 0, 7)
    take = step("take", [Binding("input", 0, 0), condition], [f32(1), f32(1)])
    output = Binding("output", 0, 0)
    yes = step("yes", [output], [f32(1)], guard=((condition, True),))
    no = step("no", [output], [f32(1)], guard=((condition, False), (Binding("input", 0, 0), False)))
    plan = plan_of([take, yes, no], [("c", "bool", ())], [("y", "f32", (1,))])
    kernels = {
        "take": kernel("p[1][0] = p[0][0];"),
        "yes": kernel("((float *)p[0])[0] = 1.0f;"),
        "no": kernel("((float *)p[0])[0] = -1.0f;"),
    }
    engine = Engine(parts_of(plan, kernels, threads=threads))
    assert engine(np.array(True))[0] == 1
    assert engine(np.array(False))[0] == -1


@BOTH
@pytest.mark.parametrize(
    ("sizes", "halo"),
    [
        ((2, 5, 6, 3), ((0, 0), (1, 1), (1, 2), (0, 0))),
        ((2, 5, 6, 3), ((0, 0), (0, 0), (1, 0), (0, 1))),
        ((4, 6), ((1, 1), (2, 3))),
        ((9,), ((4, 0),)),
        ((3, 4), ((0, 0), (0, 0))),
    ],
)
def test_halos_are_zero_and_the_inside_is_kept(threads: int, sizes: Any, halo: Any):
    total = int(np.prod(sizes))
    dirty = step("dirty", [Binding("arena", 0, 64)], [f32(total + 2)])
    fill = HaloFill(Binding("arena", 0, 68), sizes, halo, 4)
    nothing = step("nothing", [Binding("arena", 0, 68)], [f32(total)], fills=(fill,), items=3)
    copy = step(
        "copy", [Binding("arena", 0, 64), Binding("output", 0, 0)], [f32(1), f32(total + 2)]
    )
    plan = plan_of([dirty, nothing, copy], [], [("y", "f32", (total + 2,))])
    kernels = {
        "dirty": kernel(f"for (int i = 0; i < {total + 2}; i++) ((float *)p[0])[i] = 7.0f;"),
        "nothing": kernel("(void)p;", 3),
        "copy": kernel(f"memcpy(p[1], p[0], {4 * (total + 2)});"),
    }
    y = Engine(parts_of(plan, kernels, threads=threads))()
    inside = tuple(slice(b, size - a) for size, (b, a) in zip(sizes, halo, strict=True))
    expected = np.zeros(sizes, np.float32)
    expected[inside] = 7
    np.testing.assert_array_equal(y[1:-1].reshape(sizes), expected)
    assert y[0] == y[-1] == 7


def test_a_halo_of_symbolic_size():
    n = symbol("n")
    fill = HaloFill(Binding("output", 0, 0), (n + 2, 3), ((1, 1), (0, 0)), 4)
    ones = step("ones", [Binding("output", 0, 12)], [f32(n, 3)], fills=(fill,), items=n)
    plan = plan_of(
        [ones],
        [("x", "f32", (n,))],
        [("y", "f32", (n + 2, 3))],
        symbols=("n",),
        ranges={"n": (1, 1, 9)},
    )
    body = kernel("for (int64_t i = 3 * begin; i < 3 * end; i++) ((float *)p[0])[i] = 1.0f;", n)
    engine = Engine(parts_of(plan, {"ones": body}, threads=2))
    for count in (1, 4, 9):
        y = engine(np.zeros(count, np.float32))
        assert y.sum() == 3 * count
        assert (y[0] == 0).all()
        assert (y[-1] == 0).all()


def test_equal_kernels_are_printed_once_and_name_all_layers():
    same = kernel("((float *)p[0])[0] = 1.0f;")
    steps = [step(name, [Binding("output", 0, 0)], [f32(1)]) for name in ("a", "b")]
    source = print_driver(plan_of(steps, [], [("y", "f32", (1,))]), {"a": same, "b": same})
    assert source.count("((float *)p[0])[0] = 1.0f;") == 1
    assert "/* kernel k_0_a: layer.a; layer.b */" in source


def test_what_a_kernel_brings_along_is_not_taken_for_another_kernel():
    helped = dataclasses.replace(
        kernel("@NAME@_2(p);"),
        source="static void @NAME@_2(char *const *p) { ((float *)p[0])[0] = 1.0f; }\n"
        + kernel("@NAME@_2(p);").source,
    )
    names = ("a", "a_2")
    steps = [step(n, [Binding("output", i, 0)], [f32(1)]) for i, n in enumerate(names)]
    plan = plan_of(steps, [], [("y", "f32", (1,)), ("z", "f32", (1,))])
    bodies = {"a": helped, "a_2": kernel("((float *)p[0])[0] = 2.0f;")}
    engine = Engine(parts_of(plan, bodies, threads=1))
    assert [float(array[0]) for array in engine.run({}).values()] == [1.0, 2.0]


def test_layer_names_cannot_break_out_of_comments():
    one = step("a", [Binding("output", 0, 0)], [f32(1)])
    evil = dataclasses.replace(one, layers="x */ int main() { } /*\n#error é")
    plan = plan_of([evil], [], [("y", "f32", (1,))])
    assert Engine(parts_of(plan, {"a": kernel("((float *)p[0])[0] = 1.0f;")}))()[0] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loops": (Loop(0, 1, 1, "i", parent=0),), "symbols": ("i",)}, "comes after"),
        ({"loops": (Loop(0, 1, 1, "i"),)}, "symbol i"),
        ({"loops": (Loop(0, 5, 1, "i"),), "symbols": ("i",)}, "do not exist"),
    ],
)
def test_wrong_loops_are_refused(change: Any, message: str):
    plan = plan_of([step("a", [Binding("output", 0, 0)], [f32(1)])], [], [("y", "f32", (1,))])
    with pytest.raises(PlanError, match=message):
        print_driver(dataclasses.replace(plan, **change), {"a": kernel("")})


def test_a_missing_kernel_is_refused():
    plan = plan_of([step("a", [Binding("output", 0, 0)], [f32(1)])], [], [("y", "f32", (1,))])
    with pytest.raises(PlanError, match="no kernel"):
        print_driver(plan, {})


def test_weights_reach_the_kernel():
    pool = WeightPool()
    pool.add(np.arange(100, dtype=np.float32))
    second = pool.add(np.array([3.0, 4.0], np.float32))
    one = step("a", [Binding("output", 0, 0), Binding("weights", 0, second)], [f32(2)])
    plan = plan_of([one], [], [("y", "f32", (2,))])
    y = Engine(parts_of(plan, {"a": kernel("memcpy(p[0], p[1], 8);")}, pool))()
    np.testing.assert_array_equal(y, [3, 4])
