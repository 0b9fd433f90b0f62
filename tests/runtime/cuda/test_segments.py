"""Plans of which the host runs a part: steps without a kernel, loops, conditions."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from planish.engine.parts import EngineParts
from planish.errors import PlanError
from planish.ir.shape import symbol
from planish.plan.plan import (
    UNLIMITED,
    Binding,
    HaloFill,
    Loop,
    MemoryReport,
    Plan,
    Step,
    TensorInfo,
)
from planish.runtime.cuda.arrays import DeviceArray
from planish.runtime.cuda.segments import (
    GuardSegment,
    HostSegment,
    KernelSegment,
    LoopSegment,
    segments_of,
)
from planish.runtime.engine import Engine
from planish.runtime.external import ExternalRequest, register
from tests.runtime.cuda.fake import ADD, device_code, fake_gpu
from tests.runtime.engines import f32, step

Array = np.ndarray[Any, Any]
SIZE = 6
I = symbol("i")  # noqa: E741 (the number of an iteration)
X, Y = Binding("input", 0, 0), Binding("output", 0, 0)


def arena(offset: Any) -> Binding:
    return Binding("arena", 0, offset)


@pytest.fixture
def gpu() -> Iterator[ctypes.CDLL]:
    register("negate", negate)
    register("positive", positive)
    with fake_gpu() as library:
        yield library


def negate(request: ExternalRequest) -> Any:
    def run(inputs: Sequence[Array], outputs: Sequence[Array | None]) -> list[Array]:
        results = []
        for array, view in zip(inputs, outputs, strict=True):
            results.append(-array)
            if view is not None:
                view[...] = -array
        return results

    return run


def positive(request: ExternalRequest) -> Any:
    """Keep what is above 0: only the data decides how much."""
    return lambda inputs, outputs: [inputs[0][inputs[0] > 0]]


def add(name: str, source: Binding, target: Binding, **others: Any) -> Step:
    """out[i] = in[i] + the number of the iteration"""
    return step(
        name, [source, target], [f32(SIZE), f32(SIZE)], function="add", grid=(SIZE,), **others
    )


def host(
    name: str, source: Binding, target: Binding, external: int = 0, target_view: Any = None,
    **others: Any,
) -> Step:  # fmt: skip
    operands = [f32(SIZE), target_view or f32(SIZE)]
    return step(name, [source, target], operands, function=None, external=external, **others)


def plan(steps: Sequence[Step], loops: Sequence[Loop] = (), **others: Any) -> Plan:
    facts: dict[str, Any] = {
        "inputs": (TensorInfo("x", "f32", (SIZE,)),),
        "outputs": (TensorInfo("y", "f32", (SIZE,)),),
        "symbols": ("i",),
        "ranges": {},
        "memory": MemoryReport(4096, 4096, 4096, 0),
        "externals": (("negate", {}), ("positive", {})),
        "arena_bytes": 4096,
        **others,
    }
    empty = Loop(0, 0, 1, "i")  # makes the symbol that the kernel takes
    return Plan(steps=tuple(steps), loops=tuple(loops) or (empty,), **facts)


def engine(made: Plan) -> Engine:
    code = device_code({"add": (ADD, ("i",))})
    return Engine(EngineParts(made, np.zeros(0, np.uint8), code, "graph none {}"))


def x(seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)


def both(made: Engine, given: Array) -> Array:
    """Run on the host and on the device; return what both give."""
    first = made(given)
    second = made(DeviceArray.of(given))
    assert isinstance(second, DeviceArray)
    np.testing.assert_array_equal(first, second.numpy())
    np.testing.assert_array_equal(first, made(given))
    return np.asarray(first)


def test_steps_on_the_host_between_graphs(gpu: ctypes.CDLL) -> None:
    made = plan(
        [
            add("a", X, arena(0)),
            host("b", arena(0), arena(64)),
            add("c", arena(64), arena(128)),
            host("d", arena(128), Y),
        ]
    )
    kinds = [type(segment) for segment in segments_of(made, {"i": 0})]
    assert kinds == [KernelSegment, HostSegment, KernelSegment, HostSegment]
    np.testing.assert_array_equal(both(engine(made), x()), x())


def test_a_host_step_first_and_strided_results(gpu: ctypes.CDLL) -> None:
    """A host step writes every other element: those between stay what a kernel wrote."""
    every_other = f32(SIZE // 2, strides=(2,))
    negated = step(
        "b", [X, arena(0)], [f32(SIZE // 2, strides=(-1,)), every_other],
        function=None, external=0,
    )  # fmt: skip
    backwards = Binding("input", 0, 4 * (SIZE - 1))
    negated = Step(**{**vars(negated), "bindings": (backwards, arena(0))})
    made = plan([add("a", X, arena(0)), negated, add("c", arena(0), Y)])
    expected = x().copy()
    expected[::2] = -x()[::-1][: SIZE // 2]
    np.testing.assert_array_equal(both(engine(made), x()), expected)


def test_results_whose_extents_the_data_decides(gpu: ctypes.CDLL) -> None:
    unknown = symbol("?n")
    last = host("b", arena(0), Y, external=1, target_view=f32(unknown))
    made = engine(
        plan([add("a", X, arena(0)), last], outputs=(TensorInfo("y", "f32", (unknown,)),))
    )
    for seed in range(3):
        np.testing.assert_array_equal(both(made, x(seed)), x(seed)[x(seed) > 0])
    pending = made.run_async({"x": x()})
    np.testing.assert_array_equal(pending.result()["y"], x()[x() > 0])


def counted(count: int, body: Sequence[Step], **others: Any) -> Plan:
    """y = x; then the body, which changes y, `count` times."""
    loop = Loop(1, 1 + len(body), count, "i", **others)
    return plan([add("first", X, Y), *body], [loop])


def test_a_counted_loop_is_unrolled_into_the_graph(gpu: ctypes.CDLL) -> None:
    made = counted(5, [add("a", Y, Y, loop=0)])
    assert [type(segment) for segment in segments_of(made, {"i": 0})] == [KernelSegment]
    np.testing.assert_allclose(both(engine(made), x()), x() + 10, rtol=1e-6)


def test_very_many_iterations_are_launched_one_by_one(gpu: ctypes.CDLL) -> None:
    made = counted(5000, [add("a", Y, Y, loop=0)])
    kinds = [type(segment) for segment in segments_of(made, {"i": 0})]
    assert kinds == [KernelSegment, LoopSegment]
    expected = x().copy()
    for number in range(5000):
        expected += np.float32(number)
    np.testing.assert_array_equal(engine(made)(x()), expected)


def test_a_loop_with_a_host_step(gpu: ctypes.CDLL) -> None:
    made = counted(3, [add("a", Y, arena(0), loop=0), host("b", arena(0), Y, loop=0)])
    expected = x()
    for number in range(3):
        expected = -(expected + np.float32(number))
    np.testing.assert_array_equal(both(engine(made), x()), expected)


def test_iterations_address_memory_by_their_number(gpu: ctypes.CDLL) -> None:
    """Every iteration writes its own part of the arena; a host step reads the last."""
    write = add("a", X, arena(I * 64), loop=0)
    made = plan([write, host("b", arena(64 * 9), Y)], [Loop(0, 1, 10, "i")])
    np.testing.assert_array_equal(both(engine(made), x()), -(x() + np.float32(9)))


def guarded(expected: bool) -> Plan:
    """Steps that run only when the first byte of the input says so."""
    guard = ((X, expected),)
    return plan([add("a", X, Y), add("b", Y, Y, guard=guard), host("c", Y, Y, guard=guard)])


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("expected", [False, True])
def test_guarded_steps_run_when_the_condition_holds(
    gpu: ctypes.CDLL, first: int, expected: bool
) -> None:
    given = x()
    given.view(np.uint8)[0] = first
    made = guarded(expected)
    assert [type(s) for s in segments_of(made, {"i": 0})] == [KernelSegment, GuardSegment]
    result = both(engine(made), given)
    np.testing.assert_array_equal(result, -given if bool(first) == expected else given)


def test_a_loop_that_data_limits(gpu: ctypes.CDLL) -> None:
    """The first eight bytes of the input are the number of iterations."""
    loop = Loop(1, 2, UNLIMITED, "i", limit=X)
    made = engine(plan([add("first", X, Y), add("a", Y, Y, loop=0)], [loop]))
    for count in (0, 3, 5):
        given = x()
        given.view(np.int64)[0] = count
        expected = given + np.float32(sum(range(count)))
        np.testing.assert_allclose(both(made, given)[2:], expected[2:], rtol=1e-5)


def test_a_loop_goes_on_while_a_boolean_holds(gpu: ctypes.CDLL) -> None:
    """The body negates the float whose first byte is the condition: 1 whatever its sign."""
    loop = Loop(1, 2, 4, "i", condition=X)
    made = engine(plan([add("first", X, Y), add("a", Y, Y, loop=0)], [loop]))
    for flag, total in ((0, 0), (1, 6)):
        given = x()
        given.view(np.uint8)[0] = flag
        np.testing.assert_allclose(both(made, given), given + np.float32(total), rtol=1e-5)


def test_the_number_of_an_iteration_is_stored_for_kernels(gpu: ctypes.CDLL) -> None:
    """The counter lies where the host step reads: the float with the bits of 3, negated."""
    loop = Loop(1, 2, 4, "i", counter=arena(1024))
    for body in (add("a", Y, Y, loop=0), host("a", Y, Y, loop=0)):
        made = plan([add("first", X, Y), body, host("b", arena(1024), arena(2048)),
                     add("c", arena(2048), Y)], [loop])  # fmt: skip
        got = engine(made)(x())
        assert (-got[:1]).view(np.int32)[0] == 3


def test_halos_are_refused(gpu: ctypes.CDLL) -> None:
    fill = HaloFill(arena(0), (SIZE,), ((1, 1),), 4)
    made = engine(plan([add("a", X, Y, fills=(fill,))]))
    with pytest.raises(PlanError, match="halo"):
        made(x())
