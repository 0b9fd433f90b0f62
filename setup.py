"""Adds planish_tensorflow.pth beside the package; everything else is in pyproject.toml.

Python reads the file when it starts. It does nothing unless PLANISH_TF_TRT=1 is set; then the
TensorFlow frontend installs itself when a program imports TensorFlow.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PTH = "planish_tensorflow.pth"


class BuildWithPth(build_py):
    """Copies the .pth file to the root of the wheel, editable ones included."""

    def run(self) -> None:
        """Build the package and copy the file beside it."""
        super().run()
        folder = self.build_lib
        if self.editable_mode:
            folder = self.get_finalized_command("install").install_lib
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.copy_file(PTH, str(Path(folder, PTH)))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return the files that are built."""
        return [*super().get_outputs(include_bytecode), str(Path(self.build_lib, PTH))]


setup(cmdclass={"build_py": BuildWithPth})
