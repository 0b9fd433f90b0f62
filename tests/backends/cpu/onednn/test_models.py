"""Whole engines with oneDNN in place of the generated convolutions and products."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import planish
from planish.backends.cpu.backend import CpuBackend
from planish.ir.dtypes import BF16, F32
from planish.ops.tolerance import mismatch, tolerance_of
from tests.backends.cpu.onednn.harness import needs_bf16, needs_onednn

pytestmark = needs_onednn

GENERATED = ("amx_", "gemm_", "winograd", "depthwise_", "direct_")
MODELS = Path(__file__).parents[5] / "shared" / "models"
RESNET20 = MODELS / "cifar10_resnet" / "resnet20.onnx"


def sources() -> tuple[str, ...]:
    """Return every tactic but the generated convolutions and products."""
    names = (tactic.name for tactic in CpuBackend().tactics())
    return tuple(name for name in names if not name.startswith(GENERATED))


def config_of(feeds: dict[str, np.ndarray], **options: object) -> planish.BuildConfig:
    profiles = {name: planish.Profile(a.shape, a.shape, a.shape) for name, a in feeds.items()}
    return planish.BuildConfig(
        tactic_sources=sources(),
        tune="off",
        profiles=profiles,
        **options,  # type: ignore[arg-type]
    )


def tactics_of(engine: planish.Engine) -> list[str]:
    return [layer["tactic"] for layer in engine.plan.layers.values()]


@pytest.mark.skipif(not RESNET20.exists(), reason=f"{RESNET20} is not there")
@pytest.mark.parametrize("threads", [1, 2])
def test_resnet20_matches_its_recorded_outputs(threads: int, tmp_path: Path) -> None:
    recorded = np.load(f"{RESNET20}.io.npz")
    feeds = {name[3:]: recorded[name] for name in recorded.files if name.startswith("in:")}
    engine = planish.build(RESNET20, config_of(feeds, threads=threads))
    assert tactics_of(engine).count("onednn") == 20
    engine.save(tmp_path / "resnet20.plan")
    loaded = planish.load(tmp_path / "resnet20.plan")
    for results in (engine.run(feeds), loaded.run(feeds), loaded.run(feeds)):
        for name, got in results.items():
            assert mismatch(got, recorded[f"out:{name}"], tolerance_of(F32)) is None


def small_model() -> onnx.ModelProto:
    """Return convolution -> convolution with residual -> pooling -> product."""
    random = np.random.default_rng(3)
    weights = {
        "w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "b2": (16,), "w3": (16, 10),
    }  # fmt: skip
    window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], **window),
        helper.make_node("HardSwish", ["c1"], ["a1"]),
        helper.make_node("Conv", ["a1", "w2", "b2"], ["c2"], **window),
        helper.make_node("Add", ["c2", "a1"], ["s"]),
        helper.make_node("Relu", ["s"], ["a2"]),
        helper.make_node("GlobalAveragePool", ["a2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 12, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 10])],
        [numpy_helper.from_array((random.standard_normal(s) / 4).astype(np.float32), n)
         for n, s in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
def test_a_small_model_in_both_precisions(precision: str) -> None:
    model = small_model()
    feeds = {"x": np.random.default_rng(4).standard_normal((2, 3, 12, 10)).astype(np.float32)}
    (want,) = ReferenceEvaluator(model).run(None, feeds)
    engine = planish.build(model, config_of(feeds, precision=precision, threads=1))
    assert tactics_of(engine).count("onednn") == 3
    got = engine.run(feeds)["y"]
    assert mismatch(got, want, tolerance_of(F32 if precision == "fp32" else BF16)) is None


def test_the_tuner_measures_it_beside_the_generated_kernels() -> None:
    model = small_model()
    config = planish.BuildConfig(threads=1, tune="measure", time_budget=60.0)
    engine = planish.build(model, config)
    measured = [
        {layer.tactic, *(label.partition("{")[0] for label, _ in layer.alternatives)}
        for layer in engine.report.layers
        if layer.operations.startswith(("Conv", "MatMul"))
    ]
    assert len(measured) == 3
    assert any("onednn" in tactics and len(tactics) > 1 for tactics in measured)
