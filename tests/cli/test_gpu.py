"""Engines for GPUs on a machine that may have none."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from planish.runtime.cuda.driver import is_present
from tests.cli.command import call, call_json

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One kernel, which compiles in seconds."""
    path = tmp_path_factory.mktemp("gpu") / "one.onnx"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "one", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


@pytest.fixture(scope="module")
def plan(model: Path) -> Path:
    """Built for an architecture that is not the one of the machines with a GPU."""
    path = model.with_suffix(".plan")
    data = call_json("build", model, "--device", "cuda", "--target", "sm_80")
    assert data["bytes"] == path.stat().st_size
    assert data["report"]["tuned"].startswith("cache, not measured: ")
    return path


def test_inspect_shows_what_is_in_the_engine(plan: Path) -> None:
    data = call_json("inspect", plan)
    assert (data["target"], data["outputs"][0]["shape"]) == ("sm_80", ["N", 8])
    assert "@triton.jit" in call("inspect", plan, "--source")


def test_running_it_says_what_is_missing(plan: Path) -> None:
    if not is_present():
        call("run", plan, code=2)


def test_without_a_target_the_gpu_has_to_be_here(model: Path) -> None:
    if not is_present():
        call("build", model, "--device", "cuda", code=2)
    call("build", model, "--device", "cuda", "--target", "sm_1", code=2)
    call("build", model, "--target", "sm_90", code=2)
