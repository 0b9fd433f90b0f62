"""Options and fixtures of the whole suite."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import planish
from planish.runtime.engine import Engine

Golden = Callable[[str, str], None]

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "examples" / "digits" / "digits.onnx"

# A developer's settings must not change what is tested.
for _name in ("PLANISH_DEBUG", "PLANISH_DUMP", "PLANISH_STOP_AFTER", "PLANISH_CACHE"):
    os.environ.pop(_name, None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write golden files instead of comparing"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Return a function that compares text with golden/<name>.txt beside the test file."""
    folder = Path(request.path).parent / "golden"
    update = bool(request.config.getoption("--update-golden"))

    def check(name: str, text: str) -> None:
        path = folder / f"{name}.txt"
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            return
        assert path.exists(), f"{path} is missing: run pytest with --update-golden and review it"
        assert text == path.read_text(), f"{path} differs: review, then run with --update-golden"

    return check


@pytest.fixture(scope="session")
def digits_engine() -> Engine:
    """The example's CNN, built without tuning for one thread."""
    return planish.build(DIGITS, planish.BuildConfig(tune="off", threads=1))


@pytest.fixture(scope="session")
def digits_plan(digits_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of `digits_engine`; tests must not change it."""
    path = tmp_path_factory.mktemp("digits") / "digits.plan"
    digits_engine.save(path)
    return path
