from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from planish.cli.bench import measure
from planish.cli.peers import Runner
from tests.cli.command import call, call_json
from tests.conftest import DIGITS


def test_against_other_runtimes(digits_plan: Path) -> None:
    pytest.importorskip("onnxruntime")
    before = os.sched_getaffinity(0)
    data = call_json("bench", digits_plan, "--model", DIGITS, "--against", "onnxruntime,reference",
                     "--seconds", "0.3", "--threads", "1")  # fmt: skip
    assert os.sched_getaffinity(0) == before
    rows = data["runtimes"]
    assert [(row["runtime"], row["threads"]) for row in rows] == [
        ("planish", 1), ("onnxruntime", 1), ("reference", 1)
    ]  # fmt: skip
    assert rows[0]["ratio"] == 1
    for row in rows:
        assert 0 < row["min_ms"] <= row["median_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["p99_ms"] <= row["max_ms"]
        assert row["per_second"] == pytest.approx(1e3 / row["mean_ms"], rel=0.05)
    assert rows[2]["ratio"] > 1  # numpy


def test_a_model_is_built_first(tmp_path: Path) -> None:
    text = call("bench", DIGITS, "--tune", "off", "--seconds", "0.1", "--regions",
                "--trace", tmp_path / "trace.json")  # fmt: skip
    assert "runs/s" in text
    assert "us an inference" in text
    assert len(json.loads((tmp_path / "trace.json").read_text())["traceEvents"]) > 5


def test_engine_runs_with_the_threads_asked_for(digits_plan: Path) -> None:
    data = call_json("bench", digits_plan, "--seconds", "0.05", "--threads", "2", "--regions")
    assert data["runtimes"][0]["threads"] == 2
    assert len(data["regions"]) > 5


def test_refusals(digits_plan: Path) -> None:
    call("bench", digits_plan, "--against", "onnxruntime", code=2)  # which model?
    call("bench", digits_plan, "--threads", "0", code=2)
    call("bench", digits_plan, "--against", "tensorrt", "--model", DIGITS, code=2)


def test_runtimes_take_turns_on_the_same_arrays() -> None:
    calls: list[tuple[str, int]] = []
    arrays = {"x": np.zeros(3)}

    def runner(name: str) -> Runner:
        def run(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            calls.append((name, id(given["x"])))
            return given

        return run

    times = measure({"a": runner("a"), "b": runner("b")}, arrays, 0.02)
    assert {each for _, each in calls} == {id(arrays["x"])}
    assert len(times["a"]) == len(times["b"]) > 0
    names = "".join(name for name, _ in calls)
    assert "abba" in names.replace("a" * 10, "a").replace("b" * 10, "b")
