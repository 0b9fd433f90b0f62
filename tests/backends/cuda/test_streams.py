"""Branches on streams of their own: the same results, whatever runs beside what."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import planish
from planish import BuildConfig
from planish.backends.cuda import overlap

Array = np.ndarray[Any, Any]


def branching_model(blocks: int = 4) -> onnx.ModelProto:
    """Return blocks of four branches of convolutions of different lengths, joined by Concat."""
    generator = np.random.default_rng(0)
    nodes, weights, value, channels = [], [], "x", 16

    def convolution(given: str, inside: int, outside: int, width: int) -> str:
        name = f"c{len(nodes)}"
        shape = (outside, inside, width, width)
        array = generator.standard_normal(shape) / np.sqrt(inside * width * width)
        weights.append(numpy_helper.from_array(array.astype(np.float32), f"{name}_w"))
        pads = [width // 2] * 4
        nodes.append(helper.make_node("Conv", [given, f"{name}_w"], [name], pads=pads))
        nodes.append(helper.make_node("Relu", [name], [f"{name}_r"]))
        return f"{name}_r"

    for block in range(blocks):
        ends = [convolution(value, channels, 16, 1)]
        for length in (1, 2, 3):
            end = convolution(value, channels, 16, 1)
            for _ in range(length):
                end = convolution(end, 16, 16, 3)
            ends.append(end)
        value, channels = f"block{block}", 64
        nodes.append(helper.make_node("Concat", ends, [value], axis=1))
    graph = helper.make_graph(
        nodes, "branches",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 16, 28, 28))],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, (1, 64, 28, 28))], weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.mark.gpu
def test_branches_give_the_same_results_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def prefer_the_last(engines: list[Any]) -> list[float]:
        tried.extend(max(step.stream for step in engine.plan.steps) for engine in engines)
        return [1.0 / (1 + index) for index in range(len(engines))]

    monkeypatch.setattr(overlap, "_measured", prefer_the_last)
    config = BuildConfig(device="cuda", time_budget=30)
    one = planish.build(
        branching_model(), BuildConfig(device="cuda", max_aux_streams=0, tune="off")
    )
    several = planish.build(branching_model(), config)
    assert tried[0] == 0 < max(tried)
    assert max(step.stream for step in several.plan.steps) == tried[-1]
    for seed in range(30):
        x = np.random.default_rng(seed).standard_normal((1, 16, 28, 28)).astype(np.float32)
        (want,), (got,) = one.run({"x": x}).values(), several.run({"x": x}).values()
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)


@pytest.mark.gpu
def test_streams_are_measured() -> None:
    engine = planish.build(branching_model(2), BuildConfig(device="cuda", time_budget=30))
    assert {stage.name for stage in engine.report.stages} >= {"streams"}
