"""The README and the pages of docs/ are true: their code runs, and their links lead somewhere."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import planish
from planish.config import ENVIRONMENT
from planish.tactics.autotune import Tuner
from tests import small_models
from tests.cli.command import call
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
MARKED = re.compile(r"^<!-- (example|tests) -->\n```sh\n(.*?)\n```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.stem


def image_model() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"], name="0", strides=[16, 16]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["m"]),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["scores"], name="1"),
    ]
    constants = small_models.weights(0, w=(16, 3, 16, 16), v=(16, 10))
    return small_models.model(
        nodes, {"input": ("N", 3, 224, 224)}, {"scores": ("N", 10)}, constants
    )


def decoder() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], name="embed"),
        helper.make_node("MatMul", ["e", "up"], ["u"], name="up"),
        helper.make_node("Relu", ["u"], ["r"]),
        helper.make_node("MatMul", ["r", "head"], ["scores"], name="head"),
    ]
    constants = small_models.weights(0, table=(512, 128), up=(128, 640), head=(640, 512))
    types = {"ids": onnx.TensorProto.INT64}
    shapes = {"ids": ("N", 16)}, {"scores": ("N", 16, 512)}
    return small_models.model(nodes, *shapes, constants, types=types)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages speak of; nothing is measured while they run."""
    onnx.save(image_model(), tmp_path / "model.onnx")
    onnx.save(small_models.transformer(), tmp_path / "bert.onnx")
    onnx.save(decoder(), tmp_path / "decoder.onnx")
    np.savez(tmp_path / "prompts.npz", ids=np.arange(64).reshape(4, 16))
    saved = ROOT / "tests" / "importers" / "saved_models"
    shutil.copytree(saved / "tf215" / "control", tmp_path / "saved_model")
    shutil.copytree(saved / "tf221" / "counter", tmp_path / "counter")
    np.save(tmp_path / "image.npy", np.zeros((1, 3, 224, 224), np.float32))
    images = np.random.default_rng(0).standard_normal((8, 3, 224, 224)).astype(np.float32)
    np.savez(tmp_path / "images.npz", input=images)
    np.save(tmp_path / "labels.npy", np.arange(8))
    planish.build(image_model(), planish.BuildConfig(tune="off")).save(tmp_path / "model.plan")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Tuner, "run", lambda tuner: None)
    return tmp_path


def run_command(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one line of a shell block: variables, then the planish command."""
    words = shlex.split(line, comments=True)
    with monkeypatch.context() as patch:
        while "=" in words[0]:
            name, value = words.pop(0).split("=")
            assert name in ENVIRONMENT
            patch.setenv(name, value)
        assert words.pop(0) == "planish", line
        stops = any(part.startswith("PLANISH_STOP_AFTER=") for part in line.split())
        call(*map(installed_only, words), code=2 if stops else 0)


def installed_only(word: str) -> str:
    """Leave runtimes out of `--against` that this environment does not have."""
    if not set(word.split(",")) <= {"onnxruntime", "openvino"}:
        return word
    return ",".join(name for name in word.split(",") if importlib.util.find_spec(name))


@pytest.mark.filterwarnings("ignore::planish.tactics.select.FallbackWarning")
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_runs(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python blocks of a page share their names, and run in order with its commands."""
    text = MARKED.sub("", page.read_text())
    names: dict[str, object] = {}
    for language, code in BLOCK.findall(text):
        assert language in ("python", "sh"), language
        if language == "python":
            exec(compile(code, str(page), "exec"), names)
            continue
        for line in code.splitlines():
            if line.startswith(("planish", "PLANISH_")):
                run_command(line, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        path, _, anchor = target.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        found = page.parent / path if path else page
        assert found.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles]


def test_every_page_is_linked_from_the_readme() -> None:
    targets = set(LINK.findall((ROOT / "README.md").read_text()))
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= targets


def test_every_environment_variable_is_explained() -> None:
    explained = (ROOT / "docs" / "debugging.md").read_text()
    architecture = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    for name, meaning in ENVIRONMENT.items():
        if "only:" not in meaning:
            assert name in explained + architecture, name


def test_paths_in_the_text_exist() -> None:
    """Files and folders of the code that pages name in backquotes."""
    pattern = re.compile(r"`((?:src|tests|docs|examples|benchmarks)/[\w./-]+)`")
    for page in PAGES:
        for path in pattern.findall(page.read_text()):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def marked_commands() -> dict[str, str]:
    return dict(MARKED.findall((ROOT / "README.md").read_text()))


def test_the_example_runs(tmp_path: Path) -> None:
    """The command for a fresh machine, from the point where the environment stands."""
    *setup, example = marked_commands()["example"].split(" && ")
    assert [part.split()[0] for part in setup] == ["python3", ".venv/bin/pip"]
    interpreter, *arguments = example.split()
    assert interpreter == ".venv/bin/python"
    result = subprocess.run(
        [sys.executable, *arguments, "--time-budget", "4", "--json", tmp_path / "rows.json"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    rows = json.loads((tmp_path / "rows.json").read_text())
    mine = [row for row in rows if row["runtime"] == "planish"]
    assert [row["batch"] for row in mine] == [1, 32]
    for row in mine:
        assert row["accuracy"] > 0.97
        assert f"accuracy {row['accuracy']:.2%}" in result.stdout
    for row in rows:
        assert row["accuracy"] == mine[0]["accuracy"]  # ONNX Runtime's is the same


def test_the_test_command_runs_this_suite() -> None:
    command = marked_commands()["tests"]
    assert "-m pytest -q -n 2" in command
    assert ".[cpu,cuda,tensorflow,test]" in command
