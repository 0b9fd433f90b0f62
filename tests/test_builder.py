"""Whole builds: determinism, tuning within a budget, cancelling, caches, fallbacks, debugging."""

from __future__ import annotations

import json
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import planish
from planish.build_clock import STAGES
from planish.config import BuildConfig, Progress
from planish.errors import BuildCancelled, BuildStopped, TacticError
from planish.ir.text import parse_text
from planish.plan.serialize import plan_from_json
from planish.runtime.engine import Engine
from planish.tactics.select import FallbackWarning
from planish.tactics.timing_cache import TimingCache
from tests import small_models
from tests.conftest import DIGITS

X = np.random.default_rng(0).standard_normal((3, 3, 12, 12)).astype(np.float32)


def build(**options: Any) -> Engine:
    """Build a small CNN; without tuning unless `options` say so."""
    return planish.build(small_models.convolutions(), BuildConfig(**{"tune": "off", **options}))


def saved(engine: Engine, path: Path) -> bytes:
    engine.save(path)
    return path.read_bytes()


def assert_right(engine: Engine) -> None:
    want = small_models.expected(small_models.convolutions(), {"x": X})["y"]
    np.testing.assert_allclose(engine(X), want, atol=1e-5)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, Path]:
    """An engine that was tuned, and the timing cache that the build wrote."""
    path = tmp_path_factory.mktemp("tuned") / "timing.json"
    return build(tune="measure", time_budget=60, timing_cache=path, threads=1), path


# -- determinism ---------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_builds_give_the_same_bytes(tmp_path: Path, precision: str) -> None:
    first, second = (saved(build(precision=precision), tmp_path / "x.plan") for _ in range(2))
    assert first == second


def test_the_same_cache_gives_the_same_bytes(tmp_path: Path, tuned: tuple[Engine, Path]) -> None:
    options = {"tune": "cache", "timing_cache": tuned[1], "threads": 1}
    first, second = (saved(build(**options), tmp_path / "x.plan") for _ in range(2))
    assert first == second


def test_a_file_is_the_same_whatever_form_the_model_comes_in(tmp_path: Path) -> None:
    proto = small_models.convolutions()
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    config = BuildConfig(tune="off")
    forms = (proto, proto.SerializeToString(), tmp_path / "model.onnx")
    engines = [planish.build(form, config) for form in forms]
    sources = {engine.source for engine in engines}
    assert len(sources) == 1
    for engine in engines:
        assert_right(engine)


def test_one_and_two_threads_give_the_same_results() -> None:
    one, two = build(threads=1), build(threads=2)
    assert (one.threads, two.threads) == (1, 2)
    np.testing.assert_array_equal(one(X), two(X))


# -- tuning --------------------------------------------------------------------------------------


def test_tuned_engine_is_right_and_says_what_it_measured(tuned: tuple[Engine, Path]) -> None:
    assert_right(tuned[0])
    report = tuned[0].report
    assert report.tuned.startswith("measure")
    measured = [layer for layer in report.layers if layer.alternatives]
    assert measured
    for layer in measured:
        assert layer.microseconds is not None
        assert layer.microseconds <= min(time for _, time in layer.alternatives)


def test_timing_cache_makes_the_second_build_equal(tuned: tuple[Engine, Path]) -> None:
    engine, path = tuned
    again = build(tune="cache", timing_cache=path, threads=1)
    chosen, expected = (
        [(layer.tactic, layer.config) for layer in each.report.layers] for each in (again, engine)
    )
    assert chosen == expected
    assert_right(again)


def test_cache_mode_takes_the_cached_best(tmp_path: Path, tuned: tuple[Engine, Path]) -> None:
    """Turning the measured times around makes the slowest candidates win."""
    data = json.loads(tuned[1].read_text())
    for times in data["entries"].values():
        for label in times:
            times[label] = round(1e6 / times[label], 3)
    turned = tmp_path / "turned.json"
    turned.write_text(json.dumps(data))
    options = {"tune": "cache", "threads": 1}
    best = build(timing_cache=tuned[1], **options).report.layers
    worst_engine = build(timing_cache=turned, **options)
    worst = worst_engine.report.layers
    assert [(a.tactic, a.config) for a in best] != [(b.tactic, b.config) for b in worst]
    assert_right(worst_engine)


def test_cache_mode_does_not_write(tmp_path: Path) -> None:
    build(tune="cache", timing_cache=tmp_path / "timing.json")
    assert list(tmp_path.iterdir()) == []


