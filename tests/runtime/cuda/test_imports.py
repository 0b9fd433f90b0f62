"""What a machine needs that only runs engines on a GPU: numpy, ml_dtypes, the driver."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from planish.runtime.engine import Engine
from tests.runtime.cuda.fake import fake_gpu, row_sums

RUN = """
import sys
before = set(sys.modules)
import numpy, planish
from planish.runtime.cuda import binding
binding.LIBRARY = sys.argv[1]
engine = planish.load(sys.argv[2])
x = numpy.ones((4, 48), numpy.float32)
on_host = engine(x)
on_device = engine(planish.DeviceArray.of(x))
assert numpy.array_equal(on_host, on_device.numpy())
assert numpy.array_equal(on_host, engine.run_async({"x": x}).result()["y"])
packages = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(packages - set(sys.stdlib_module_names)))
print(*sorted(name for name in sys.modules if name.startswith("planish")))
"""
BUILD_SIDE = ("planish.backends", "planish.passes", "planish.tactics", "planish.ops")


def test_an_engine_imports_numpy_and_nothing_of_the_build_side(tmp_path: Path) -> None:
    path = tmp_path / "made.plan"
    Engine(row_sums()).save(path)
    with fake_gpu() as gpu:
        library = str(gpu._name)
        command = [sys.executable, "-c", RUN, library, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    packages, modules = done.stdout.splitlines()
    known = {"numpy", "ml_dtypes", "planish", "__main__"}
    assert {name for name in packages.split() if not name.startswith("_")} <= known, packages
    assert not [name for name in modules.split() if name.startswith(BUILD_SIDE)]
