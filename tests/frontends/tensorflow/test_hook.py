"""planish_tensorflow.pth: nothing without the variable; with it, installed after the import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PTH = ROOT / "planish_tensorflow.pth"

# stands for Python's start-up, which runs the line of the .pth file
START = f"exec(open({str(PTH)!r}).read())\n"
# the installation itself is tested elsewhere: here it only says that it was called
STAND_IN = (
    "import sys, types\n"
    "module = types.ModuleType('planish.frontends.tensorflow.installation')\n"
    "module.install = lambda: print('installed')\n"
    "sys.modules[module.__name__] = module\n"
)


def run(code: str, folder: Path, **variables: str) -> str:
    (folder / "tensorflow").mkdir(exist_ok=True)
    (folder / "tensorflow" / "__init__.py").write_text("print('imported'); version = '2.x'\n")
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT / 'src'}", **variables}
    done = subprocess.run(
        [sys.executable, "-c", START + STAND_IN + code],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.replace("\n", " ").strip()


def test_nothing_happens_without_the_variable(tmp_path):
    code = "print('planish' in sys.modules); import tensorflow"
    assert run(code, tmp_path, PLANISH_TF_TRT="0") == "False imported"


def test_it_imports_nothing_before_tensorflow_is(tmp_path):
    code = "print('numpy' in sys.modules, 'tensorflow' in sys.modules)"
    assert run(code, tmp_path, PLANISH_TF_TRT="1") == "False False"


def test_the_frontend_is_installed_after_tensorflow_and_once(tmp_path):
    code = "import tensorflow, tensorflow; print(tensorflow.version)"
    assert run(code, tmp_path, PLANISH_TF_TRT="1") == "imported installed 2.x"


def test_asking_for_tensorflow_does_not_use_the_hook_up(tmp_path):
    code = "import importlib.util as u; print(bool(u.find_spec('tensorflow'))); import tensorflow"
    assert run(code, tmp_path, PLANISH_TF_TRT="1") == "True imported installed"


def test_the_loader_of_the_module_is_its_own(tmp_path):
    code = "import tensorflow; print(type(tensorflow.__spec__.loader).__name__)"
    assert run(code, tmp_path, PLANISH_TF_TRT="1") == "imported installed SourceFileLoader"


def test_a_process_that_has_tensorflow_already(tmp_path):
    code = "import tensorflow; from planish.frontends.tensorflow.hook import arm; arm()"
    assert run(code, tmp_path, PLANISH_TF_TRT="0") == "imported installed"


def test_tensorflow_works_where_the_installation_fails(tmp_path):
    code = (
        "from planish.errors import ConfigError\n"
        "def fail(): raise ConfigError('too old')\n"
        "module.install = fail\n"
        "import tensorflow; print(tensorflow.version)"
    )
    assert run(code, tmp_path, PLANISH_TF_TRT="1") == "imported 2.x"


def test_the_line_is_one_that_python_runs():
    lines = PTH.read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("import ")
