"""The search for a mix of precisions, on made-up engines whose accuracy and speed are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import planish
from planish.errors import BuildCancelled
from planish.quantize import precision_search
from planish.quantize.precision_search import PrecisionSearch
from planish.report_accuracy import AccuracyReport, curve_svg
from planish.report_sensitivity import LayerError

LEVELS = ("int8", "bf16", "fp32")


@dataclass
class Model:
    """Layers that lose accuracy in lower precision, and gain time there.

    `loss` is what a layer costs in int8 (a tenth of it in bf16), `blamed` what the ranking says
    of it (by default the truth), `gain` its microseconds between float32 and int8.
    """

    loss: Sequence[float]
    gain: Sequence[float]
    blamed: Sequence[float] | None = None
    seconds: float = 1000.0
    cancel_at: int = 10**6
    tunes: bool = True
    built: list[tuple[str, dict[str, str], bool]] = field(default_factory=list)
    rankings: list[str] = field(default_factory=list)
    doing: list[str] = field(default_factory=list)

    def parts(
        self, precision: str, raised: Mapping[str, str], *, tune: bool, share: float = 1.0
    ) -> Any:
        if len(self.built) == self.cancel_at:
            raise BuildCancelled("cancelled")
        self.built.append((precision, dict(raised), tune))
        lowest = {"best": "int8"}.get(precision, precision)
        return [raised.get(f"layer{i}", lowest) for i in range(len(self.loss))]

    def ranking(self, precision: str) -> list[LayerError]:
        self.rankings.append(precision)
        blamed = self.blamed or self.loss
        return [
            LayerError(f"layer{i}", -10 * math.log10(max(loss, 1e-12)), 1.0, 100, (f"layer{i}",))
            for i, loss in enumerate(blamed)
        ]

    def seconds_left(self) -> float:
        return self.seconds

    def progress(self, doing: str) -> None:
        self.doing.append(doing)

    def lost(self, layers: Sequence[str]) -> float:
        share = {"int8": 1.0, "bf16": 0.1, "fp32": 0.0}
        return sum(loss * share[each] for loss, each in zip(self.loss, layers, strict=True))

    def time(self, layers: Sequence[str]) -> list[float]:
        share = {"int8": 1.0, "bf16": 0.5, "fp32": 0.0}
        return [1000 - gain * share[each] for gain, each in zip(self.gain, layers, strict=True)]


class MadeUpEngine:
    """What the search asks of an engine; `parts` are the precisions of the layers."""

    model: Model

    def __init__(self, parts: list[str]) -> None:
        self.layers = parts
        times = self.model.time(parts)
        self.report = SimpleNamespace(
            layers=[
                SimpleNamespace(products=(f"layer{i}",), microseconds=time)
                for i, time in enumerate(times)
            ]
        )
        self.milliseconds = sum(times) / 1e3


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that searches a made-up model for what may be lost."""

    def run(model: Model, allowed: float, precision: str = "best") -> tuple[Any, AccuracyReport]:
        monkeypatch.setattr(MadeUpEngine, "model", model, raising=False)
        monkeypatch.setattr(precision_search, "Engine", MadeUpEngine)
        levels = {"best": LEVELS, "int8": ("int8", "fp32"), "bf16": ("bf16", "fp32")}[precision]
        budget = planish.Budget([np.zeros(1)], labels=[0], metric=lambda *_: 0.0, max_drop=allowed)
        made = PrecisionSearch(budget, precision, levels, model)
        evaluation: Any = SimpleNamespace(
            samples=1, first={},
            of_float32=lambda engine: 90.0,
            of=lambda engine: 90.0 - model.lost(engine.layers),
        )  # fmt: skip
        made.evaluation = evaluation
        monkeypatch.setattr(PrecisionSearch, "_milliseconds", lambda self, e: e.milliseconds)
        monkeypatch.setattr(PrecisionSearch, "_times", lambda self, e: [e.milliseconds])
        return made.run()

    return run


def test_what_is_accurate_at_once_is_not_searched(search: Any) -> None:
    model = Model(loss=[0.1, 0.1], gain=[100, 100])
    layers, report = search(model, 0.5)
    assert layers == ["int8", "int8"]
    assert [entry[:2] for entry in model.built] == [("fp32", {}), ("best", {})]
    assert model.rankings == []
    assert (report.before, report.after) == (90.0, pytest.approx(89.8))
    assert report.chosen == "best"


@pytest.mark.parametrize("culprit", range(7))
def test_one_bad_layer_is_found(search: Any, culprit: int) -> None:
    loss = [0.01] * 7
    loss[culprit] = 3.0
    layers, report = search(Model(loss, gain=[100] * 7), 0.5)
    expected = ["int8"] * 7
    expected[culprit] = "bf16"
    assert layers == expected
    assert [(layer.name, layer.precision) for layer in report.kept] == [(f"layer{culprit}", "bf16")]
    assert report.after >= report.limit == 89.5
    assert "1 of 7 layers in bf16" in report.chosen


