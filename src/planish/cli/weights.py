"""Weights in few bits on the command line."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from planish.config import WEIGHTS
from planish.errors import ConfigError
from planish.quantize.weight_only import WeightOnly

Weights = Annotated[
    str | None,
    typer.Option(
        help=f"Store weights of large matrix products in few bits: {' or '.join(WEIGHTS)}."
    ),
]
WeightGroup = Annotated[
    int | None,
    typer.Option(help="Rows of weights that share a scale: a multiple of 8, or 0 for a column."),
]
WeightMethod = Annotated[
    str, typer.Option(help="round: to nearest. gptq: by the data of --calibrate.")
]


def make_weights(weights: str | None, group: int | None, method: str) -> str | WeightOnly | None:
    """Return what the options ask for; raise ConfigError when they do not fit together."""
    if weights is None:
        if group is not None or method != "round":
            raise ConfigError(
                "there is nothing to group or to round",
                where="--weight-group, --weight-method",
                fix="add --weights int4",
            )
        return None
    if weights not in WEIGHTS:
        return weights  # BuildConfig refuses it
    return replace(WeightOnly.of(weights), group=group, method=method)
