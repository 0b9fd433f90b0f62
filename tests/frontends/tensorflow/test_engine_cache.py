import pytest

from planish.config import Profile
from planish.errors import ConfigError
from planish.frontends.tensorflow.engine_cache import MAX_EXTRA, EngineCache, TimeBudget
from tests.frontends.tensorflow.stand_ins import StandInEngine, fixed


def engine(*shapes):
    return StandInEngine(fixed(*shapes))


def shapes_of(cache):
    return [cached.shapes for cached in cache.engines]


def test_least_recently_used_engine_goes_first():
    cache = EngineCache("e", capacity=2)
    for batch in (1, 2):
        cache.add(engine((batch, 4)), ((batch, 4),))
    cache.find(((1, 4),))  # now 2 is the older one
    cache.add(engine((3, 4)), ((3, 4),))
    assert shapes_of(cache) == [((1, 4),), ((3, 4),)]


def test_touch_counts_as_use():
    cache = EngineCache("e", capacity=2)
    for batch in (1, 2):
        cache.add(engine((batch, 4)), ((batch, 4),))
    cache.touch(cache.engines[0])
    cache.add(engine((3, 4)), ((3, 4),))
    assert shapes_of(cache) == [((1, 4),), ((3, 4),)]


def test_engines_built_ahead_never_push_each_other_out():
    cache = EngineCache("e", capacity=1)
    for batch in (1, 2, 3):
        cache.put(engine((batch, 4)), ((batch, 4),))
    assert len(cache.engines) == 3


def test_engine_of_same_shapes_is_replaced():
    cache = EngineCache("e", capacity=4)
    newer = engine((1, 4))
    cache.put(engine((1, 4)), ((1, 4),))
    cache.put(newer, ((1, 4),))
    assert [cached.engine for cached in cache.engines] == [newer]


def test_shape_that_comes_back_makes_the_cache_grow(caplog):
    cache = EngineCache("e", capacity=1)
    for batch in (1, 2, 1):
        cache.add(engine((batch, 4)), ((batch, 4),))
    assert shapes_of(cache) == [((2, 4),), ((1, 4),)]
    assert "maximum_cached_engines=2" in caplog.text


def test_growth_ends_and_then_a_shape_is_not_built_a_third_time():
    cache = EngineCache("e", capacity=1)
    many = MAX_EXTRA + 3
    for _ in range(2):
        for batch in range(1, many + 1):
            if cache.failure(((batch, 4),)) is None and cache.find(((batch, 4),)) is None:
                cache.add(engine((batch, 4)), ((batch, 4),))
    assert len(cache.engines) == MAX_EXTRA + 1
    gone = [b for b in range(1, many + 1) if cache.find(((b, 4),)) is None]
    assert gone
    for batch in gone:
        assert "maximum_cached_engines" in cache.failure(((batch, 4),))


def test_find_prefers_the_engine_built_for_these_shapes_then_the_nearest():
    cache = EngineCache("e", capacity=3)
    for best in (2, 8, 32):
        cache.put(StandInEngine([Profile((1, 4), (best, 4), (32, 4))]), ((best, 4),))
    assert cache.find(((8, 4),)).shapes == ((8, 4),)
    assert cache.find(((9, 4),)).shapes == ((8, 4),)
    assert cache.find(((30, 4),)).shapes == ((32, 4),)
    assert cache.find(((33, 4),)) is None


def test_version_changes_with_engines_only():
    cache = EngineCache("e")
    before = cache.version
    cache.collect(((1, 4),))
    cache.fail(((1, 4),), "why")
    assert cache.version == before
    cache.put(engine((1, 4)), ((1, 4),))
    assert cache.version != before


def test_failure_is_remembered_until_an_engine_comes():
    cache = EngineCache("e")
    cache.fail(((1, 4),), "out of luck")
    assert cache.failure(((1, 4),)) == "out of luck"
    cache.put(engine((1, 4)), ((1, 4),))
    assert cache.failure(((1, 4),)) is None


def test_warnings_come_once_and_name_the_engine(caplog):
    cache = EngineCache("TRTEngineOp_000_007")
    cache.warn_once("a", "first")
    cache.warn_once("a", "second")
    assert caplog.messages == ["TRTEngineOp_000_007: first"]


def test_clear_forgets_everything():
    cache = EngineCache("e")
    cache.put(engine((1, 4)), ((1, 4),))
    cache.fail(((2, 4),), "why")
    cache.collect(((1, 4),))
    cache.clear()
    assert (cache.engines, cache.collected, cache.failure(((2, 4),))) == ((), (), None)


def test_budget_counts_only_building():
    budget = TimeBudget(10.0)
    with budget.building() as mine:
        assert mine
    assert 9.0 < budget.remaining < 10.0


def test_budget_lets_one_build_at_a_time():
    budget = TimeBudget(10.0)
    with budget.building() as first, budget.building() as second:
        assert (first, second) == (True, False)
    with budget.building() as again:
        assert again


def test_budget_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("PLANISH_TF_TIME_BUDGET", "7.5")
    assert TimeBudget().seconds == 7.5
    monkeypatch.delenv("PLANISH_TF_TIME_BUDGET")
    assert TimeBudget().seconds == 120.0


@pytest.mark.parametrize("text", ["soon", "-1", "inf", "nan"])
def test_wrong_budget_is_refused(monkeypatch, text):
    monkeypatch.setenv("PLANISH_TF_TIME_BUDGET", text)
    with pytest.raises(ConfigError, match="expected seconds"):
        _ = TimeBudget().seconds


def test_unloaded_engines_come_back_once():
    cache = EngineCache("e")
    cache.put(engine((1, 4)), ((1, 4),))
    cache.unload(lambda itself: itself.put(engine((1, 4)), ((1, 4),)))
    assert cache.engines == ()
    assert cache.restore()
    assert shapes_of(cache) == [((1, 4),)]
    assert not cache.restore()


def test_unloading_frees_what_depends_on_the_cache():
    class Operation:
        released = False

        def release(self):
            self.released = True

    cache, operation, gone = EngineCache("e"), Operation(), Operation()
    cache.dependents.update((operation, gone))
    del gone
    cache.unload(None)
    assert operation.released
    assert not cache.restore()