def test_of_two_that_cost_alike_the_one_that_gains_less_is_raised(search: Any) -> None:
    layers, _ = search(Model(loss=[0.4, 0.4, 0.4], gain=[500, 10, 500]), 0.9, "int8")
    assert layers == ["int8", "fp32", "int8"]


def test_layers_that_are_slower_in_lower_precision_are_raised_first(search: Any) -> None:
    layers, report = search(Model(loss=[0.4, 0.3, 0.3], gain=[100, -50, 100]), 0.8, "int8")
    assert layers == ["int8", "fp32", "int8"]
    assert report.chosen == "int8, 1 of 3 layers in fp32"


def test_a_layer_that_was_blamed_in_vain_is_lowered_again(search: Any) -> None:
    model = Model(loss=[0.0, 3.0, 0.0, 0.0], gain=[400, 50, 100, 100], blamed=[99.0, 3.0, 0.1, 0.1])
    layers, report = search(model, 0.5, "int8")
    assert layers == ["int8", "fp32", "int8", "int8"]
    assert report.after == 90.0


def test_where_sixteen_bits_are_too_few_as_well_integers_are_given_up(search: Any) -> None:
    model = Model(loss=[1.0, 30.0, 1.0], gain=[100] * 3)
    layers, report = search(model, 0.5)
    assert layers == ["bf16", "fp32", "bf16"]
    assert model.rankings == ["bf16"]
    assert report.chosen == "bf16, 1 of 3 layers in fp32"


def test_float32_is_left_when_nothing_else_is_accurate(search: Any) -> None:
    layers, report = search(Model(loss=[9.0], gain=[100]), 0.5, "int8")
    assert layers == ["fp32"]
    assert report.chosen == "float32"
    assert "float32 is the fastest" in report.notes[-1]


def test_what_is_accurate_but_slower_is_not_taken(search: Any) -> None:
    layers, report = search(Model(loss=[0.1], gain=[-100]), 0.5, "int8")
    assert layers == ["fp32"]
    assert report.trials[1].accepted


def test_the_chosen_mix_is_tuned_at_the_end(search: Any) -> None:
    model = Model([3.0, 0.1, 0.1], gain=[100] * 3)
    search(model, 0.5)
    assert [tuned for _, _, tuned in model.built][:2] == [True, True]
    assert not any(tuned for _, _, tuned in model.built[2:-1])
    assert model.built[-1] == ("best", {"layer0": "bf16"}, True)


def test_without_tuning_nothing_is_built_twice(search: Any) -> None:
    model = Model([3.0, 0.1, 0.1], gain=[100] * 3, tunes=False)
    search(model, 0.5)
    mixes = [(precision, tuple(raised)) for precision, raised, _ in model.built]
    assert len(set(mixes)) == len(mixes)


def test_the_time_budget_ends_the_search(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model([3.0] * 8, gain=[100] * 8)
    left = iter([1000.0] * 3)
    monkeypatch.setattr(model, "seconds_left", lambda: next(left, -1.0))
    layers, report = search(model, 4.0, "int8")
    assert sum(each == "int8" for each in layers) in (0, 1)
    assert any("time budget ended the search" in note for note in report.notes)
    assert report.after >= report.limit


def test_cancelling_returns_the_best_so_far(search: Any) -> None:
    layers, report = search(Model([3.0] * 8, gain=[100] * 8, cancel_at=3), 13.0, "int8")
    assert layers.count("int8") == 4
    assert "cancelled" in report.notes[0]


def test_many_random_models_keep_their_budget(search: Any) -> None:
    generator = np.random.default_rng(0)
    for _ in range(60):
        count = int(generator.integers(1, 20))
        loss = generator.exponential(0.3, count).tolist()
        blamed = (np.array(loss) * generator.uniform(0.3, 3, count)).tolist()
        model = Model(loss, generator.uniform(-20, 300, count).tolist(), blamed)
        precision = str(generator.choice(["best", "int8", "bf16"]))
        layers, report = search(model, 1.0, precision)
        assert model.lost(layers) <= 1.0 + 1e-9
        assert report.after == pytest.approx(90.0 - model.lost(layers))
        accepted = [trial.milliseconds for trial in report.trials if trial.accepted]
        assert sum(model.time(layers)) / 1e3 == pytest.approx(min(accepted))


def test_the_curve_is_drawn(search: Any) -> None:
    _, report = search(Model([3.0, 0.1, 0.1], gain=[100] * 3), 0.5)
    picture = curve_svg(report)
    assert picture.count("<circle") == len(report.trials)
    assert picture.count('fill="#4a7"') == 1  # the chosen one
    text = "\n".join(report.lines())
    assert "layer0 is kept in bf16" in text
    assert text.count("beyond the budget") == sum(not t.accepted for t in report.trials)
