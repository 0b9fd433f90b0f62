"""`planish calibrate`: the scales of a model's activations, as a calibration cache."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from planish.builder import calibrate
from planish.cli.calibration import (
    CalibratorName,
    Data,
    LayerPrecisions,
    Preprocess,
    make_calibrator,
    parse_layer_precisions,
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
    interrupt_flag,
    parse_profiles,
    parse_tags,
    progress_bar,
    writing,
)
from planish.config import BuildConfig
from planish.engine.writer import check_writable
from planish.quantize.cache import format_cache
from planish.quantize.scheme import Ranges
from planish.report_builder import tensor_reports
from planish.report_calibration import tensor_lines, tensor_pictures


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("calibrate")(guarded(calibrate_command))


def calibrate_command(
    model: Annotated[Path, typer.Argument(help="The model, in float32.")],
    data: Data,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The cache; by default MODEL with .calibration."),
    ] = None,
    calibrator: CalibratorName = "entropy2",
    preprocess: Preprocess = None,
    layer_precision: LayerPrecisions = None,
    profile: Profiles = None,
    signature: Signature = None,
    tags: Tags = None,
    threads: Threads = None,
    time_budget: TimeBudget = 600.0,
    histograms: Annotated[
        Path | None, typer.Option(help="Write the histograms to this .npz file.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the histograms as pictures to this .html file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run MODEL on DATA and write a calibration cache. Ctrl-C ends early and keeps the result."""
    path = output or model.with_suffix(".calibration")
    for each in (path, histograms, report):
        if each is not None:
            check_writable(each)
    chosen = make_calibrator(calibrator, data, preprocess, None)
    cancelled, handler = interrupt_flag()
    config = BuildConfig(
        precision="int8", calibrator=chosen, profiles=parse_profiles(profile), threads=threads,
        layer_precisions=parse_layer_precisions(layer_precision), signature=signature,
        tags=parse_tags(tags), time_budget=time_budget, cancel=cancelled.is_set,
    )  # fmt: skip
    previous = signal.signal(signal.SIGINT, handler)
    try:
        with progress_bar() as show:
            ranges = calibrate(model, replace(config, progress=show))
    finally:
        signal.signal(signal.SIGINT, previous)
    with writing(path, "calibration cache") as file:
        file.write(format_cache(ranges).decode())
    if histograms is not None:
        ranges.save_histograms(histograms)
    _tell(ranges, path, report, as_json)


def _tell(ranges: Ranges, path: Path, report: Path | None, as_json: bool) -> None:
    tensors = tensor_reports(ranges)
    if report is not None:
        with writing(report, "report") as file:
            file.write("<!doctype html><meta charset=utf-8><title>Planish calibration</title>")
            file.write(tensor_pictures(tensors, ranges.title))
    data = {
        "cache": str(path),
        "algorithm": ranges.algorithm,
        "batches": ranges.batches,
        "thresholds": ranges.thresholds,
        "notes": list(ranges.notes),
    }
    lines = [*tensor_lines(tensors, ranges.title), *ranges.notes, f"wrote {path}"]
    emit(data, as_json, "\n".join(lines))
