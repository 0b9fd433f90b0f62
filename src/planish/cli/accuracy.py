"""The accuracy budget on the command line: data, labels, metric, and how much it may fall."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from planish.cli.calibration import imported, read_data
from planish.errors import ConfigError, InputError
from planish.quantize.budget import COMPARISONS, SCORES, Budget

Array = np.ndarray[Any, Any]

MaxDrop = Annotated[
    str | None,
    typer.Option(
        metavar="DROP|PERCENT%",
        help="Search the fastest mix of precisions whose metric falls no more than this below "
        "float32's: in the metric's unit (0.5), or as a share of its value (1%).",
    ),
]
Worst = Annotated[
    float | None,
    typer.Option(help="As --max-drop, but the worst value of the metric that will do."),
]
MetricName = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="NAME|MODULE:FUNCTION",
        help=f"One of {', '.join((*SCORES, *COMPARISONS))}, or a function of (outputs, labels), "
        "the higher the better. By default top1 with labels, else cosine (to float32's outputs).",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="What is right for each sample of the accuracy data, in their order: a .npy or .npz "
        "file of one array, or text with a number on each line."
    ),
]
AccuracyData = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="Data that the metric is measured on, in any form of --calibrate; by default those "
        "that calibrate.",
    ),
]


def make_budget(
    max_drop: str | None,
    worst: float | None,
    metric: str | None,
    labels: Path | None,
    data: str | None,
    preprocess: str | None,
) -> Budget | None:
    """Return the budget that the options describe; None when they give no limit.

    Raises
    ------
    ConfigError
        When options lack others, or one cannot be read.
    """
    if max_drop is None and worst is None:
        if metric is not None or labels is not None:
            raise ConfigError(
                "a metric and labels need to know how accurate is accurate enough",
                where="--metric, --labels",
                fix="add --max-drop 0.5, or --worst 75",
            )
        return None
    if data is None:
        raise ConfigError(
            "there are no data to measure the accuracy on",
            where="--max-drop" if worst is None else "--worst",
            fix="add --accuracy-data DATA, or --calibrate DATA for both",
        )
    own = metric is not None and ":" in metric
    return Budget(
        read_data(data, preprocess),
        labels=None if labels is None else read_labels(labels),
        metric=imported(metric, "--metric") if own and metric is not None else metric,
        max_drop=None if max_drop is None else _drop(max_drop),
        worst=worst,
    )


def read_labels(path: Path) -> Array:
    """Return the only array of a .npy or .npz file, or the numbers in a text."""
    try:
        if path.suffix not in (".npy", ".npz"):
            return np.loadtxt(path, dtype=np.int64, ndmin=1)
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"cannot read labels: {error}",
            where=str(path),
            fix="give a .npy file, or a text with a whole number on each line",
        ) from error
    if len(arrays) != 1:
        raise InputError(
            f"the file holds {len(arrays)} arrays: {', '.join(arrays) or 'none'}",
            where=str(path),
            fix="give a file with the labels alone",
        )
    return next(iter(arrays.values()))


def _drop(text: str) -> float | str:
    """Return a number, or the text of a share for `Budget` to read."""
    try:
        return float(text)
    except ValueError:
        return text
