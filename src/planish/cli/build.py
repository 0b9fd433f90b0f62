"""`planish build`: a model becomes an engine file."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from planish.builder import build
from planish.cli.accuracy import AccuracyData, Labels, MaxDrop, MetricName, Worst, make_budget
from planish.cli.calibration import (
    Calibrate,
    CalibrationCache,
    CalibratorName,
    LayerPrecisions,
    Preprocess,
    Strict,
    make_calibrator,
    parse_layer_precisions,
)
from planish.cli.common import (
    AsJson,
    Device,
    Precision,
    Profiles,
    Signature,
    Tags,
    TargetName,
    Threads,
    TimeBudget,
    TimingCache,
    Tune,
    emit,
    guarded,
    interrupt_flag,
    is_engine,
    parse_profiles,
    parse_tags,
    progress_bar,
    writing,
)
from planish.cli.weights import WeightGroup, WeightMethod, Weights, make_weights
from planish.config import BuildConfig
from planish.engine.writer import check_writable
from planish.errors import ConfigError
from planish.report import BuildReport
from planish.runtime.engine import Engine

Model = Annotated[
    Path,
    typer.Argument(
        help="An ONNX model, a TensorFlow SavedModel folder, a frozen graph (.pb), or a Keras file."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("build")(guarded(build_command))


def build_command(
    model: Annotated[
        Path,
        typer.Argument(
            help="An ONNX model, a TensorFlow SavedModel folder, a frozen "
            "graph (.pb) or a Keras file (.keras, .h5)."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The engine file; by default MODEL with .plan."),
    ] = None,
    device: Device = "cpu",
    target: TargetName = None,
    precision: Precision = "fp32",
    calibrate: Calibrate = None,
    calibrator: CalibratorName = "entropy2",
    calibration_cache: CalibrationCache = None,
    preprocess: Preprocess = None,
    max_drop: MaxDrop = None,
    worst: Worst = None,
    metric: MetricName = None,
    labels: Labels = None,
    accuracy_data: AccuracyData = None,
    weights: Weights = None,
    weight_group: WeightGroup = None,
    weight_method: WeightMethod = "round",
    layer_precision: LayerPrecisions = None,
    strict: Strict = False,
    profile: Profiles = None,
    signature: Signature = None,
    tags: Tags = None,
    threads: Threads = None,
    time_budget: TimeBudget = 120.0,
    tune: Tune = "measure",
    timing_cache: TimingCache = None,
    workspace_limit: Annotated[
        int | None, typer.Option(help="Bytes of scratch memory that one kernel may use.")
    ] = None,
    fallback: Annotated[
        str,
        typer.Option(
            help="What has no kernel: reference runs it in numpy with a warning, error refuses."
        ),
    ] = "reference",
    tactic_sources: Annotated[
        str | None, typer.Option(help="Choose from these tactics only: names with commas.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the report: .html, .json or text.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build an engine from MODEL. Ctrl-C ends tuning and keeps the engine so far."""
    path = output or model.with_suffix(".plan")
    if is_engine(model):
        raise ConfigError(f"{model} is an engine already", fix="build from its model")
    check_writable(path)
    if report is not None:
        check_writable(report)
    cancelled, handler = interrupt_flag()
    config = BuildConfig(
        device=device, target=target,
        precision=precision, strict=strict,
        calibrator=make_calibrator(calibrator, calibrate, preprocess, calibration_cache),
        accuracy=make_budget(
            max_drop, worst, metric, labels, accuracy_data or calibrate, preprocess
        ),
        weights=make_weights(weights, weight_group, weight_method),
        layer_precisions=parse_layer_precisions(layer_precision),
        profiles=parse_profiles(profile), threads=threads,
        time_budget=time_budget, workspace_limit=workspace_limit, tune=tune,
        signature=signature, tags=parse_tags(tags),
        timing_cache=timing_cache, fallback=fallback, cancel=cancelled.is_set,
        tactic_sources=tuple(tactic_sources.split(",")) if tactic_sources else None,
    )  # fmt: skip
    previous = signal.signal(signal.SIGINT, handler)
    try:
        engine = _build(model, config)
    finally:
        signal.signal(signal.SIGINT, previous)
    engine.save(path)
    size = path.stat().st_size
    if report is not None:
        _write_report(engine.report, report)
    emit({"engine": str(path), "bytes": size, "report": engine.report.to_dict()}, as_json,
         f"{engine.report.to_text()}\nwrote {path} ({size:,d} bytes)")  # fmt: skip


def _build(model: Path, config: BuildConfig) -> Engine:
    with progress_bar() as show:
        return build(model, replace(config, progress=show))


def _write_report(report: BuildReport, path: Path) -> None:
    texts = {".html": report.to_html, ".json": report.to_json}
    with writing(path, "report") as file:
        file.write(texts.get(path.suffix, report.to_text)())
