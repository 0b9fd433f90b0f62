from __future__ import annotations

import pytest

from planish.ops import OPS
from tests.cli.command import call, call_json


def findings(code: int = 0) -> dict[str, dict[str, object]]:
    data = call_json("doctor", code=code)
    assert data["ok"] is (code == 0)
    return {finding["what"]: finding for finding in data["findings"]}


def test_this_machine() -> None:
    found = findings()
    assert found["C compiler"]["ok"]
    assert found["system"]["ok"]
    assert "operators" in str(found["planish"]["detail"])
    assert "ok" in call("doctor")


def test_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/no/such/compiler")
    found = findings(code=1)
    assert not found["C compiler"]["ok"]
    text = call("doctor", code=1)
    assert "MISSING" in text
    assert "to fix C compiler: " in text


def test_compiler_that_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "echo")  # answers to --version, that is all
    assert not findings(code=1)["C compiler"]["ok"]


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        __import__("planish.cli.doctor", fromlist=["OPTIONAL"]).OPTIONAL,
        "no-such-package", ("testing", "pip install no-such-package"),
    )  # fmt: skip
    found = findings()  # not essential
    assert not found["no-such-package"]["ok"]
    assert "to fix no-such-package: pip install no-such-package" in call("doctor")


def test_unknown_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANISH_DUMB", "x")
    finding = findings(code=1)["environment"]
    assert "PLANISH_DUMB" in str(finding["detail"])
    assert "PLANISH_DUMP" in str(finding["fix"])


def test_operators() -> None:
    assert call("doctor", "--operators").split() == sorted(OPS)
    assert call_json("doctor", "--operators") == sorted(OPS)
