"""`planish debug`: why a model's engine computes what it computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from planish.builder import sensitivity
from planish.cli.calibration import (
    CalibratorName,
    Data,
    LayerPrecisions,
    Preprocess,
    make_calibrator,
    parse_layer_precisions,
    read_data,
)
from planish.cli.common import (
    AsJson,
    Profiles,
    Signature,
    Tags,
    Threads,
    TimeBudget,
    emit,
    guarded,
    parse_profiles,
    parse_tags,
    progress_bar,
    writing,
)
from planish.config import BuildConfig
from planish.engine.writer import check_writable


def register(app: typer.Typer) -> None:
    """Add the verb and its parts."""
    debug = typer.Typer(no_args_is_help=True, help="Find out where a model loses accuracy.")
    debug.command("precision")(guarded(precision_command))
    app.add_typer(debug, name="debug")


def precision_command(
    model: Annotated[Path, typer.Argument(help="The model, in float32.")],
    data: Data,
    precision: Annotated[
        str, typer.Option(help="The lower precision: int8, bf16 or fp16.")
    ] = "int8",
    calibrator: CalibratorName = "entropy2",
    preprocess: Preprocess = None,
    samples: Annotated[
        int, typer.Option(min=1, help="Samples of the data to run, once for every layer.")
    ] = 8,
    layer_precision: LayerPrecisions = None,
    profile: Profiles = None,
    signature: Signature = None,
    tags: Tags = None,
    threads: Threads = None,
    time_budget: TimeBudget = 600.0,
    html: Annotated[
        Path | None, typer.Option(help="Write the ranking with bars to this .html file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rank the layers of MODEL by the error each brings when it alone runs in lower precision.

    The error is that of the model's outputs on DATA, against float32. Keep a layer that is to
    blame in float32 with --layer-precision NAME=fp32.
    """
    if html is not None:
        check_writable(html)
    chosen = make_calibrator(calibrator, data, preprocess, None)
    config = BuildConfig(
        precision=precision, calibrator=chosen, profiles=parse_profiles(profile), threads=threads,
        layer_precisions=parse_layer_precisions(layer_precision), signature=signature,
        tags=parse_tags(tags), time_budget=time_budget,
    )  # fmt: skip
    with progress_bar() as show:
        found = sensitivity(
            model, replace(config, progress=show), read_data(data, preprocess), samples=samples
        )
    if html is not None:
        with writing(html, "ranking") as file:
            file.write(found.to_html())
    emit(found.to_dict(), as_json, str(found))
