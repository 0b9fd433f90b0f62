"""Finding and loading oneDNN: lazily, with reasons, and without side effects on the process."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from planish.backends.cpu.device import detect
from planish.backends.cpu.onednn import library as module
from planish.backends.cpu.onednn.library import Library, OneDnnError, library, why_unavailable
from planish.backends.cpu.tactics.onednn import OneDnn
from planish.errors import CompatibilityError
from planish.runtime.external import factory_of
from tests.backends.cpu.onednn.harness import convolution_region, needs_onednn


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(module.importlib.metadata, "distribution", missing)
    for cached in (module._found, module.find_library):
        cached.cache_clear()
    yield
    for cached in (module._found, module.find_library):
        cached.cache_clear()


@pytest.mark.usefixtures("not_installed")
def test_without_the_wheel_the_tactic_refuses_with_the_install_command() -> None:
    reason = OneDnn().supports(convolution_region("f32"), detect(1)).reason
    assert reason is not None
    assert "not installed" in reason
    assert "pip install onednn-cpu-gomp" in reason


@pytest.mark.usefixtures("not_installed")
def test_without_the_wheel_an_engine_that_needs_it_says_so() -> None:
    with pytest.raises(CompatibilityError, match="pip install onednn-cpu-gomp"):
        factory_of("onednn")


def test_another_library_is_refused() -> None:
    libc = ctypes.util.find_library("c")
    with pytest.raises(CompatibilityError, match="not oneDNN"):
        Library(Path(str(libc)))


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "libdnnl.so.3"
    path.write_text("text")
    with pytest.raises(CompatibilityError, match="cannot be loaded"):
        Library(path)


def test_importing_loads_nothing() -> None:
    lines = [
        "import planish.backends.cpu.tactics.onednn, planish.backends.cpu.onednn.kernel",
        "maps = open('/proc/self/maps').read()",
        "assert 'dnnl' not in maps and 'gomp' not in maps",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


@needs_onednn
def test_the_version_is_checked_and_kept() -> None:
    assert library().version.startswith("3.")
    assert why_unavailable() is None
    assert library() is library()


@needs_onednn
def test_the_environment_is_as_before_and_threads_are_given_back() -> None:
    assert "GOMP_SPINCOUNT" not in os.environ
    before = library().use_threads(3)
    with library().threads(2):
        assert library().use_threads(2) == 2
    assert library().use_threads(before) == 3


def test_the_waiting_policy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in module.WAIT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert "sleep soon" in module.waiting_policy()
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "better OMP_WAIT_POLICY=PASSIVE" in module.waiting_policy()


@needs_onednn
def test_a_failed_call_names_the_function_and_the_status() -> None:
    with pytest.raises(OneDnnError, match=r"invalid arguments[\s\S]*memory_desc_create"):
        library().describe((2, 3), "f32", (1, 1))  # rows would overlap


@needs_onednn
def test_verbose_output_is_off() -> None:
    lines = [
        "from planish.backends.cpu.onednn.library import library",
        "l = library()",
        "d = l.describe((4, 4), 'f32', (4, 1))",
        "reorder = l.reorder_descriptor(d.address, d.address)",
        "l.primitive(reorder.address)",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        check=True, capture_output=True, text=True, env={**os.environ, "DNNL_VERBOSE": "2"},
    )  # fmt: skip
    assert done.stdout + done.stderr == ""
