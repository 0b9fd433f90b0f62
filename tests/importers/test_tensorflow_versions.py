"""SavedModels that several versions of TensorFlow write now, each in a virtual environment.

The environments are looked for in `$PLANISH_TENSORFLOWS`, as VERSION/bin/python, and made there
where they are missing (half a gigabyte each, from the package index).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.importers.saved_model_samples import FOLDER, arrays_of, check, model_of, run

VERSIONS = ("2.13.1", "2.15.1", "2.17.1", "2.21.0")
HOME = os.environ.get("PLANISH_TENSORFLOWS")
TRACED = ("affine", "control", "tables", "old_style", "old_frozen", "frozen", "two_tag_sets")


def python_of(version: str) -> Path:
    """Return the interpreter that has this TensorFlow."""
    folder = Path(str(HOME)) / version
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        package = f"tensorflow-cpu=={version}"
        subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=True)
    return python


@pytest.mark.slow
@pytest.mark.skipif(not HOME, reason="set PLANISH_TENSORFLOWS to a folder for environments")
@pytest.mark.parametrize("version", VERSIONS)
def test_models_of(version: str, tmp_path: Path) -> None:
    python = python_of(version)
    for program, cases in (("make.py", TRACED), ("make_keras.py", ())):
        command = [python, FOLDER / program, tmp_path, *cases]
        subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, timeout=600)
    records = sorted(tmp_path.glob("*.npz"))
    assert len(records) == len(TRACED) + 6
    for record in records:
        inputs, outputs = arrays_of(record)
        check(run(model_of(record), inputs), outputs, 1e-4)
