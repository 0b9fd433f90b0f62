"""`planish inspect`: what a model or an engine consists of."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from planish.backends.backend import backend_for
from planish.build_clock import BuildClock
from planish.builder import build, lower
from planish.cli.calibration import (
    Calibrate,
    CalibrationCache,
    CalibratorName,
    Preprocess,
    make_calibrator,
)
from planish.cli.common import (
    AsJson,
    Device,
    EngineOrModel,
    Precision,
    Profiles,
    Signature,
    Tags,
    TargetName,
    complain,
    emit,
    guarded,
    is_engine,
    parse_profiles,
    parse_tags,
    table,
)
from planish.config import BuildConfig
from planish.engine.reader import read_engine
from planish.errors import ConfigError
from planish.importers.importer import read_model
from planish.ir.graph import Graph
from planish.ir.text import to_text
from planish.passes.graph_pass import PassStatistics, count_layers, graphs_of
from planish.plan.plan import TensorInfo
from planish.quantize.lint import review_quantization
from planish.report import BuildReport, LayerReport, PassReport, fusion_lines
from planish.runtime.engine import Engine


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("inspect")(guarded(inspect_command))


def inspect_command(
    path: EngineOrModel,
    show_graph: Annotated[
        bool, typer.Option("--graph", help="Print the optimized graph as text.")
    ] = False,
    show_source: Annotated[
        bool, typer.Option("--source", help="Print the generated source.")
    ] = False,
    quantization: Annotated[
        bool,
        typer.Option(help="Say what of a quantized model does not run on integers, and why."),
    ] = False,
    region: Annotated[
        str | None,
        typer.Option(help="Print all about one region of an engine: alternatives, refusals."),
    ] = None,
    profile: Profiles = None,
    signature: Signature = None,
    tags: Tags = None,
    device: Device = "cpu",
    target: TargetName = None,
    precision: Precision = "fp32",
    calibrate: Calibrate = None,
    calibrator: CalibratorName = "entropy2",
    calibration_cache: CalibrationCache = None,
    preprocess: Preprocess = None,
    as_json: AsJson = False,
) -> None:
    """Show layers, fusions, tactics and memory.

    Of a model: its layers before and after each kind of fusion. Of an engine also every region
    with its tactic, the alternatives that were measured, and memory.
    """
    config = BuildConfig(
        device=device, target=target,
        profiles=parse_profiles(profile), precision=precision, tune="off",
        signature=signature, tags=parse_tags(tags),
        calibrator=make_calibrator(calibrator, calibrate, preprocess, calibration_cache),
    )  # fmt: skip
    if quantization:
        _inspect_quantization(path, config, as_json)
    elif is_engine(path):
        _inspect_engine(_opened(path), show_graph, show_source, region, as_json)
    elif show_source or region is not None:
        _inspect_engine(build(path, config), False, show_source, region, as_json)
    else:
        _inspect_model(path, config, show_graph, as_json)


def _opened(path: Path) -> Engine:
    """Return an engine to look at, also one that cannot run here."""
    return Engine(read_engine(path).parts)


def _inspect_model(path: Path, config: BuildConfig, show_graph: bool, as_json: bool) -> None:
    graph = read_model(path, config.profiles, config.signature, config.tags)
    before, imported = _kinds(graph), count_layers(graph)
    passes = [PassReport(s.name, s.before, s.after, round(s.seconds, 4), dict(s.counts))
              for s in _lowered(graph, config)]  # fmt: skip
    if show_graph:
        text = to_text(graph)
        emit({"graph": text}, as_json, text.rstrip())
        return
    after = _kinds(graph)
    running = sum(count for kind, count in after.items() if kind.startswith("region "))
    data: dict[str, Any] = {
        "model": path.name,
        "inputs": [str(value) for value in graph.inputs],
        "outputs": [str(value) for value in graph.outputs],
        "weights_bytes": sum(v.array.nbytes for g in graphs_of(graph) for v in g.constants()),
        "layers_before": before,
        "layers_after": after,
        "regions": running,
        "passes": [asdict(entry) for entry in passes],
    }
    lines = [f"{path.name}: {imported} nodes -> {running} regions, "
             f"{data['weights_bytes']:,d} bytes of weights"]  # fmt: skip
    lines += ["inputs:", *(f"  {text}" for text in data["inputs"])]
    lines += ["outputs:", *(f"  {text}" for text in data["outputs"])]
    lines += fusion_lines(passes, running)
    for title, kinds in (("layers as imported", before), ("layers after all passes", after)):
        rows = [(str(count).rjust(8), kind) for kind, count in kinds.items()]
        lines += [f"{title}: {sum(kinds.values())}", *table(rows)]
    emit(data, as_json, "\n".join(lines))


def _inspect_quantization(path: Path, config: BuildConfig, as_json: bool) -> None:
    if is_engine(path):
        raise ConfigError(
            "--quantization looks at a model, and this is an engine", fix="give the model"
        )
    graph = read_model(path, config.profiles, config.signature, config.tags)
    _lowered(graph, config)
    review = review_quantization(graph)
    emit(asdict(review), as_json, "\n".join([review.headline, *map(str, review.findings)]))


def _lowered(graph: Graph, config: BuildConfig) -> list[PassStatistics]:
    """Run all passes as a build does; what came of the precision is said on stderr."""
    backend = backend_for(config.device)
    target = backend.detect(config.threads, config.target)
    passes, request = lower(graph, config, backend, target, BuildClock(config))
    for note in request.notes:
        complain(f"note: {note}")
    return passes


def _kinds(graph: Graph) -> dict[str, int]:
    """Return how many nodes of each kind the graph and its subgraphs have, most frequent first."""
    kinds = Counter(
        f"region {node.attributes['kind']}" if node.op == "Region" else node.op
        for each in graphs_of(graph)
        for node in each
    )
    return dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0])))


def _inspect_engine(
    engine: Engine, show_graph: bool, show_source: bool, region: str | None, as_json: bool
) -> None:
    if show_graph:
        emit({"graph": engine.graph_text}, as_json, engine.graph_text.rstrip())
        return
    if show_source:
        emit({"source": engine.source}, as_json, engine.source.rstrip())
        return
    if region is not None:
        layer = _find(engine.report, region)
        emit(asdict(layer), as_json, _layer_text(layer))
        return
    data = {
        "inputs": [_describe(info) for info in engine.inputs],
        "outputs": [_describe(info) for info in engine.outputs],
        "ranges": {name: list(bounds) for name, bounds in engine.ranges.items()},
        "target": engine.target,
        "threads": engine.threads,
        "memory": asdict(engine.memory),
        "report": engine.report.to_dict(),
    }
    lines = [engine.report.headline()]
    lines += [f"input   {_signature(info)}" for info in engine.inputs]
    lines += [f"output  {_signature(info)}" for info in engine.outputs]
    lines += [f"extent  {name}: {low} to {high}, tuned for {opt}"
              for name, (low, opt, high) in engine.ranges.items()]  # fmt: skip
    lines += [f"target  {engine.target}", f"threads {engine.threads}", *engine.report.body_lines()]
    emit(data, as_json, "\n".join(lines))


def _describe(info: TensorInfo) -> dict[str, Any]:
    shape = [dim if isinstance(dim, int) else str(dim) for dim in info.shape]
    return {"name": info.name, "dtype": info.dtype, "shape": shape}


def _signature(info: TensorInfo) -> str:
    return f"{info.name}: {info.dtype}[{', '.join(map(str, info.shape))}]"


def _find(report: BuildReport, name: str) -> LayerReport:
    found = [layer for layer in report.layers if name in (layer.name, layer.layers)]
    near = found or [layer for layer in report.layers if name in layer.name or name in layer.layers]
    if len(near) == 1:
        return near[0]
    raise ConfigError(
        f"{len(near)} regions match {name!r}",
        where="--region",
        fix="give one of " + ", ".join(layer.name for layer in (near or report.layers)[:20]),
    )


def _layer_text(layer: LayerReport) -> str:
    time = "not measured" if layer.microseconds is None else f"{layer.microseconds:.2f} us"
    lines = [
        f"region       {layer.name}",
        f"layers       {layer.layers}",
        f"operations   {layer.operations}",
        f"output       {layer.precision} {layer.shape}",
        f"tactic       {layer.tactic}{layer.config}  {time}",
    ]
    lines += [f"alternative  {label}  {time:.2f} us" for label, time in layer.alternatives]
    lines += [f"refused      {name}: {reason}" for name, reason in layer.refusals]
    return "\n".join(lines)
