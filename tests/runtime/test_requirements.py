"""Engines refuse input shapes that do not fit together, instead of reading outside of arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

import planish
from planish.config import BuildConfig, Profile
from planish.errors import EngineFileError, InputError
from planish.plan.serialize import plan_from_json, plan_to_json
from planish.runtime.engine import Engine
from tests import small_models


def rows(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.fixture(scope="module")
def halves() -> Engine:
    """[N, 6] -> [4, 6 N / 4], which needs an even N."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Reshape", ["r", "s"], ["q"], name="halve"),
        helper.make_node("Exp", ["q"], ["y"]),
    ]
    proto = small_models.model(nodes, {"x": ("N", 6)}, {"y": None},
                               {"s": np.array([4, -1], np.int64)})  # fmt: skip
    return planish.build(proto, BuildConfig(tune="off", threads=1))


def test_shapes_that_do_not_fit_are_refused(halves: Engine) -> None:
    assert halves(rows(2, 6)).shape == (4, 3)
    with pytest.raises(InputError, match=r"(?s)6\*N == 4\*floordiv.*N = 3.*node halve"):
        halves(rows(3, 6))
    assert halves(rows(4, 6)).shape == (4, 6)


def test_a_saved_engine_still_refuses_them(halves: Engine, tmp_path: Path) -> None:
    halves.save(tmp_path / "x.plan")
    with pytest.raises(InputError, match="do not fit together"):
        planish.load(tmp_path / "x.plan")(rows(3, 6))


def test_damaged_requirements_are_found(halves: Engine) -> None:
    text = plan_to_json(halves.plan)
    assert plan_from_json(text).requirements == halves.plan.requirements
    with pytest.raises(EngineFileError, match="requirements"):
        plan_from_json(text.replace('"=="', '"!="'))
    with pytest.raises(EngineFileError, match="undeclared symbol"):
        plan_from_json(text.replace('["6*N",', '["6*Q",'))


def test_inputs_that_are_added_must_be_equally_long() -> None:
    nodes = [helper.make_node("Add", ["x", "z"], ["y"])]
    proto = small_models.model(nodes, {"x": ("N", 4), "z": ("M", 4)}, {"y": None})
    engine = planish.build(proto, BuildConfig(tune="off", threads=1))
    np.testing.assert_array_equal(
        engine.run({"x": rows(3, 4), "z": rows(3, 4)})["y"], 2 * rows(3, 4)
    )
    for lengths in ((3, 2), (3, 1), (1, 3)):
        with pytest.raises(InputError, match="expected"):
            engine.run({"x": rows(lengths[0], 4), "z": rows(lengths[1], 4)})


def test_nothing_to_gather_from() -> None:
    nodes = [helper.make_node("Gather", ["x", "i"], ["y"], axis=0)]
    proto = small_models.model(nodes, {"x": ("N", 4), "i": (2,)}, {"y": None},
                               types={"i": TensorProto.INT64})  # fmt: skip
    profiles = {"x": Profile((0, 4), (2, 4), (4, 4))}
    engine = planish.build(proto, BuildConfig(tune="off", threads=1, profiles=profiles))
    with pytest.raises(InputError, match="1 <= N"):
        engine.run({"x": rows(0, 4), "i": np.array([0, 1])})
