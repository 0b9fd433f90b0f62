from __future__ import annotations

import json
import random
from typing import Any

import pytest

from planish.errors import EngineFileError
from planish.ir.shape import floordiv, symbol
from planish.plan.plan import (
    Binding,
    HaloFill,
    Loop,
    MemoryReport,
    Operand,
    Plan,
    Step,
    TensorInfo,
)
from planish.plan.serialize import plan_from_json, plan_to_json, plan_to_text

N = symbol("N")


def sample_plan() -> Plan:
    """Return a plan that uses every field."""
    arena = Binding("arena", 0, N * 64 + 128)
    operand = Operand("f32", (N, 4), (4, 1))
    native = Step(
        name="conv_a",
        layers="a + b",
        function="conv_a",
        external=None,
        bindings=(Binding("input", 0, 0), arena, Binding("weights", 0, 64)),
        operands=(operand, operand),
        outputs=1,
        items=N * floordiv(N + 1, 2),
        scratch_bytes=256,
        fills=(HaloFill(arena, (N, 6), ((0, 0), (1, 1)), 4),),
    )
    external = Step(
        name="topk",
        layers="k",
        function=None,
        external=0,
        bindings=(arena, Binding("output", 0, 0)),
        operands=(operand, operand),
        outputs=1,
        items=1,
        guard=((Binding("input", 1, 0), False),),
        loop=0,
    )
    return Plan(
        inputs=(TensorInfo("x", "f32", (N, 4)), TensorInfo("c", "bool", ())),
        outputs=(TensorInfo("y", "f32", (N, 4)),),
        symbols=("N", "i"),
        ranges={"N": (1, 2, 8)},
        steps=(native, external),
        memory=MemoryReport(1024, 2048, 1000, 512),
        loops=(Loop(1, 2, N - 1, "i", None),),
        externals=(("reference", {"body": "text", "deep": [1, {"a": None}]}),),
        arena_bytes=1024,
        scratch_bytes=256,
        layers={"conv_a": {"tactic": "t", "config": {"m": 4}}},
    )


def test_json_reads_back_equal() -> None:
    plan = sample_plan()
    text = plan_to_json(plan)
    assert plan_from_json(text) == plan
    assert plan_from_json(text.encode()) == plan
    assert plan_to_json(plan_from_json(text)) == text


def test_text() -> None:
    assert plan_to_text(sample_plan()) == (
        "plan {\n"
        "  input x: f32[N,4]\n"
        "  input c: bool[]\n"
        "  output y: f32[N,4]\n"
        "  symbol N in 1..8\n"
        "  symbol i\n"
        "  arena 1024 (tensors 2048, largest live set 1000), weights 512\n"
        "  loop 0: steps 1 to 1, i < N-1\n"
        "     0 arena+64*N+128 = conv_a(input0) with weights+64 items=N*floordiv(N+1, 2) "
        "zero arena+64*N+128[N,6]  # a + b\n"
        "     1 output0 = external 0(arena+64*N+128) items=1 if input1 is false in loop 0  # k\n"
        "}\n"
    )


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("symbols",), None, r"plan\.json\.symbols: expected a list|expected a list"),
        (("inputs", 0, "dtype"), "f31", "the name of a dtype"),
        (("inputs", 0, "shape", 0), "-4", "not negative"),
        (("inputs", 0, "shape", 0), "M", "undeclared symbol M"),
        (("inputs", 0, "shape", 0), "__import__('os')", "expected an extent"),
        (("inputs", 0, "shape", 0), "(N+1)*(N+1)", "normal form"),
        (("inputs", 0, "shape", 0), 4, "expected text"),
        (("inputs", 0, "shape", 0), "9" * 5000, "characters"),
        (("steps", 0, "bindings", 0, 0), "stack", "one of input, output"),
        (("steps", 0, "bindings", 0, 1), 7, "input 7 does not exist"),
        (("steps", 0, "bindings", 0, 2), "-64", "not negative"),
        (("steps", 0, "outputs"), 9, "outputs <= operands"),
        (("steps", 0, "outputs"), True, "expected an integer"),
        (("steps", 0, "function"), None, "a function or an external kernel"),
        (("steps", 1, "external"), 3, "external kernel 3 does not exist"),
        (("steps", 1, "loop"), 3, "loop 3 does not exist"),
        (("steps", 0, "operands", 0, 2), ["1"], "as many strides"),
        (("steps", 0, "fills", 0, "halo"), [[0, 0]], "a list of 2"),
        (("steps", 0, "fills", 0, "halo", 0, 0), -1, "integer from 0"),
        (("steps", 1, "guard", 0, 1), 1, "true or false"),
        (("loops", 0, "last"), 9, "steps 1 to 9 of 2"),
        (("loops", 0, "parent"), 5, "parent loop 5"),
        (("ranges", "N"), [3, 2, 8], "min <= opt <= max"),
        (("ranges",), {}, "no range for N"),
        (("memory", "arena"), 1.5, "expected an integer"),
        (("arena_bytes",), 1 << 70, "expected an integer"),
        (("externals", 0, 1), [], "a mapping"),
    ],
)
def test_damage_is_reported_with_its_place(path: tuple[Any, ...], value: Any, message: str) -> None:
    document = json.loads(plan_to_json(sample_plan()))
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(EngineFileError, match=message) as caught:
        plan_from_json(json.dumps(document))
    assert caught.value.where is not None
    assert caught.value.where.startswith("plan.json")


def test_missing_fields_and_other_documents_are_refused() -> None:
    document = json.loads(plan_to_json(sample_plan()))
    del document["steps"][0]["items"]
    with pytest.raises(EngineFileError, match="a field 'items'"):
        plan_from_json(json.dumps(document))
    for text in ("", "{", "[]", "null", "[" * 100_000, "\x00", "NaN"):
        with pytest.raises(EngineFileError):
            plan_from_json(text)


def test_random_damage_never_escapes_as_another_error() -> None:
    text = plan_to_json(sample_plan())
    generator = random.Random(3)
    refused = 0
    for _ in range(400):
        characters = list(text)
        for _ in range(generator.randint(1, 3)):
            characters[generator.randrange(len(text))] = chr(generator.randrange(32, 127))
        try:
            plan_from_json("".join(characters))
        except EngineFileError:
            refused += 1
    assert refused > 200