def test_cache_for_other_threads_is_not_used(tuned: tuple[Engine, Path]) -> None:
    report = build(tune="cache", timing_cache=tuned[1], threads=2).report
    assert all(layer.microseconds is None for layer in report.layers)


def test_timing_caches_merge(tmp_path: Path) -> None:
    first, second = TimingCache(), TimingCache()
    first.record("region", "a{}", 3.0)
    first.record("region", "b{}", 5.0)
    second.record("region", "b{}", 4.0)
    second.record("other", "a{}", 1.0)
    path = tmp_path / "new folder" / "timing.json"
    first.save(path)
    second.save(path)  # merges with what the file holds
    merged = TimingCache.load(path)
    assert merged.entries == {"region": {"a{}": 3.0, "b{}": 4.0}, "other": {"a{}": 1.0}}
    assert [each.name for each in path.parent.iterdir()] == ["timing.json"]
    before = path.read_bytes()
    TimingCache().save(path)
    assert path.read_bytes() == before


def test_default_timing_cache_is_in_the_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANISH_CACHE", str(tmp_path / "cache"))
    build(tune="measure", time_budget=2, threads=1)
    assert (tmp_path / "cache" / "timing.json").is_file()
    assert list((tmp_path / "cache" / "objects").iterdir())


def test_the_budget_is_kept() -> None:
    """Generous, since the machine may be busy: tuning alone would take much longer."""
    budget = 6.0
    start = time.monotonic()
    engine = planish.build(DIGITS, BuildConfig(time_budget=budget))
    assert time.monotonic() - start < 3 * budget
    assert engine.report.layers


def test_a_tiny_budget_still_gives_an_engine() -> None:
    assert_right(build(tune="measure", time_budget=0.01))


# -- progress and cancelling ---------------------------------------------------------------------


def test_progress_names_every_stage_in_order() -> None:
    seen: list[Progress] = []
    build(progress=seen.append, time_budget=50.0)
    assert list(dict.fromkeys(entry.stage for entry in seen)) == list(STAGES)
    assert all(0 <= entry.done <= entry.total for entry in seen)
    left = [entry.remaining for entry in seen]
    assert left == sorted(left, reverse=True)
    assert 0 < left[-1] < left[0] <= 50.0


def test_cancel_during_tuning_keeps_the_engine() -> None:
    cancelled = threading.Event()
    stages: list[str] = []

    def watch(progress: Progress) -> None:
        stages.append(progress.stage)
        if progress.stage == "tune":
            cancelled.set()

    engine = build(tune="measure", progress=watch, cancel=cancelled.is_set)
    assert "tune" in stages
    assert all(layer.microseconds is None for layer in engine.report.layers)
    assert_right(engine)


def test_cancel_before_an_engine_exists() -> None:
    with pytest.raises(BuildCancelled, match="import"):
        build(cancel=lambda: True)


# -- fallback ------------------------------------------------------------------------------------


def test_fallback_warns_and_reports() -> None:
    proto = small_models.suppression()
    with pytest.warns(FallbackWarning, match=r"numpy reference, slowly: suppress"):
        engine = planish.build(proto, BuildConfig(tune="off"))
    assert [layer.tactic for layer in engine.report.layers].count("reference") == 1
    assert len(engine.report.warnings) == 1
    assert "suppress" in engine.report.warnings[0]
    generator = np.random.default_rng(0)
    inputs = {"b": generator.random((1, 8, 4), np.float32),
              "s": generator.random((1, 1, 8), np.float32)}  # fmt: skip
    want = small_models.expected(proto, inputs)["picked"]
    np.testing.assert_array_equal(engine.run(inputs)["picked"], want)


def test_nothing_is_said_where_everything_has_a_kernel() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        engine = build(fallback="error")
    assert engine.report.warnings == ()


def test_tactic_sources_are_honoured() -> None:
    with pytest.warns(FallbackWarning):
        engine = build(tactic_sources=("gemm_conv", "gemm_matmul", "reference"))
    tactics = {layer.tactic for layer in engine.report.layers}
    assert "gemm_conv" in tactics
    assert tactics <= {"gemm_conv", "gemm_matmul", "reference"}
    assert_right(engine)


