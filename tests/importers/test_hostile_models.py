"""Damaged models end in a PlanishError or in a sound graph, never in another exception."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from planish.errors import PlanishError
from planish.importers.importer import read_model
from planish.ir.verify import verify
from tests.importers.test_onnx import chain, loop, with_functions
from tests.importers.test_onnx_legacy import CASES, model

from onnx import helper  # isort: skip

ROUNDS = 600


def seeds() -> list[bytes]:
    body = helper.make_node("Relu", ["v"], ["out"])
    imports = [helper.make_opsetid("", 17)]
    function = helper.make_function("mine", "Outer", ["v"], ["out"], [body], imports)
    protos = [chain(3), loop("o", helper.make_node("Add", ["s", "s"], ["o"])),
              with_functions(function)]  # fmt: skip
    for opset, old, x, constants in CASES.values():
        protos.append(model([old], {"x": x.shape}, list(old.output), constants, opset))
    return [proto.SerializeToString() for proto in protos]


def damage(data: bytes, generator: random.Random) -> bytes:
    if generator.random() < 0.15:
        return data[: generator.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(generator.choice([1, 1, 2, 4])):
        changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("seed", range(2))
def test_damaged_models(seed: int) -> None:
    generator, originals = random.Random(seed), seeds()
    outcomes: Counter[str] = Counter()
    for _ in range(ROUNDS):
        try:
            verify(read_model(damage(generator.choice(originals), generator)))
            outcomes["sound"] += 1
        except PlanishError as error:
            outcomes[type(error).__name__] += 1
    assert outcomes["ModelError"] > ROUNDS / 10
    assert outcomes["sound"] > ROUNDS / 100


@pytest.mark.slow
def test_import_time_grows_linearly() -> None:
    seconds = []
    for blocks in (400, 2000):
        data = chain(blocks).SerializeToString()
        start = time.perf_counter()
        verify(read_model(data))
        seconds.append(time.perf_counter() - start)
    assert seconds[1] < 15 * seconds[0], f"5 times the nodes took {seconds}"
