"""Metrics of engines, against the same numbers worked out in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import planish
from planish.config import BuildConfig
from planish.errors import ConfigError, InputError
from planish.quantize.evaluation import Evaluation
from planish.runtime.engine import Engine
from tests import small_models

Array = np.ndarray[Any, Any]

SCORES = np.random.default_rng(0).standard_normal((7, 9)).astype(np.float32)


def model(scale: float = 1.0, batch: int | str = "N") -> onnx.ModelProto:
    """The identity, but for a factor of the first column and a constant one below."""
    factors = np.ones(9, np.float32)
    factors[0] = scale
    nodes = [helper.make_node("Mul", ["x", "f"], ["y"])]
    return small_models.model(nodes, {"x": [batch, 9]}, {"y": [batch, 9]}, {"f": factors})


@pytest.fixture(scope="module")
def engines() -> dict[str, Engine]:
    config = BuildConfig(tune="off", threads=1)
    return {
        "exact": planish.build(model(), config),
        "scaled": planish.build(model(1.5), config),
        "pairs": planish.build(model(1.5, batch=2), config),
        "broken": planish.build(model(float("inf")), config),
    }


def score(engine: Engine, exact: Engine, **budget: Any) -> float:
    limit = {"worst": 40} if budget.get("metric") == "snr" else {"max_drop": 1}
    limit = {"worst": 1.0} if budget.get("metric") == "max_error" else limit
    evaluation = Evaluation(planish.Budget(SCORES, **limit, **budget))
    evaluation.of_float32(exact)
    return evaluation.of(engine)


@pytest.mark.parametrize(
    "data", [SCORES, {"x": SCORES}, [SCORES[:3], SCORES[3:]], list(SCORES[:, None])]
)
@pytest.mark.parametrize("which", ["exact", "pairs"])
def test_all_samples_are_seen_in_order(engines: dict[str, Engine], data: Any, which: str) -> None:
    seen: list[Array] = []

    def metric(outputs: dict[str, Array], labels: Any) -> float:
        assert labels == "mine"
        seen.append(outputs["y"])
        return 1.0

    evaluation = Evaluation(planish.Budget(data, labels="mine", metric=metric, max_drop=0))
    assert evaluation.of_float32(engines[which]) == 1.0
    assert evaluation.samples == 7
    expected = SCORES * np.float32([1.0 if which == "exact" else 1.5] + 8 * [1.0])
    np.testing.assert_array_equal(seen[0], expected)
    assert len(evaluation.first["x"]) == (1 if which == "exact" else 2)


@pytest.mark.parametrize(("metric", "best"), [("top1", 1), ("top5", 5)])
def test_shares_of_right_answers(engines: dict[str, Engine], metric: str, best: int) -> None:
    labels = np.random.default_rng(1).integers(0, 9, 7)
    order = np.argsort(-SCORES, axis=1)[:, :best]
    expected = 100 * float((order == labels[:, None]).any(axis=1).mean())
    assert score(engines["exact"], engines["exact"], labels=labels, metric=metric) == expected


def test_equal_scores_count_as_argmax_counts_them() -> None:
    engine = planish.build(model(), BuildConfig(tune="off", threads=1))
    data = np.zeros((3, 9), np.float32)
    data[1, 4] = data[1, 6] = 1
    budget = planish.Budget(data, labels=[0, 6, 1], metric="top1", max_drop=1)
    assert Evaluation(budget).of_float32(engine) == pytest.approx(100 / 3)
    budget = planish.Budget(data, labels=[0, 6, 8], metric="top5", max_drop=1)
    assert Evaluation(budget).of_float32(engine) == pytest.approx(200 / 3)


def test_agreement_with_float32(engines: dict[str, Engine]) -> None:
    exact = SCORES.astype(np.float64)
    scaled = exact * np.array([1.5] + 8 * [1.0])
    cosine = (exact * scaled).sum() / np.linalg.norm(exact) / np.linalg.norm(scaled)
    noise = 10 * np.log10((exact**2).sum() / ((exact - scaled) ** 2).sum())
    largest = np.abs(exact - scaled).max() / np.abs(exact).max()
    pair = engines["scaled"], engines["exact"]
    assert score(*pair, metric="cosine") == pytest.approx(cosine)
    assert score(*pair, metric="snr") == pytest.approx(noise)
    assert score(*pair, metric="max_error") == pytest.approx(largest)
    assert score(engines["exact"], engines["exact"], metric="snr") == np.inf
    assert score(engines["exact"], engines["exact"], metric="max_error") == 0


def test_no_number_is_never_accurate(engines: dict[str, Engine]) -> None:
    pair = engines["broken"], engines["exact"]
    assert score(*pair, metric="snr") == -np.inf
    assert score(*pair, metric="cosine") == 0
    assert score(*pair, metric="max_error") == np.inf
    zero = np.zeros(7, int)
    assert score(*pair, metric="top1", labels=zero) <= 100 * float((SCORES[:, 0] > 0).mean())


@pytest.mark.parametrize(
    ("labels", "says"),
    [([1, 2], "2 labels"), (np.full(7, 9), "9 classes"), (np.full(7, 1.0), "type float64")],
)
def test_labels_that_do_not_fit(
    engines: dict[str, Engine], labels: Sequence[Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        score(engines["exact"], engines["exact"], labels=labels)


def test_data_that_do_not_fit(engines: dict[str, Engine]) -> None:
    def first(data: Any, **how: Any) -> float:
        return Evaluation(planish.Budget(data, max_drop=1, **how)).of_float32(engines["exact"])

    with pytest.raises(ConfigError, match="no data"):
        first([])
    with pytest.raises(InputError, match="dtype float64"):
        first([SCORES.astype(np.float64)])
    with pytest.raises(InputError, match="batch 1 of the accuracy data"):
        first([SCORES, SCORES[0]])
    with pytest.raises(ConfigError, match="returned a str"):
        first([SCORES], metric=lambda outputs, labels: "good")
