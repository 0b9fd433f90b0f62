import threading

import numpy as np
import pytest

from planish.config import Profile
from planish.errors import ModelError
from planish.frontends.tensorflow.engine_cache import EngineCache, TimeBudget
from planish.frontends.tensorflow.engine_rules import (
    EngineOperation,
    EngineSettings,
    NativeExecutionForbiddenError,
    implicit_batch_profiles,
    profiles_for,
)
from tests.frontends.tensorflow.stand_ins import (
    BUILT,
    NATIVE,
    StandInEngine,
    StandInSegment,
    fixed,
)

NAME = "TRTEngineOp_000_000"
DYNAMIC = ((None, 4),)


class Operation:
    """An operation with everything around it."""

    def __init__(self, budget=60.0, segment=None, capacity=1, **settings):
        settings = {"input_shapes": DYNAMIC, "max_engines": capacity, **settings}
        self.settings = EngineSettings(NAME, **settings)
        self.cache = EngineCache(NAME, capacity)
        self.segment = segment or StandInSegment()
        self.budget = TimeBudget(budget)
        self.operation = EngineOperation(self.settings, self.cache, self.segment, self.budget)

    def __call__(self, *shapes):
        """Run on ones; return the factor that tells who computed."""
        inputs = [np.ones(shape, np.float32) for shape in shapes]
        (result,) = self.operation.run(inputs)
        assert result.shape == shapes[0]
        return int(result.flat[0]) if result.size else None

    @property
    def builds(self):
        return len(self.segment.built)


# -- choosing and building --------------------------------------------------


def test_first_inputs_build_an_engine_whose_batch_is_free():
    run = Operation()
    assert run((3, 4)) == BUILT
    assert run.segment.built == [(Profile((1, 4), (3, 4), (32, 4)),)]
    assert [run((batch, 4)) for batch in (1, 2, 32)] == [BUILT] * 3
    assert run.builds == 1


def test_engine_built_ahead_serves_without_a_build():
    run = Operation(allow_build=False)
    run.cache.put(StandInEngine([Profile((1, 4), (8, 4), (8, 4))]), ((8, 4),))
    assert run((5, 4)) == BUILT
    assert run.builds == 0


def test_larger_batch_than_the_engine_takes_builds_another():
    run = Operation(capacity=2)
    assert [run((3, 4)), run((33, 4)), run((64, 4))] == [BUILT] * 3
    assert [profile.max for (profile,) in run.segment.built] == [(32, 4), (64, 4)]


def test_other_extents_than_the_batch_need_their_own_engine():
    run = Operation(capacity=2, input_shapes=((None, None),))
    assert [run((3, 4)), run((3, 5)), run((1, 4))] == [BUILT] * 3
    assert run.builds == 2


def test_alternating_shapes_do_not_rebuild_for_ever(caplog):
    run = Operation(capacity=1, input_shapes=((None, None),))
    for _ in range(20):
        for width in (4, 5, 6):
            assert run((2, width)) == BUILT
    assert run.builds <= 6  # at most twice each
    assert "maximum_cached_engines=" in caplog.text


def test_very_many_alternating_shapes_end_in_native_runs_not_builds():
    run = Operation(capacity=1, input_shapes=((None, None),))
    for _ in range(4):
        for width in range(1, 20):
            run((2, width))
    builds = run.builds
    assert builds <= 2 * 19
    assert {run((2, width)) for width in range(1, 20)} == {BUILT, NATIVE}
    assert run.builds == builds


def test_engine_replaced_in_the_cache_is_used_at_once():
    run = Operation()
    run((3, 4))
    newer = StandInEngine(fixed((3, 4)))
    run.cache.put(newer, ((3, 4),))
    run((3, 4))
    assert newer.runs == 1


def test_least_recently_used_follows_real_use():
    run = Operation(capacity=2, input_shapes=((None, None),))
    run((1, 4)), run((1, 5)), run((1, 4)), run((1, 6))
    assert [shapes[0][1] for shapes in (c.shapes for c in run.cache.engines)] == [4, 6]


def test_outputs_go_into_the_given_memory():
    run = Operation()
    target = np.zeros((2, 4), np.float32)
    (result,) = run.operation.run([np.ones((2, 4), np.float32)], lambda index, shape: target)
    assert result is target
    assert target[0, 0] == BUILT


# -- shapes that contradict the declaration --------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        ([(3, 5)], "expected ['?', 4]"),
        ([(3, 4, 1)], "expected ['?', 4]"),
        ([(0, 4)], "no batch"),
    ],
)
def test_contradicting_shapes_run_natively_with_the_reason(caplog, shapes, text):
    run = Operation()
    assert run(*shapes) in (NATIVE, None)
    assert (run.segment.native_runs, run.builds) == (1, 0)
    assert text in caplog.text


