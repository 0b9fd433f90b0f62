"""Runs the command line: in this process, which is quick, or as the user's shell does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from planish.cli.main import app


def call(*arguments: object, code: int = 0) -> str:
    """Run in this process, check the exit code, and return standard output."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr + result.stdout
    return result.stdout


def call_json(*arguments: object, code: int = 0) -> Any:
    """Run with --json and return the data."""
    return json.loads(call(*arguments, "--json", code=code))


def start(*arguments: object, folder: Path, **variables: str) -> subprocess.Popen[str]:
    """Start the command in a process of its own, its outputs piped, with more variables set."""
    return subprocess.Popen(
        [sys.executable, "-m", "planish.cli.main", *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    )
