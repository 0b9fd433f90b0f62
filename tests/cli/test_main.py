from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer

import planish
from planish.cli.common import guarded
from planish.errors import BuildCancelled, ConfigError
from tests.cli.command import call, start
from tests.conftest import DIGITS

VERBS = ("build", "run", "bench", "compare", "inspect", "doctor")


def test_version() -> None:
    assert call("--version") == f"planish {planish.__version__}\n"


def test_help_lists_every_verb() -> None:
    text = call("--help")
    for verb in VERBS:
        assert re.search(rf"\b{verb}\b", text)
    assert "Exit codes" in text


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_explained(verb: str) -> None:
    command = typer.main.get_command(planish_app()).commands[verb]  # type: ignore[attr-defined]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{verb}: {parameter.name}"
    assert "--json" in call(verb, "--help")


def planish_app() -> typer.Typer:
    from planish.cli.main import app

    return app


@pytest.mark.parametrize(
    "arguments",
    [
        ("bild",),
        ("build",),
        ("build", "a.onnx", "--no-such-option"),
        ("bench", "a", "--threads", "x"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    call(*arguments, code=2)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            ConfigError("a [bold]text[/] in [brackets]", where="[here]"),
            2,
            "[bold]text[/] in [brack",
        ),
        (BuildCancelled("too early"), 130, "interrupted: too early"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_become_exit_codes(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, text: str
) -> None:
    def verb() -> None:
        raise error

    with pytest.raises(typer.Exit) as caught:
        guarded(verb)()
    assert caught.value.exit_code == code
    assert text in capsys.readouterr().err


def test_defects_are_not_hidden() -> None:
    def verb() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        guarded(verb)()


def test_output_is_plain_where_there_is_no_terminal(tmp_path: Path, digits_plan: Path) -> None:
    process = start("inspect", digits_plan, folder=tmp_path)
    text, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) > 100  # long lines are not wrapped


def test_long_paths_in_errors_are_not_wrapped(tmp_path: Path) -> None:
    path = tmp_path / ("long_name_" * 20) / "[model].onnx"
    process = start("build", path, "-o", "x.plan", folder=tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert str(path) in errors
    assert "\x1b" not in errors
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_is_no_error(tmp_path: Path, digits_plan: Path) -> None:
    process = start("inspect", digits_plan, "--source", folder=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


def test_progress_is_shown_in_a_terminal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "planish.cli.main", "build", DIGITS, "--tune", "off", "-o",
               tmp_path / "x.plan"]  # fmt: skip
    screen, terminal = pty.openpty()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # how the end of a terminal shows
        while data := os.read(screen, 1 << 16):
            shown += data
    os.close(screen)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"compile" in shown
    assert b"s left of the budget" in shown
    assert b"\x1b" not in output
    assert b"wrote" in output


def interrupted_build(folder: Path, times: int) -> tuple[int, str]:
    """Start a long tuning, press Ctrl-C so often, and return exit code and messages."""
    process = start("build", DIGITS, "-o", "x.plan", "--time-budget", "500", folder=folder,
                    PLANISH_DEBUG="1")  # fmt: skip
    assert process.stderr is not None
    said = ""
    while "planish: tactics" not in said:  # tuning comes next
        line = process.stderr.readline()
        assert line, said
        said += line
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    try:
        _, errors = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, errors


def test_interrupt_keeps_the_engine_so_far(tmp_path: Path) -> None:
    code, errors = interrupted_build(tmp_path, 1)
    assert (code, "finishing with the engine so far" in errors) == (0, True), errors
    engine = planish.load(tmp_path / "x.plan")
    assert engine(np.zeros((2, 1, 8, 8), np.float32)).shape == (2, 10)


def test_second_interrupt_abandons_the_build(tmp_path: Path) -> None:
    code, errors = interrupted_build(tmp_path, 2)
    assert code == 130, errors
    assert list(tmp_path.iterdir()) == []