def test_workspace_limit_is_honoured() -> None:
    free, limit = build(threads=2), 20_000
    assert max(step.scratch_bytes for step in free.plan.steps) * 2 > limit
    bound = build(threads=2, workspace_limit=limit)
    assert max(step.scratch_bytes for step in bound.plan.steps) * 2 <= limit
    refusals = [text for layer in bound.report.layers for _, text in layer.refusals]
    assert any("bytes of scratch memory, allowed are 20000" in text for text in refusals)
    assert_right(bound)


def test_no_kernel_within_the_workspace_limit() -> None:
    nodes = [onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="big", pads=[1, 1, 1, 1])]
    constants = small_models.weights(0, w=(16, 16, 3, 3))
    proto = small_models.model(nodes, {"x": (1, 16, 32, 32)}, {"y": (1, 16, 32, 32)}, constants)
    config = BuildConfig(
        tune="off", workspace_limit=20_000, tactic_sources=("winograd", "pointwise")
    )
    with pytest.raises(TacticError, match="workspace_limit") as caught:
        planish.build(proto, config)
    assert "bytes of scratch memory" in caught.value.what


def test_regions_without_a_kernel_are_all_named() -> None:
    with pytest.raises(TacticError) as caught:
        build(tactic_sources=("gemm_conv", "pointwise"))
    lines = str(caught.value).splitlines()
    assert [line.split()[0] for line in lines if "(gemm_conv" in line] == [
        "right", "pooled", "mean", "classifier"
    ]  # fmt: skip
    assert "not among" not in str(caught.value)


@pytest.mark.parametrize("shape", [(0, 8), (3, 0)])
def test_operands_without_elements_run_in_numpy(shape: tuple[int, int]) -> None:
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
    constants = {"w": np.ones((shape[1], 5), np.float32)}
    proto = small_models.model(nodes, {"x": shape}, {"y": (shape[0], 5)}, constants)
    with pytest.warns(FallbackWarning):
        engine = planish.build(proto, BuildConfig(tune="off"))
    np.testing.assert_array_equal(
        engine(np.ones(shape, np.float32)), np.zeros((shape[0], 5), np.float32)
    )


# -- use by many threads -------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_one_engine_in_many_threads(threads: int) -> None:
    engine = build(threads=threads)
    generator = np.random.default_rng(1)
    arrays = [generator.standard_normal((n, 3, 12, 12)).astype(np.float32) for n in range(1, 9)]
    wanted = [engine(array) for array in arrays]

    def call(index: int) -> bool:
        return bool((engine(arrays[index % 8]) == wanted[index % 8]).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(400)))


def test_engines_are_built_and_run_at_the_same_time() -> None:
    with ThreadPoolExecutor(3) as pool:
        engines = list(pool.map(lambda _: build(), range(3)))
        results = list(pool.map(lambda engine: engine(X), engines))
    for result in results:
        np.testing.assert_array_equal(result, results[0])


# -- looking inside ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "shown", "hidden"),
    [
        (0, (), ("planish:",)),
        (1, ("import:", "compile:"), ("fuse_regions",)),
        (2, ("fuse_regions",), ("gemm_conv{",)),
        (3, ("gemm_conv{", "not winograd:"), ("static void",)),
        (4, ("static void",), ()),
    ],
)
def test_debug_levels(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    level: int,
    shown: tuple[str, ...],
    hidden: tuple[str, ...],
) -> None:
    monkeypatch.setenv("PLANISH_DEBUG", str(level))
    build()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [text for text in shown if text not in captured.err] == []
    assert [text for text in hidden if text in captured.err] == []


@pytest.mark.parametrize("stage", STAGES)
def test_stop_after(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    seen: list[Progress] = []
    monkeypatch.setenv("PLANISH_STOP_AFTER", stage)
    with pytest.raises(BuildStopped, match=f"stopped after the {stage} stage"):
        build(progress=seen.append)
    assert seen[-1].stage == stage


def test_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANISH_DUMP", str(tmp_path / "dump"))
    engine = build()
    files = sorted(path.name for path in (tmp_path / "dump").iterdir())
    assert files[0] == "00_import.txt"
    assert any(name.endswith("fuse_regions.txt") for name in files)
    for path in (tmp_path / "dump").glob("*.txt"):
        assert len(parse_text(path.read_text())) > 0
    assert plan_from_json((tmp_path / "dump" / "plan.json").read_bytes()) == engine.plan
    assert engine.source in [path.read_text() for path in (tmp_path / "dump").glob("*.c")]
