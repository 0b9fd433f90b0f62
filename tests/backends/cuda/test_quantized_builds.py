"""Builds for GPUs in lower precision, up to the choice of kernels: calibrated on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import planish
from planish.backends.backend import backend_for
from planish.build_clock import BuildClock
from planish.builder import lower
from planish.config import BuildConfig
from planish.errors import ConfigError
from planish.importers.importer import read_model
from planish.quantize.request import PrecisionRequest
from planish.tactics.select import Group, group_regions
from planish.tactics.target import Target
from tests import small_models


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration cache, written by a build for the CPU."""
    path = tmp_path_factory.mktemp("ranges") / "model.cache"
    images = np.random.default_rng(0).standard_normal((4, 3, 12, 12)).astype(np.float32)
    calibrator = planish.MinMaxCalibrator([images], cache=path)
    config = BuildConfig(precision="int8", calibrator=calibrator, threads=1)
    planish.calibrate(small_models.convolutions(), config)
    return path


def _groups(precision: str, cache: Path) -> list[Group]:
    calibrator = planish.MinMaxCalibrator(cache=cache)
    config = BuildConfig(
        device="cuda", target="sm_90", precision=precision, calibrator=calibrator, tune="off"
    )
    backend = backend_for("cuda")
    target = backend.detect(None, config.target)
    graph = read_model(small_models.convolutions(), {})
    lower(graph, config, backend, target, BuildClock(config))
    return group_regions(graph, target, config, backend.tactics())


@pytest.mark.parametrize(
    ("precision", "small", "others"),
    [("int8", "i8", "f32"), ("best", "i8", "f16"), ("fp8", "f8e4m3", "f16")],
)
def test_layers_run_in_eight_bits_on_kernels(
    precision: str, small: str, others: str, cache: Path
) -> None:
    groups = _groups(precision, cache)
    tactics = {group.candidates[0].tactic.name for group in groups}
    assert "reference" not in tactics
    assert "triton_conv" in tactics
    stored = [
        operand.dtype.name
        for group in groups
        for operand in (*group.representative.inputs, *group.representative.outputs)
    ]
    assert stored.count(small) >= 4  # what lies between its convolutions
    # inputs and outputs of the model are float32; unsigned bytes are for CPUs
    assert set(stored) <= {small, others, "f32"}


def test_scales_are_those_of_the_cache(cache: Path) -> None:
    thresholds = planish.calibrate(
        small_models.convolutions(),
        BuildConfig(
            device="cuda", target="sm_90", precision="int8",
            calibrator=planish.MinMaxCalibrator(cache=cache),
        ),
    ).thresholds  # fmt: skip
    scales = {
        float(node.present_inputs[1].array)
        for group in _groups("int8", cache)
        for node in group.representative.body
        if node.op == "QuantizeLinear"
    }
    known = np.array(list(thresholds.values())) / 127
    assert scales
    assert all(np.isclose(known, scale, rtol=1e-6).any() for scale in scales)


@pytest.mark.parametrize("features", [("cpu", "avx2"), ("cuda", "sm_80")], ids=["cpu", "sm_80"])
def test_fp8_is_refused_where_there_are_no_such_products(features: tuple[str, str]) -> None:
    device, feature = features
    target = Target(device, frozenset({feature}))
    graph = read_model(small_models.convolutions(), {})
    with pytest.raises(ConfigError, match=r"does not multiply floats of eight bits") as caught:
        PrecisionRequest.of(BuildConfig(precision="fp8", device=device), target, graph)
    assert "int8" in str(caught.value)


def test_fp8_without_scales_is_refused() -> None:
    config = BuildConfig(device="cuda", target="sm_90", precision="fp8")
    with pytest.raises(ConfigError, match="fp8 needs to know the ranges"):
        planish.build(small_models.convolutions(), config)
