"""An unchanged script in new processes: TensorFlow at hand (quick), 2.13, 2.15, 2.17 (slow)."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from planish.config import environment

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
VERSIONS = {"213": "2.13.*", "215": "2.15.*", "217": "2.17.*"}
CLI = "tensorflow.python.tools.saved_model_cli"


class Python:
    """A Python with a TensorFlow, in whose site-packages the .pth file lies."""

    def __init__(self, folder: Path, packages: Path) -> None:
        """Make a virtual environment that sees the packages of another."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "a.pth").write_text(f"{packages}\n{ROOT / 'src'}\n")
        line = (ROOT / "planish_tensorflow.pth").read_text()
        (site / "planish_tensorflow.pth").write_text(line)
        self._python = folder / "bin" / "python"

    def __call__(self, *arguments: object) -> str:
        variables = {**os.environ, "PLANISH_TF_TRT": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(
            [str(self._python), *map(str, arguments)],
            env=variables, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
        return done.stdout


def check(python: Python, folder: Path) -> None:
    model, out, data = folder / "in", folder / "out", folder / "data.npz"
    python(HERE / "make_model.py", model, data)
    text = python(HERE / "user_flow.py", model, out, data)
    assert "CONVERTED 2." in text
    assert "[*] Total number of TensorRT engines: 1" in text
    assert "No operation stays outside" in text
    assert [path.name for path in (out / "assets").iterdir()] == [
        "trt-serialized-engine.TRTEngineOp_000_000"
    ]
    found = re.search(r"ERROR (\S+)", python(HERE / "user_inference.py", out, data))
    assert found is not None
    assert float(found[1]) < 1e-5
    shown = python("-m", CLI, "show", "--all", "--dir", out)
    name = re.search(r"inputs\['(\w+)'\] tensor_info:\s+dtype: DT_FLOAT", shown)
    assert name is not None
    signature = ("--tag_set", "serve", "--signature_def", "serving_default")
    ran = python("-m", CLI, "run", "--dir", out, *signature, "--inputs", f"{name[1]}={data}[x]")
    assert "Result for output key" in ran


@pytest.mark.slow
def test_the_tensorflow_at_hand(tmp_path):
    found = importlib.util.find_spec("tensorflow")
    if found is None or found.origin is None:
        pytest.skip("TensorFlow is not installed")
    check(Python(tmp_path / "venv", Path(found.origin).parents[1]), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_older_releases(version, tmp_path):
    base = Path(environment("PLANISH_TEST_TENSORFLOWS") or tmp_path) / f"tf{version}"
    if not base.exists():
        subprocess.run([sys.executable, "-m", "venv", base], check=True)
        wanted = [f"tensorflow-cpu=={VERSIONS[version]}", "onnx>=1.17", "typer", "rich"]
        pip = [base / "bin" / "python", "-m", "pip", "install", "-q"]
        if subprocess.run([*pip, *wanted, "ml_dtypes>=0.2"]).returncode != 0:
            pytest.skip(f"TensorFlow {VERSIONS[version]} cannot be installed here")
    (packages,) = base.glob("lib/python*/site-packages")
    check(Python(tmp_path / "venv", packages), tmp_path)
