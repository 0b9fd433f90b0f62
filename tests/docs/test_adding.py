"""What docs/ARCHITECTURE.md promises of adding an operator: its class is enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from onnx import helper

import planish
from planish.ops import OPS
from planish.ops.elementwise import Unary
from planish.ops.op import Array, Attributes
from planish.tactics.select import FallbackWarning
from tests import small_models

NAME = "com.example.Cube"


@pytest.fixture
def cube() -> Iterator[None]:
    class Cube(Unary):
        """x * x * x."""

        name = NAME

        @classmethod
        def compute(cls, arrays: Sequence[Array], attributes: Attributes) -> Array:
            """Return the cube."""
            return np.asarray(arrays[0] * arrays[0] * arrays[0])

    assert OPS[NAME] is Cube
    yield
    del OPS[NAME]


@pytest.mark.usefixtures("cube")
def test_an_operator_is_its_class() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Cube", ["a"], ["b"], domain="com.example", name="cubed"),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    constants = small_models.weights(0, w=(8, 8))
    proto = small_models.model(nodes, {"x": ("N", 8)}, {"y": ("N", 8)}, constants)
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.warns(FallbackWarning, match="cubed"):
        engine = planish.build(proto, planish.BuildConfig(tune="off"))
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    want = np.maximum((x @ constants["w"]) ** 3, 0)
    np.testing.assert_allclose(engine(x), want, rtol=1e-4, atol=1e-5)
    assert len(OPS[NAME].samples()) > 0
    tactics = {layer.operations: layer.tactic for layer in engine.report.layers}
    assert tactics[NAME] == "reference"
    assert tactics["MatMul"] != "reference"  # what has no kernel takes nothing else along
