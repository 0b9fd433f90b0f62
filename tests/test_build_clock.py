from __future__ import annotations

from pathlib import Path

import pytest

from planish import build_clock
from planish.build_clock import BuildClock
from planish.config import BuildConfig
from planish.errors import BuildCancelled, BuildStopped


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    fake = Time()
    monkeypatch.setattr(build_clock, "time", fake)
    return fake


def test_time_left(time: Time) -> None:
    clock = BuildClock(BuildConfig(time_budget=20.0))
    time.now += 5
    assert (clock.elapsed, clock.remaining) == (5.0, 15.0)
    assert clock.tuning_time_left() == pytest.approx(15.0 - 20.0 * build_clock.COMPILE_RESERVE)
    time.now += 100
    assert clock.remaining < 0
    assert clock.tuning_time_left() < 0


def test_stages_are_timed(time: Time) -> None:
    clock = BuildClock(BuildConfig())
    with clock.stage("import"):
        time.now += 2
    with clock.stage("passes"):
        time.now += 3
    assert [(stage.name, stage.seconds) for stage in clock.stages] == [("import", 2), ("passes", 3)]


def test_a_failing_stage_is_not_recorded(time: Time) -> None:
    clock = BuildClock(BuildConfig())
    with pytest.raises(ZeroDivisionError), clock.stage("import"):
        raise ZeroDivisionError
    assert clock.stages == []


@pytest.mark.parametrize(
    ("stage", "ends"),
    [("import", True), ("passes", True), ("tactics", True), ("tune", False), ("compile", False)],
)
def test_cancelled(stage: str, ends: bool) -> None:
    clock = BuildClock(BuildConfig(cancel=lambda: True))
    assert clock.tuning_time_left() == 0
    if not ends:
        with clock.stage(stage):
            return
    with pytest.raises(BuildCancelled, match=stage), clock.stage(stage):
        pass


def test_stop_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANISH_STOP_AFTER", "passes")
    clock = BuildClock(BuildConfig())
    with clock.stage("import"):
        pass
    with pytest.raises(BuildStopped), clock.stage("passes"):
        pass
    assert len(clock.stages) == 2


def test_dump_and_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLANISH_DUMP", str(tmp_path / "new"))
    monkeypatch.setenv("PLANISH_DEBUG", "2")
    clock = BuildClock(BuildConfig())
    clock.dump("plan.json", "{}")
    clock.tell(2, ["shown"])
    clock.tell(3, ["hidden"])
    assert (tmp_path / "new" / "plan.json").read_text() == "{}"
    assert capsys.readouterr().err == "planish: shown\n"
