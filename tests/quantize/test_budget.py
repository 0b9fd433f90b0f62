"""What a budget of accuracy accepts, as a definition and as a verdict on numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import planish
from planish.config import BuildConfig
from planish.errors import ConfigError

DATA = [np.zeros((2, 3), np.float32)]


def error(outputs: Any, labels: Any) -> float:
    return 0.0


def test_defaults_follow_the_labels() -> None:
    assert planish.Budget(DATA, max_drop=1).name == "cosine"
    assert planish.Budget(DATA, labels=[0, 1], max_drop=1).name == "top1"
    assert planish.Budget(DATA, metric=error, max_drop=1).name == "error"
    assert not planish.Budget(DATA, metric="max_error", max_drop=0.1).higher_is_better


@pytest.mark.parametrize(
    ("budget", "float32", "limit"),
    [
        (planish.Budget(DATA, max_drop=0.5, labels=[0]), 80.0, 79.5),
        (planish.Budget(DATA, max_drop="1%", labels=[0]), 80.0, 79.2),
        (planish.Budget(DATA, worst=40, metric="snr"), math.inf, 40.0),
        (planish.Budget(DATA, max_drop=0.02, metric="max_error"), 0.0, 0.02),
        (planish.Budget(DATA, max_drop="10%", metric=error, higher_is_better=False), 2.0, 2.2),
        (planish.Budget(DATA, max_drop="10%", metric=error), -2.0, -2.2),
    ],
)
def test_the_limit(budget: planish.Budget, float32: float, limit: float) -> None:
    assert budget.limit(float32) == pytest.approx(limit)
    assert budget.accepts(limit, float32)
    step = 1e-6 if budget.higher_is_better else -1e-6
    assert not budget.accepts(limit - step, float32)
    assert budget.accepts(limit + step, float32)
    assert not budget.accepts(math.nan, float32)


def test_percent_points_are_not_lost_to_rounding() -> None:
    budget = planish.Budget(DATA, labels=[0], max_drop=0.5)
    assert budget.accepts(100 * 1617 / 2000, 100 * 1627 / 2000)  # 80.85 against 81.35


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "one of max_drop and worst"),
        ({"max_drop": 1, "worst": 2}, "one of max_drop and worst"),
        ({"max_drop": -1}, "at least 0"),
        ({"max_drop": "1"}, "at least 0"),
        ({"max_drop": "x%"}, "at least 0"),
        ({"max_drop": math.nan}, "at least 0"),
        ({"max_drop": True}, "at least 0"),
        ({"worst": math.inf}, "expected a number"),
        ({"max_drop": 1, "metric": "top2"}, "expected one of top1"),
        ({"max_drop": 1, "metric": "top5"}, "there are none"),
        ({"max_drop": 1, "metric": "cosine", "labels": [1]}, "not with labels"),
        ({"max_drop": 1, "metric": "snr"}, "infinite"),
        ({"max_drop": 1, "data": iter(DATA)}, "only once"),
        ({"max_drop": 1, "data": "images.npz"}, "expected batches"),
        ({"max_drop": 1, "data": 3}, "expected batches"),
    ],
)
def test_what_does_not_fit_together_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        planish.Budget(**{"data": DATA, **arguments})


def test_float32_has_to_reach_the_worst_value_itself() -> None:
    budget = planish.Budget(DATA, labels=[0], worst=75)
    with pytest.raises(ConfigError, match=r"float32 itself has 74\.5"):
        budget.limit(74.5)
    with pytest.raises(ConfigError, match="no number"):
        budget.limit(math.nan)


def test_a_build_needs_a_precision_to_spend_it_on() -> None:
    budget = planish.Budget(DATA, max_drop=1)
    assert BuildConfig(accuracy=budget, precision="best").accuracy is budget
    with pytest.raises(ConfigError, match="precision that it may be spent on"):
        BuildConfig(accuracy=budget)
    with pytest.raises(ConfigError, match=r"expected a planish\.Budget"):
        BuildConfig(accuracy=0.5, precision="best")  # type: ignore[arg-type]
