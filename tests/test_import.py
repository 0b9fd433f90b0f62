"""What importing Planish costs, and what it pulls in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import planish

FRAMEWORKS = ("onnx", "torch", "tensorflow", "onnxruntime", "openvino", "jax", "typer", "rich")
BUILD_SIDE = ("planish.builder", "planish.importers", "planish.passes", "planish.tactics",
              "planish.ops", "planish.backends", "planish.cli", "planish.ir.graph")  # fmt: skip


def run(code: str, *arguments: str) -> str:
    """Run `code` in a fresh interpreter and return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    ).stdout


def loaded_after(code: str, *arguments: str) -> set[str]:
    return set(run(f"{code}\nimport sys; print(*sys.modules)", *arguments).split())


def named(modules: set[str], prefixes: tuple[str, ...]) -> list[str]:
    return sorted(m for m in modules if any(m == p or m.startswith(p + ".") for p in prefixes))


def test_import_takes_under_0_3_seconds() -> None:
    code = "import time; s = time.perf_counter(); import planish; print(time.perf_counter() - s)"
    assert min(float(run(code)) for _ in range(5)) < 0.3


def test_import_pulls_in_no_framework() -> None:
    modules = loaded_after("import planish")
    assert named(modules, FRAMEWORKS) == []
    assert "planish" in modules


def test_running_an_engine_needs_neither_onnx_nor_the_build_side(digits_plan: Path) -> None:
    code = """
import sys, numpy, planish
engine = planish.load(sys.argv[1])
assert engine(numpy.zeros((2, 1, 8, 8), numpy.float32)).shape == (2, 10)
assert engine.report.layers and engine.memory.arena
"""
    modules = loaded_after(code, str(digits_plan))
    assert "planish.runtime.engine" in modules
    assert named(modules, (*FRAMEWORKS, *BUILD_SIDE)) == []


@pytest.mark.parametrize("name", planish.__all__)
def test_public_names_exist(name: str) -> None:
    assert getattr(planish, name).__doc__
    assert name in dir(planish)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="bild"):
        _ = planish.bild
