"""From a model to an engine: every stage by name, in order. Read this first."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from planish.accuracy_bench import AccuracyBench, with_timing_cache
from planish.backends.backend import Backend, backend_for
from planish.build_clock import BuildClock
from planish.calibration_bench import CalibrationBench
from planish.config import BuildConfig
from planish.engine.parts import EngineParts
from planish.errors import ConfigError
from planish.importers.importer import Model, read_model
from planish.ir.graph import Graph
from planish.ir.text import to_text
from planish.passes.graph_pass import PassStatistics, run_pipeline
from planish.passes.pipeline import name_tensors, optimize, preparation
from planish.plan.schedule import make_plan
from planish.plan.serialize import plan_to_json
from planish.plan.weights import WeightPool
from planish.quantize.budget import Budget
from planish.quantize.calibrators import Batches, EntropyCalibrator2
from planish.quantize.precision_search import PrecisionSearch
from planish.quantize.request import PrecisionRequest, levels_of
from planish.quantize.scheme import Ranges
from planish.quantize.sensitivity import rank_layers
from planish.report import BuildReport, StageReport
from planish.report_builder import choice_lines, make_report, precision_of
from planish.report_sensitivity import LayerError, Sensitivity
from planish.runtime.engine import Engine
from planish.tactics.select import choices_of, group_regions, kernels_of
from planish.tactics.target import Target
from planish.tactics.tune import tune

RANKED = ("int8", "bf16", "fp16")  # precisions that `sensitivity` knows
RANKED_SAMPLES = 8


def build(model: Model, config: BuildConfig | None = None) -> Engine:
    """Turn a trained model into an engine for this machine.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        An ONNX model, opset 7 or newer; external data is found beside the file. Or a TensorFlow
        model: a SavedModel folder, a frozen graph (.pb), a Keras file (.keras, .h5; these need
        TensorFlow).
    config : BuildConfig, optional
        Precision, profiles of dynamic shapes, time budget, tuning and so on.

    Returns
    -------
    Engine
        Ready to run; `engine.report` says what every stage did, `engine.save` writes it.

    Raises
    ------
    PlanishError
        A subclass that says what is wrong, where, and how to fix it.
    """
    config = config or BuildConfig()
    if config.accuracy is not None:
        return _within_budget(model, config, config.accuracy)
    parts, _ = _parts_of(model, config)
    return Engine(parts)


def _parts_of(
    model: Model, config: BuildConfig, ranges: Ranges | None = None
) -> tuple[EngineParts, PrecisionRequest]:
    """Build an engine in one precision; `ranges` of activations are known from an earlier build."""
    clock = BuildClock(config)
    backend = backend_for(config.device)
    target = backend.detect(config.threads, config.target)

    with clock.stage("import"):
        graph = read_model(model, config.profiles, config.signature, config.tags)
        imported = len(graph)
    with clock.stage("passes"):
        passes, request = lower(graph, config, backend, target, clock, ranges)
        clock.tell(2, passes)
    with clock.stage("tactics"):
        groups = group_regions(graph, target, config, backend.tactics())
    with clock.stage("tune"):
        tuned = tune(groups, target, config, backend, clock)
    with clock.stage("plan"):
        constants = WeightPool()
        choices = choices_of(groups, target, constants, config.workspace_limit)
        clock.tell(3, choice_lines(choices))
        plan = make_plan(graph, choices, constants.bytes)
        clock.dump("plan.json", plan_to_json(plan))
    with clock.stage("compile"):
        kernels = kernels_of(graph, plan, choices)
        code = backend.assemble(plan, kernels, target) if kernels else None
        clock.tell(4, [code.source] if code else [])
    parts = EngineParts(plan, constants.memory(), code, to_text(graph))
    if tuned.startswith("measure") and config.max_aux_streams != 0:
        with clock.stage("streams"):
            plan = backend.overlap(
                parts,
                lambda streams: make_plan(graph, choices, constants.bytes, streams),
                config.max_aux_streams,
            )

    request.check({precision_of(choice) for choice in choices.values()})
    report = make_report(
        model, imported, graph.notes, passes, choices, plan, target, config, clock, tuned, request
    )
    return replace(parts, plan=plan, report=report.to_dict()), request


def _within_budget(model: Model, config: BuildConfig, budget: Budget) -> Engine:
    """Search the fastest mix of precisions; `planish.quantize.precision_search` says how."""
    started = time.monotonic()
    target = backend_for(config.device).detect(config.threads, config.target)
    levels = levels_of(config.precision, target)
    if "int8" in levels and config.calibrator is None:
        config = replace(config, calibrator=EntropyCalibrator2(budget.batches))

    def rank(config: BuildConfig, ranges: Ranges | None) -> Sequence[LayerError]:
        return _rank(model, config, budget.batches, RANKED_SAMPLES, ranges).layers

    with with_timing_cache(config) as cached:
        bench = AccuracyBench(cached, lambda config, ranges: _parts_of(model, config, ranges), rank)
        parts, found = PrecisionSearch(budget, config.precision, levels, bench).run()
    report = replace(BuildReport.from_dict(parts.report), accuracy=found)
    seconds = time.monotonic() - started
    report = replace(report, stages=(*report.stages, StageReport("search", round(seconds, 3))))
    return Engine(replace(parts, report=report.to_dict()))


def lower(
    graph: Graph,
    config: BuildConfig,
    backend: Backend,
    target: Target,
    clock: BuildClock,
    ranges: Ranges | None = None,
) -> tuple[list[PassStatistics], PrecisionRequest]:
    """Run all passes on an imported graph, in the precision that `config` asks for.

    Ranges of activations that are known already are not measured again.

    Returns
    -------
    list of PassStatistics
        What every pass did.
    PrecisionRequest
        What came of the precision; its notes are for the user.
    """
    request = PrecisionRequest.of(config, target, graph)
    request.ranges = ranges
    bench = CalibrationBench(config, clock)
    floats = replace(config, precision=request.floats, layer_precisions=request.layer_precisions)
    passes = optimize(
        graph, floats, backend.prints, lambda g: request.lower(g, backend.prints, bench)
    )
    return passes, request


def calibrate(model: Model, config: BuildConfig) -> Ranges:
    """Return the ranges of a model's activations, as a build with `config` would find them.

    Parameters
    ----------
    model
        As for `build`, in float32.
    config : BuildConfig
        With a calibrator, and "int8" or "best" as the precision.

    Raises
    ------
    PlanishError
        A subclass that says what is wrong, where, and how to fix it.
    """
    config = replace(config, corrections=False)
    clock = BuildClock(config)
    backend = backend_for(config.device)
    target = backend.detect(config.threads, config.target)
    with _simplified(model, config, target, clock) as (graph, request):
        bench = CalibrationBench(config, clock, share=1.0)
        request.quantize(graph, backend.prints, bench)
    if request.ranges is None:
        raise ConfigError(
            "there is nothing to calibrate" + "".join(f"; {note}" for note in request.notes),
            where="planish.calibrate",
            fix='give BuildConfig(precision="int8", calibrator=...) and a float32 model',
        )
    return request.ranges


def sensitivity(
    model: Model, config: BuildConfig, batches: Batches, *, samples: int = RANKED_SAMPLES
) -> Sensitivity:
    """Return the error that each layer brings when it alone runs in the lower precision.

    Parameters
    ----------
    model
        As for `build`, in float32.
    config : BuildConfig
        With "int8" as the precision: its calibrator gives the scales; without one they come from
        `batches`, by `EntropyCalibrator2`. Or with "bf16" or "fp16". The time budget ends the
        ranking early.
    batches : iterable, or function that returns one
        The data that layers are ranked on, as for a calibrator.
    samples : int
        How many samples of them are run, once for every layer.

    Raises
    ------
    PlanishError
        A subclass that says what is wrong, where, and how to fix it.
    """
    if config.precision not in RANKED or samples < 1:
        raise ConfigError(
            f"cannot rank layers for precision={config.precision!r} on {samples} samples",
            where="planish.sensitivity",
            fix=f"give BuildConfig(precision=...) one of {', '.join(RANKED)}, and at least one "
            "sample",
        )
    data = EntropyCalibrator2(batches)
    config = replace(config, calibrator=config.calibrator or data)
    return _rank(model, config, batches, samples)


def _rank(
    model: Model,
    config: BuildConfig,
    batches: Batches,
    samples: int,
    ranges: Ranges | None = None,
) -> Sensitivity:
    clock = BuildClock(config)
    backend = backend_for(config.device)
    target = backend.detect(config.threads, config.target)
    data = EntropyCalibrator2(batches)
    with _simplified(model, config, target, clock) as (graph, request):
        request.ranges = ranges
        first = CalibrationBench(config, clock)
        then = CalibrationBench(config, clock, share=1.0)
        return rank_layers(graph, request, backend.prints, (first, then), data.batches, samples)


@contextmanager
def _simplified(
    model: Model, config: BuildConfig, target: Target, clock: BuildClock
) -> Iterator[tuple[Graph, PrecisionRequest]]:
    """Yield a model in its simplest form and its request, inside of the stage of passes."""
    with clock.stage("import"):
        graph = read_model(model, config.profiles, config.signature, config.tags)
    with clock.stage("passes"):
        request = PrecisionRequest.of(config, target, graph)
        name_tensors(graph)
        run_pipeline(graph, preparation(), check=config.verify)
        yield graph, request