def test_inputs_of_different_batches_run_natively(caplog):
    run = Operation(input_shapes=((None, 4), (None, 4)))
    assert run((3, 4), (2, 4)) == NATIVE
    assert "different batch sizes" in caplog.text


def test_scalars_run_natively_with_implicit_batch():
    run = Operation(input_shapes=(None,))
    assert run(()) == NATIVE


def test_scalars_are_fine_with_dynamic_shape():
    run = Operation(input_shapes=((),), implicit_batch=False)
    assert run(()) == BUILT


def test_the_same_reason_is_logged_once(caplog):
    run = Operation()
    run((3, 5)), run((3, 5))
    assert len(caplog.messages) == 1


# -- not building --------------------------------------------------


def test_forbidden_build_runs_natively(caplog):
    run = Operation(allow_build=False)
    assert run((3, 4)) == NATIVE
    assert run.builds == 0
    assert "allow_build_at_runtime" in caplog.text


def test_failed_build_is_not_tried_again(caplog):
    run = Operation(segment=StandInSegment(ModelError("the moon is full")))
    assert [run((3, 4)), run((3, 4))] == [NATIVE] * 2
    assert run.builds == 1
    assert "the moon is full" in caplog.text


def test_failed_build_leaves_other_shapes_a_chance():
    run = Operation(
        segment=StandInSegment(ModelError("no")), capacity=2, input_shapes=((None, None),)
    )
    run((3, 4))
    run.segment.error = None
    assert [run((3, 4)), run((3, 5))] == [NATIVE, BUILT]


def test_spent_budget_runs_natively_and_names_the_variable(caplog):
    run = Operation(budget=0.0)
    assert run((3, 4)) == NATIVE
    assert run.builds == 0
    assert "PLANISH_TF_TIME_BUDGET" in caplog.text


def test_builds_get_what_is_left_of_the_budget():
    seen = []

    class Watching(StandInSegment):
        def build(self, profiles, settings, time_budget, library):
            seen.append(time_budget)
            return super().build(profiles, settings, time_budget, library)

    run = Operation(budget=30.0, segment=Watching())
    run((3, 4))
    assert 0 < seen[0] <= 30.0


def test_abort_variable_makes_builds_fail(monkeypatch, caplog):
    monkeypatch.setenv("TF_TRT_ABORT_CUDA_ENGINE_BUILD", "true")
    run = Operation()
    assert run((3, 4)) == NATIVE
    assert "TF_TRT_ABORT_CUDA_ENGINE_BUILD" in caplog.text


def test_other_threads_run_natively_while_one_builds():
    segment = StandInSegment()
    segment.gate = threading.Event()
    run = Operation(segment=segment)
    results = []
    builder = threading.Thread(target=lambda: results.append(run((3, 4))))
    builder.start()
    assert segment.started.wait(10)
    assert [run((3, 4)), run((4, 4))] == [NATIVE] * 2
    segment.gate.set()
    builder.join(10)
    assert results == [BUILT]
    assert run((4, 4)) == BUILT
    assert run.builds == 1


# -- failing engines --------------------------------------------------


def test_failing_engine_runs_natively_with_the_reason(caplog):
    run = Operation()
    run.cache.put(StandInEngine(fixed((3, 4)), ModelError("it broke")), ((3, 4),))
    assert run((3, 4)) == NATIVE
    assert "it broke" in caplog.text


@pytest.mark.parametrize("case", ["build", "engine", "shape", "forbidden"])
def test_native_execution_can_be_forbidden(monkeypatch, case):
    monkeypatch.setenv("TF_TRT_ALLOW_ENGINE_NATIVE_SEGMENT_EXECUTION", "False")
    run = Operation(allow_build=case != "forbidden")
    if case == "build":
        run.segment.error = ModelError("no")
    if case == "engine":
        run.cache.put(StandInEngine(fixed((3, 4)), ModelError("no")), ((3, 4),))
    with pytest.raises(NativeExecutionForbiddenError, match="User disallowed engine native"):
        run((3, 5) if case == "shape" else (3, 4))
    assert run.segment.native_runs == 0


def test_errors_of_the_native_run_are_the_users():
    class Failing(StandInSegment):
        def run(self, inputs, library):
            raise KeyError("the model's own")

    run = Operation(allow_build=False, segment=Failing())
    with pytest.raises(KeyError, match="own"):
        run((3, 4))


