"""Loops in engines: compiled, run from Python, saved and loaded, with several threads."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from planish.backends.backend import backend_for
from planish.config import BuildConfig
from planish.engine.parts import EngineParts
from planish.ir.graph import Graph
from planish.ir.text import to_text
from planish.ops.interpreter import run_graph
from planish.passes.pipeline import optimize
from planish.plan.plan import Plan
from planish.plan.schedule import make_plan
from planish.plan.serialize import plan_from_json, plan_to_json, plan_to_text
from planish.plan.weights import WeightPool
from planish.runtime.engine import Engine, load
from planish.tactics.select import choices_of, group_regions, kernels_of
from tests.passes.checks import Array, parse, random_inputs
from tests.passes.loop_graphs import LOOPS, random_loop

NATIVE = BuildConfig(tune="off", threads=1)
REFERENCE = BuildConfig(tune="off", threads=1, tactic_sources=("reference",))


def engine_of(graph: Graph, config: BuildConfig = NATIVE) -> tuple[Engine, Plan]:
    backend = backend_for("cpu")
    target = backend.detect(config.threads)
    optimize(graph, config, backend.prints)
    constants = WeightPool()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        groups = group_regions(graph, target, config, backend.tactics())
    choices = choices_of(groups, target, constants)
    plan = make_plan(graph, choices, constants.bytes)
    kernels = kernels_of(graph, plan, choices)
    code = backend.assemble(plan, kernels, target) if kernels else None
    parts = EngineParts(plan, constants.memory(), code, to_text(graph), {})
    return Engine(parts), plan


def check(engine: Engine, graph: Graph, inputs: list[Array], expected: list[Array]) -> None:
    results = engine.run(dict(zip(graph.input_names, inputs, strict=True)))
    for name, want in zip(graph.output_names, expected, strict=True):
        assert results[name].dtype == want.dtype
        assert results[name].shape == want.shape
        np.testing.assert_allclose(results[name], want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("config", [NATIVE, REFERENCE], ids=["native", "python"])
@pytest.mark.parametrize("name", LOOPS)
def test_loops_compute_what_the_interpreter_does(name: str, config: BuildConfig) -> None:
    original, graph = parse(LOOPS[name]), parse(LOOPS[name])
    engine, plan = engine_of(graph, config)
    assert plan.loops or name == "swapped"
    assert any(step.external is not None for step in plan.steps) == (config is REFERENCE)
    for seed in range(4):
        inputs = random_inputs(original, seed)
        expected = run_graph(original, inputs)
        check(engine, graph, inputs, expected)
        check(engine, graph, inputs, expected)  # the arena holds the last run's values


@pytest.mark.parametrize("extent", [1, 2, 9])
def test_the_number_of_iterations_follows_the_shapes(extent: int) -> None:
    original, graph = parse(LOOPS["symbolic"]), parse(LOOPS["symbolic"])
    engine, _ = engine_of(graph)
    x = np.random.default_rng(0).standard_normal((extent, 3)).astype(np.float32)
    inputs = [x, np.ones(3, np.float32)]
    check(engine, graph, inputs, run_graph(original, inputs))


@pytest.mark.parametrize("trips", [-3, 0, 1, 50])
def test_the_number_of_iterations_is_read_when_the_loop_starts(trips: int) -> None:
    original, graph = parse(LOOPS["limited"]), parse(LOOPS["limited"])
    engine, plan = engine_of(graph)
    assert plan.loops[0].limit is not None
    assert plan.loops[0].counter is not None
    inputs = [np.ones((3, 4), np.float32), np.array(trips, np.int64)]
    check(engine, graph, inputs, run_graph(original, inputs))


@pytest.mark.parametrize("seed", [3, 8, 21, 34])
def test_random_loops(seed: int) -> None:
    original, graph = random_loop(seed), random_loop(seed)
    engine, _ = engine_of(graph)
    inputs = random_inputs(original, seed)
    check(engine, graph, inputs, run_graph(original, inputs))


def test_plans_with_loops_survive_json() -> None:
    for name in ("nested", "while", "limited", "guarded"):
        _, plan = engine_of(parse(LOOPS[name]), REFERENCE)
        again = plan_from_json(plan_to_json(plan))
        assert again == plan
        assert "loop 0: steps" in plan_to_text(plan)


def test_engines_with_loops_are_saved_and_loaded(tmp_path: Path) -> None:
    original, graph = parse(LOOPS["nested"]), parse(LOOPS["nested"])
    engine, _ = engine_of(graph)
    engine.save(tmp_path / "loop.plan")
    inputs = random_inputs(original, 5)
    check(load(tmp_path / "loop.plan"), graph, inputs, run_graph(original, inputs))


def test_two_threads_compute_the_same() -> None:
    original, graph = parse(LOOPS["counted"]), parse(LOOPS["counted"])
    engine, _ = engine_of(graph, BuildConfig(tune="off", threads=2))
    inputs = random_inputs(original, 1)
    for _ in range(10):
        check(engine, graph, inputs, run_graph(original, inputs))
