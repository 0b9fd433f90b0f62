"""What a build may give up of a model's accuracy: `BuildConfig.accuracy`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planish.errors import ConfigError

Array = np.ndarray[Any, Any]
Metric = Callable[[dict[str, Array], Any], float]

SCORES = ("top1", "top5")  # of the labelled samples, how many are right: percent
COMPARISONS = ("cosine", "snr", "max_error")  # of the outputs with float32's
LOWER_IS_BETTER = frozenset({"max_error"})


@dataclass(frozen=True)
class Budget:
    """The accuracy that lower precision may cost, measured by a metric on the user's own data.

    Give either `max_drop`, how far the metric may fall below float32's, or `worst`, the worst
    value that will do.

    Parameters
    ----------
    data : iterable, callable, array or dict
        Batches as for a calibrator, in a list or a function that returns an iterator, since they
        are read once for every engine that is tried; an array or a dict by input name is one
        batch. Best other data than those that calibrate.
    labels : array, optional
        What is right for each sample, in the order of `data`: classes for "top1" and "top5",
        anything for a metric of your own.
    metric : str or callable, optional
        - "top1", "top5": percent of the samples whose label is the class, or one of the five
          classes, of highest score. "top1" is the default with labels.
        - "cosine": of the angle between the outputs and float32's, all samples together. The
          default without labels.
        - "snr": signal-to-noise ratio of the outputs in decibels; needs `worst`, since float32's
          is infinite.
        - "max_error": largest difference of an output, as a share of its largest magnitude.
        - a function of all outputs (dict of arrays by name, samples along the first axis) and
          `labels` that returns a number.
    max_drop : float or str, optional
        In the metric's own unit (0.5 for half a point of top-1), or as a share of float32's value
        ("1%").
    worst : float, optional
        In the metric's own unit.
    higher_is_better : bool
        False for a function that measures a loss or an error.

    Raises
    ------
    ConfigError
        When these do not fit together.
    """

    data: Any
    labels: Any = None
    metric: str | Metric | None = None
    max_drop: float | str | None = None
    worst: float | None = None
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", self._checked_metric())
        if self.metric in LOWER_IS_BETTER:
            object.__setattr__(self, "higher_is_better", False)
        self._check_data()
        self._check_limit()

    @property
    def name(self) -> str:
        """The metric's name, for reports."""
        return self.metric if isinstance(self.metric, str) else _name_of(self.metric)

    @property
    def batches(self) -> Callable[[], Iterable[Any]]:
        """A function that returns the batches, from the first one on."""
        if isinstance(self.data, np.ndarray | Mapping):
            return lambda: [self.data]
        return self.data if callable(self.data) else lambda: self.data

    def limit(self, float32: float) -> float:
        """Return the worst value of the metric that is accepted, given that of float32.

        Raises
        ------
        ConfigError
            When float32 has no value, or does not reach `worst` itself.
        """
        if math.isnan(float32):
            raise ConfigError(
                f"the metric {self.name} of the float32 model is no number",
                where="BuildConfig.accuracy",
                fix="run the float32 model on these data: do labels and preprocessing fit?",
            )
        if self.worst is not None:
            if not self._is_as_good(float32, self.worst):
                raise ConfigError(
                    f"{self.name} has to reach {self.worst:g}, and float32 itself has {float32:g}",
                    where="BuildConfig.accuracy",
                    fix="give another `worst`, or `max_drop`; or repair data and labels",
                )
            return float(self.worst)
        drop = _drop(self.max_drop, float32)
        return float32 - drop if self.higher_is_better else float32 + drop

    def accepts(self, value: float, float32: float) -> bool:
        """Return whether an engine with this value of the metric is accurate enough."""
        return self._is_as_good(value, self.limit(float32))

    def _is_as_good(self, value: float, limit: float) -> bool:
        if math.isnan(value):
            return False
        allowed = 1e-9 * max(abs(limit), 1.0) if math.isfinite(limit) else 0.0  # of rounding
        return value >= limit - allowed if self.higher_is_better else value <= limit + allowed

    def _checked_metric(self) -> str | Metric:
        if self.metric is None:
            return COMPARISONS[0] if self.labels is None else SCORES[0]
        if callable(self.metric):
            return self.metric
        if self.metric not in (*SCORES, *COMPARISONS):
            raise _wrong(
                f"metric is {self.metric!r}, expected one of {', '.join((*SCORES, *COMPARISONS))}",
                "for anything else give a function of (outputs, labels) that returns a number",
            )
        if self.metric in SCORES and self.labels is None:
            raise _wrong(
                f"the metric {self.metric} compares with labels, and there are none",
                'give labels=[...], a class for each sample; or metric="cosine", which needs none',
            )
        if self.metric in COMPARISONS and self.labels is not None:
            raise _wrong(
                f"the metric {self.metric} compares with float32's outputs, not with labels",
                'leave labels out, or give metric="top1" or a function',
            )
        return self.metric

    def _check_data(self) -> None:
        data = self.data
        if isinstance(data, Iterator):
            raise _wrong(
                f"data is a {type(data).__name__}, which can be read only once",
                "give a list of batches, or a function that returns an iterator over them",
            )
        if isinstance(data, str | bytes | Path) or not (
            callable(data) or isinstance(data, Iterable)
        ):
            raise _wrong(
                f"data is a {type(data).__name__}, expected batches",
                "give a list of arrays, any other iterable of batches, or a function",
            )

    def _check_limit(self) -> None:
        if (self.max_drop is None) == (self.worst is None):
            raise _wrong(
                "a budget needs one of max_drop and worst",
                "give max_drop=0.5 (below float32, in the metric's unit), max_drop='1%', or "
                "worst=75.0",
            )
        if self.worst is not None and not _is_finite(self.worst):
            raise _wrong(f"worst is {self.worst!r}, expected a number", "worst=75.0, for example")
        if self.max_drop is None:
            return
        if _drop(self.max_drop, 1.0) < 0:
            raise _wrong(
                f"max_drop is {self.max_drop!r}, expected a number of at least 0 or a share "
                "like '1%'",
                "max_drop=0.5, for example",
            )
        if self.metric == "snr":
            raise _wrong(
                "float32's own signal-to-noise ratio is infinite, so that nothing can be said of "
                "a drop",
                "give worst=40, in decibels",
            )


def _drop(max_drop: object, float32: float) -> float:
    """Return what the metric may lose, in its own unit; -1 for what is neither number nor share."""
    if isinstance(max_drop, str):
        text = max_drop.strip()
        try:
            share = float(text.removesuffix("%")) / 100
        except ValueError:
            return -1.0
        valid = text.endswith("%") and math.isfinite(share) and share >= 0
        return share * abs(float32) if valid else -1.0
    return float(max_drop) if _is_finite(max_drop) else -1.0  # type: ignore[arg-type]


def _is_finite(value: object) -> bool:
    return (
        isinstance(value, int | float | np.number)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def _name_of(metric: object) -> str:
    return str(getattr(metric, "__name__", type(metric).__name__))


def _wrong(what: str, fix: str) -> ConfigError:
    return ConfigError(what, where="planish.Budget", fix=fix)