# -- collecting and calibrating --------------------------------------------------


def test_profile_generation_collects_shapes_once_each():
    run = Operation(implicit_batch=False, collect_profiles=True)
    assert [run((n, 4)) for n in (1, 7, 1)] == [NATIVE] * 3
    assert run.cache.collected == (((1, 4),), ((7, 4),))
    assert run.builds == 0


def test_collected_shapes_become_the_profile_of_the_first_build():
    run = Operation(implicit_batch=False)
    for n in (1, 7):
        run.cache.collect(((n, 4),))
    assert run((2, 4)) == BUILT
    assert run.segment.built == [(Profile((1, 4), (7, 4), (7, 4)),)]


def test_dynamic_shape_without_profiles_takes_the_first_inputs():
    run = Operation(implicit_batch=False)
    assert run((5, 4)) == BUILT
    assert run.segment.built == [tuple(fixed((5, 4)))]


def test_dynamic_shape_outside_all_profiles_runs_natively(caplog):
    run = Operation(implicit_batch=False)
    run((5, 4))
    assert run((6, 4)) == NATIVE
    assert run.builds == 1
    assert "no profile includes [6, 4]" in caplog.text


def test_every_profile_has_an_engine_whatever_the_capacity():
    run = Operation(implicit_batch=False, profile_strategy="optimal", capacity=1)
    for n in (1, 4, 9):
        run.cache.collect(((n, 4),))
    assert [run((n, 4)) for n in (1, 4, 9)] == [BUILT] * 3
    assert (run.builds, run((2, 4))) == (3, NATIVE)


def test_failed_dynamic_build_is_not_tried_with_other_shapes():
    run = Operation(implicit_batch=False, segment=StandInSegment(ModelError("no")))
    assert [run((5, 4)), run((6, 4))] == [NATIVE] * 2
    assert run.builds == 1


def test_calibration_feeds_the_collector_and_runs_natively():
    run = Operation(precision="INT8")
    fed = []
    run.cache.collector = lambda inputs: fed.append(inputs[0].copy())
    assert run((3, 4)) == NATIVE
    run.cache.collector = None
    assert run((3, 4)) == BUILT
    assert [array.shape for array in fed] == [(3, 4)]


# -- profiles --------------------------------------------------

COLLECTED = [((1, 4), (1, 9)), ((8, 4), (8, 3)), ((2, 4), (2, 5))]


def test_range_strategy_spans_all_shapes():
    assert profiles_for("Range", COLLECTED) == [
        (Profile((1, 4), (2, 4), (8, 4)), Profile((1, 3), (2, 5), (8, 9)))
    ]


def test_optimal_strategy_has_one_profile_for_each():
    assert profiles_for("Optimal", COLLECTED) == [tuple(fixed(*s)) for s in COLLECTED]


def test_range_and_optimal_strategy_has_both():
    both = profiles_for("range+optimal", COLLECTED)
    assert both == profiles_for("range", COLLECTED) + profiles_for("optimal", COLLECTED)


def test_compatible_strategy_starts_every_batch_at_one():
    assert profiles_for("ImplicitBatchModeCompatible", [((8, 4), ())]) == [
        (Profile((1, 4), (8, 4), (8, 4)), Profile((), (), ()))
    ]


@pytest.mark.parametrize(("batch", "largest"), [(1, 32), (32, 32), (33, 64), (100, 128)])
def test_implicit_batch_goes_to_the_next_power_of_two(batch, largest):
    (profile,) = implicit_batch_profiles(((batch, 4),), EngineSettings(NAME, DYNAMIC))
    assert profile == Profile((1, 4), (batch, 4), (largest, 4))


def test_declared_batch_is_fixed():
    (profile,) = implicit_batch_profiles(((8, 4),), EngineSettings(NAME, ((8, 4),)))
    assert profile == Profile((8, 4), (8, 4), (8, 4))


# -- unloading ---------------------------------------------------------------------------------


def test_operation_brings_unloaded_engines_back_before_it_builds():
    run = Operation()
    run((3, 4))
    (cached,) = run.cache.engines
    run.cache.unload(lambda cache: cache.put(cached.engine, cached.shapes))
    assert run.segment.releases == 1
    assert run((5, 4)) == BUILT
    assert (run.builds, cached.engine.runs) == (1, 2)


def test_operation_builds_again_when_nothing_comes_back():
    run = Operation()
    run((3, 4))
    run.cache.unload(lambda cache: None)
    assert run((3, 4)) == BUILT
    assert run.builds == 2
