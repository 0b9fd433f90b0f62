"""Plans that mix native steps with steps run from Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from planish.engine.parts import EngineParts
from planish.errors import CompatibilityError, PlanError
from planish.ir.shape import symbol
from planish.plan.plan import Binding, HaloFill, Loop, MemoryReport, Plan, TensorInfo
from planish.plan.weights import WeightPool
from planish.runtime import external
from planish.runtime.engine import Engine
from planish.runtime.executor import (
    ExternalSegment,
    LoopSegment,
    NativeSegment,
    segments_of,
)
from planish.runtime.external import ExternalRequest, Runner, register
from planish.tactics.tactic import Kernel
from tests.runtime.engines import f32, parts_of, step

ADD_ONE = Kernel(
    "static void @NAME@(char *const *p, const int64_t *d, int64_t begin, int64_t end, "
    "char *scratch)\n{ for (int i = 0; i < 8; i++) "
    "((float *)p[1])[i] = ((const float *)p[0])[i] + 1.0f; }\n",
    1,
)
X = np.arange(8, dtype=np.float32)


@pytest.fixture(autouse=True)
def _kinds(monkeypatch):
    monkeypatch.setattr(external, "_factories", dict(external._factories))
    register("triple", make_triple)


def make_triple(request: ExternalRequest) -> Runner:
    factor = request.constants[0][:4].view(np.float32)[0] if request.constants else 3

    def run(inputs: Sequence[Any], outputs: Sequence[Any]) -> Sequence[Any]:
        if outputs[0] is None:
            return [inputs[0] * factor]
        outputs[0][...] = inputs[0] * factor
        return outputs

    return run


def arena(offset: Any) -> Binding:
    return Binding("arena", 0, offset)


INPUT, OUTPUT = Binding("input", 0, 0), Binding("output", 0, 0)


def plan_of(steps: list[Any], **others: Any) -> Plan:
    return Plan(
        inputs=others.pop("inputs", (TensorInfo("x", "f32", (8,)),)),
        outputs=others.pop("outputs", (TensorInfo("y", "f32", (8,)),)),
        symbols=others.pop("symbols", ()),
        ranges=others.pop("ranges", {}),
        steps=tuple(steps),
        memory=MemoryReport(4096, 4096, 4096, others.pop("weights", 0)),
        arena_bytes=4096,
        externals=others.pop("externals", (("triple", {}),)),
        **others,
    )


def one(name: str, source: Binding, target: Binding, **others: Any) -> Any:
    return step(name, [source, target], [f32(8), f32(8)], **others)


def python_step(name: str, source: Binding, target: Binding, **others: Any) -> Any:
    return one(name, source, target, function=None, external=0, **others)


@pytest.mark.parametrize("threads", [1, 2])
def test_native_and_external_steps_alternate(threads: int):
    plan = plan_of(
        [
            one("a", INPUT, arena(0), function="add"),
            python_step("b", arena(0), arena(64)),
            one("c", arena(64), OUTPUT, function="add"),
        ]
    )
    assert segments_of(plan) == (
        NativeSegment(0, 1, -1),
        ExternalSegment(1),
        NativeSegment(2, 3, -1),
    )
    engine = Engine(parts_of(plan, {"add": ADD_ONE}, threads=threads))
    np.testing.assert_array_equal(engine(X), (X + 1) * 3 + 1)
    profile = engine.profile({"x": X}, runs=2)
    assert all(region.median > 0 for region in profile.regions)


def test_a_loop_around_an_external_step_runs_from_python():
    i = symbol("i")
    plan = plan_of(
        [
            one("a", INPUT, arena(0), function="add"),
            one("b", arena(0), arena(64), function="add", loop=0),
            python_step("c", arena(64), Binding("output", 0, i * 32), loop=0),
            one("d", arena(64), arena(0), function="add", loop=1),
        ],
        outputs=(TensorInfo("y", "f32", (3, 8)),),
        symbols=("i", "j"),
        loops=(Loop(1, 4, 3, "i"), Loop(3, 4, 2, "j", parent=0)),
    )
    assert segments_of(plan) == (
        NativeSegment(0, 1, -1),
        LoopSegment(0, (NativeSegment(1, 2, 0), ExternalSegment(2), NativeSegment(3, 4, 0))),
    )
    y = Engine(parts_of(plan, {"add": ADD_ONE}))(X)
    np.testing.assert_array_equal(y, [3 * (X + 2 + 2 * turn) for turn in range(3)])


def test_guards_and_halos_of_external_steps():
    fill = HaloFill(OUTPUT, (10,), ((1, 1),), 4)
    flag = Binding("input", 1, 0)
    plan = plan_of(
        [
            python_step("a", INPUT, Binding("output", 0, 4), fills=(fill,)),
            python_step("b", INPUT, Binding("output", 1, 0), guard=((flag, True),)),
        ],
        inputs=(TensorInfo("x", "f32", (8,)), TensorInfo("c", "bool", ())),
        outputs=(TensorInfo("y", "f32", (10,)), TensorInfo("z", "f32", (8,))),
    )
    engine = Engine(EngineParts(plan, WeightPool().memory(), None))
    for flag_value in (True, False):
        y, z = np.full(10, 7, np.float32), np.full(8, 7, np.float32)
        engine.run({"x": X, "c": np.array(flag_value)}, {"y": y, "z": z})
        np.testing.assert_array_equal(y, [0, *(3 * X), 0])
        np.testing.assert_array_equal(z, 3 * X if flag_value else np.full(8, 7))


def test_constants_of_external_steps():
    pool = WeightPool()
    offset = pool.add(np.array([5.0], np.float32))
    bindings = [INPUT, OUTPUT, Binding("weights", 0, offset)]
    plan = plan_of([step("a", bindings, [f32(8), f32(8)], function=None, external=0)])
    np.testing.assert_array_equal(Engine(EngineParts(plan, pool.memory(), None))(X), 5 * X)


def test_outputs_whose_extents_only_data_decides():
    count = symbol("?count")
    plan = plan_of(
        [step("a", [INPUT, OUTPUT], [f32(8), f32(count)], function=None, external=0)],
        outputs=(TensorInfo("y", "f32", (count,)),),
        symbols=("?count",),
        ranges={"?count": (0, 1, 100)},
    )
    engine = Engine(EngineParts(plan, WeightPool().memory(), None))
    np.testing.assert_array_equal(engine(X), 3 * X)
    y = np.zeros(8, np.float32)
    assert engine.run({"x": X}, {"y": y})["y"] is y
    np.testing.assert_array_equal(y, 3 * X)


def test_an_unknown_kind_is_named():
    plan = plan_of([python_step("a", INPUT, OUTPUT)], externals=(("magic", {}),))
    with pytest.raises(CompatibilityError, match="'magic'"):
        Engine(EngineParts(plan, WeightPool().memory(), None))


def test_native_steps_without_code_are_refused():
    plan = plan_of([one("a", INPUT, OUTPUT, function="add")])
    with pytest.raises(PlanError, match="no code"):
        Engine(EngineParts(plan, WeightPool().memory(), None))


def test_code_of_another_plan_is_refused():
    parts = parts_of(plan_of([one("a", INPUT, OUTPUT, function="add")]), {"add": ADD_ONE})
    longer = plan_of([one("a", INPUT, OUTPUT, function="add")] * 2)
    with pytest.raises(PlanError, match="has 1 steps"):
        Engine(EngineParts(longer, WeightPool().memory(), parts.kernels))
