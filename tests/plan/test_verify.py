from __future__ import annotations

from dataclasses import replace

import pytest

from planish.errors import PlanError
from planish.ir.dtypes import BOOL, F32
from planish.ir.graph import Value
from planish.plan.lifetimes import Access
from planish.plan.memory import Buffer, Placement
from planish.plan.plan import Binding, Plan, Step
from planish.plan.verify import verify_accesses, verify_placements, verify_plan
from tests.plan.test_schedule import plan_of

A, B, C = (Value(name, F32, (4,)) for name in "abc")
CONDITION, OTHER = Value("p", BOOL, ()), Value("q", BOOL, ())


def placement(name: str, offset: int, size: int, first: int, last: int) -> Placement:
    return Placement(Buffer(name, size, first, last), offset)


def test_buffers_may_share_bytes_only_one_after_the_other() -> None:
    verify_placements([placement("a", 0, 64, 0, 1), placement("b", 0, 64, 2, 3)], 64)
    with pytest.raises(PlanError, match="%a and %b overlap"):
        verify_placements([placement("a", 0, 100, 0, 2), placement("b", 64, 64, 2, 3)], 512)
    big = placement("big", 0, 1000, 0, 9)
    with pytest.raises(PlanError, match="overlap"):
        verify_placements([big, *(placement("s", 64 * i, 8, i, i) for i in range(3))], 5000)


def test_buffers_are_aligned_and_inside() -> None:
    with pytest.raises(PlanError, match="not aligned"):
        verify_placements([placement("a", 32, 64, 0, 0)], 512)
    with pytest.raises(PlanError, match="does not fit"):
        verify_placements([placement("a", 64, 64, 0, 0)], 127)


def test_reads_follow_writes() -> None:
    accesses = [Access("one", (A,), (B,), ()), Access("two", (B, C), (A,), ())]
    with pytest.raises(PlanError, match="%c is read before") as caught:
        verify_accesses(accesses, [A])
    assert caught.value.where == "two"
    verify_accesses(accesses, [A, C])


def test_reads_behind_branches_need_a_writer_in_both() -> None:
    then, otherwise = ((CONDITION, True),), ((CONDITION, False),)
    write_then = Access("then", (), (A,), then)
    read = Access("after", (A,), (), ())
    with pytest.raises(PlanError, match="%a is read"):
        verify_accesses([write_then, read], [])
    verify_accesses([write_then, Access("inside", (A,), (), then)], [])
    verify_accesses([write_then, Access("else", (), (A,), otherwise), read], [])
    nested = [Access("n", (), (A,), (*otherwise, (OTHER, flag))) for flag in (True, False)]
    verify_accesses([write_then, *nested, read], [])
    with pytest.raises(PlanError, match="%a is read"):
        verify_accesses([write_then, nested[0], read], [])


def change(plan: Plan, index: int, binding: int, **fields: object) -> Plan:
    """Return `plan` with one binding of one step changed."""
    steps = list(plan.steps)
    bindings = list(steps[index].bindings)
    bindings[binding] = replace(bindings[binding], **fields)  # type: ignore[arg-type]
    steps[index] = replace(steps[index], bindings=tuple(bindings))
    return replace(plan, steps=tuple(steps))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of("concat_of_convs_vanishes")


def test_a_sound_plan_passes(plan: Plan) -> None:
    verify_plan(plan)


def test_addresses_outside_the_arena_are_found(plan: Plan) -> None:
    with pytest.raises(PlanError, match="outside arena"):
        verify_plan(change(plan, 1, 1, offset=plan.arena_bytes - 4))


def test_addresses_that_split_an_element_are_found(plan: Plan) -> None:
    with pytest.raises(PlanError, match="not aligned to f32"):
        verify_plan(change(plan, 1, 1, offset=450))


def test_reads_of_unwritten_bytes_are_found(plan: Plan) -> None:
    last: Step = plan.steps[-1]
    with pytest.raises(PlanError, match="read before a write"):
        verify_plan(replace(plan, steps=(last, *plan.steps[:-1])))


def test_missing_outputs_and_writes_to_inputs_are_found(plan: Plan) -> None:
    with pytest.raises(PlanError, match="no step writes an output"):
        verify_plan(replace(plan, steps=plan.steps[:-1]))
    with pytest.raises(PlanError, match="writes to input"):
        verify_plan(change(plan, 0, 1, space="input"))


def test_constants_must_be_aligned(plan: Plan) -> None:
    steps = list(plan.steps)
    packed = Binding("weights", 0, 32)
    steps[1] = replace(steps[1], bindings=(*steps[1].bindings, packed))
    with pytest.raises(PlanError, match="constant is not aligned"):
        verify_plan(replace(plan, steps=tuple(steps)))
