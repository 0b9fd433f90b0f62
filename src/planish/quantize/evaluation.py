"""Runs engines over the data of a `Budget`, and says how good their outputs are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from planish.errors import ConfigError, InputError
from planish.quantize.agreement import Agreement
from planish.quantize.budget import COMPARISONS, SCORES, Budget
from planish.quantize.data import BatchAxis, Inputs, batch_axis, named, pieces
from planish.runtime.engine import Engine

Array = np.ndarray[Any, Any]

AT_ONCE = 32  # samples in one inference
BEST_OF = {"top1": 1, "top5": 5}


@dataclass
class Evaluation:
    """Knows the metric of float32 and measures that of other engines.

    Attributes
    ----------
    budget : Budget
    samples : int
        Samples of the data, or batches where the model has no batch axis.
    first : dict of array
        The first samples, as many as the profile says to tune for: something to time engines with.
    """

    budget: Budget
    samples: int = 0
    first: Inputs = field(default_factory=dict)
    _float32: dict[str, Array] = field(default_factory=dict)

    def of_float32(self, engine: Engine) -> float:
        """Return the metric of the float32 engine, whose outputs others are compared with."""
        self._float32 = self._outputs(engine)
        return self._score(self._float32)

    def of(self, engine: Engine) -> float:
        """Return the metric of another engine of the same model, after that of float32."""
        return self._score(self._outputs(engine))

    def _outputs(self, engine: Engine) -> dict[str, Array]:
        """Return every output for all data, joined along the first axis."""
        parts: dict[str, list[Array]] = {info.name: [] for info in engine.outputs}
        axis = batch_axis(engine.inputs, engine.ranges, AT_ONCE)
        self.samples = 0
        for inputs, kept in self._inputs(engine, axis):
            results = engine.run(inputs)
            size = len(next(iter(inputs.values()))) if axis.exists else 0
            for name, array in results.items():
                of_samples = axis.exists and array.ndim > 0 and len(array) == size
                parts[name].append(array[:kept] if of_samples else np.atleast_1d(array))
            self.samples += kept
        if not self.samples:
            raise ConfigError(
                "there are no data to measure the accuracy on",
                where="planish.Budget",
                fix="give at least one batch, in a list or a function that returns an iterator",
            )
        return {name: _joined(name, arrays) for name, arrays in parts.items()}

    def _inputs(self, engine: Engine, axis: BatchAxis) -> Iterator[tuple[Inputs, int]]:
        """Yield what the engine runs at once, and how many samples of it are no filling."""
        for index, batch in enumerate(self.budget.batches()):
            where = f"batch {index} of the accuracy data"
            arrays = named(batch, engine.inputs, where)
            left = len(next(iter(arrays.values()))) if axis.exists else 1
            for piece in pieces(arrays, axis, where):
                self.first = self.first or _typical(piece, engine, axis)
                size = len(next(iter(piece.values()))) if axis.exists else 1
                yield piece, min(size, left)
                left -= size

    def _score(self, outputs: dict[str, Array]) -> float:
        metric = self.budget.metric
        if metric in SCORES:
            return _share_right(outputs, self.budget.labels, BEST_OF[str(metric)])
        if metric in COMPARISONS:
            return self._comparison(str(metric), outputs)
        if not callable(metric):  # Budget has checked it
            raise TypeError(metric)
        value = metric(outputs, self.budget.labels)
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"the metric {self.budget.name} returned a {type(value).__name__}, expected a "
                "number",
                where="planish.Budget",
                fix="return float(...)",
            ) from error

    def _comparison(self, metric: str, outputs: dict[str, Array]) -> float:
        found = []
        for name, want in self._float32.items():
            agreement = Agreement()
            got = outputs[name]
            if want.dtype.kind not in "fV":  # V: bfloat16 and its kin
                continue
            if want.shape != got.shape:  # the number of results depends on their values
                agreement.noise = agreement.error = np.inf
            else:
                agreement.add(want, got)
            found.append(agreement)
        if not found:
            raise ConfigError(
                f"no output is floating point, so that {metric} can compare none",
                where="planish.Budget",
                fix="give a function of (outputs, labels) as the metric",
            )
        if metric == "max_error":
            return max(each.relative_error for each in found)
        return min(each.cosine if metric == "cosine" else each.decibels for each in found)


def _typical(piece: Inputs, engine: Engine, axis: BatchAxis) -> Inputs:
    """Return as many samples of a piece as the engine is tuned for."""
    if not axis.exists:
        return piece
    (_, opt, _) = engine.ranges.get(str(engine.inputs[0].shape[0]), (0, axis.largest, 0))
    return {name: array[: max(opt, axis.smallest)] for name, array in piece.items()}


def _joined(name: str, arrays: list[Array]) -> Array:
    if len({array.shape[1:] for array in arrays}) > 1:
        shapes = ", ".join(str(list(array.shape)) for array in arrays[:3])
        raise InputError(
            f"the output {name!r} has another shape for each batch: {shapes}, ...",
            where="planish.Budget",
            fix="give data of one shape, all but the first axis",
        )
    return np.concatenate(arrays)


def _share_right(outputs: dict[str, Array], labels: Any, best: int) -> float:
    """Return the percent of samples whose label is among the `best` highest scores."""
    if len(outputs) != 1:
        raise ConfigError(
            f"the model has {len(outputs)} outputs ({', '.join(outputs)}), and top{best} knows "
            "not which are the scores",
            where="planish.Budget",
            fix="give a function of (outputs, labels) as the metric",
        )
    (scores,) = outputs.values()
    scores = scores.reshape(len(scores), -1)
    wanted = np.asarray(labels).reshape(-1)
    if len(wanted) != len(scores) or wanted.dtype.kind not in "iu":
        raise InputError(
            f"there are {len(wanted)} labels of type {wanted.dtype} for {len(scores)} samples",
            where="planish.Budget, labels",
            fix="give the number of its class for each sample of the data, in their order",
        )
    if len(wanted) and not 0 <= wanted.min() <= wanted.max() < scores.shape[1]:
        raise InputError(
            f"labels are {wanted.min()} to {wanted.max()}, and the model has "
            f"{scores.shape[1]} classes",
            where="planish.Budget, labels",
            fix="give numbers of classes that begin at 0",
        )
    right = np.take_along_axis(scores, wanted[:, None].astype(np.int64), axis=1)
    with np.errstate(invalid="ignore"):
        better = (scores > right).sum(axis=1) + (~np.isfinite(right[:, 0])) * scores.shape[1]
    # among equal scores the first class counts, as with argmax
    classes = np.arange(scores.shape[1])
    better += ((scores == right) & (classes < wanted[:, None])).sum(axis=1)
    return 100 * float((better < best).mean())
