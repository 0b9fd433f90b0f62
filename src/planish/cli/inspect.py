"""`planish inspect`: what a model or an engine consists of."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from planish.cli.common import emit, parse_profiles
from planish.config import BuildConfig
from planish.runtime.engine import load
from planish.importers.importer import read_model
from planish.ir.graph import Graph
from planish.ir.text import to_text
from planish.passes.pipeline import optimize
from planish.runtime.engine import Engine, load


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("inspect")(inspect_command)


def inspect_command(
    path: Annotated[Path, typer.Argument(help="a model or an engine (.plan)")],
    show_graph: Annotated[bool, typer.Option("--graph", help="print the graph's text")] = False,
    show_source: Annotated[
        bool, typer.Option("--source", help="print an engine's C source")
    ] = False,
    profile: Annotated[list[str] | None, typer.Option(help="NAME=MIN:OPT:MAX, for a model")] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16, for a model")] = "fp32",
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Show layers, fusions, tactics and memory."""
    if path.suffix == ".plan":
        _inspect_engine(load(path), show_graph, show_source, as_json)
        return
    config = BuildConfig(profiles=parse_profiles(profile or []), precision=precision)
    graph = read_model(path, profiles=config.profiles)
    before = _layer_counts(graph)
    statistics = optimize(graph, config)
    if show_graph:
        print(to_text(graph))
        return
    fusions = {name: count for entry in statistics for name, count in entry.counts.items()}
    data: dict[str, Any] = {
        "inputs": [str(value) for value in graph.inputs],
        "outputs": [str(value) for value in graph.outputs],
        "layers_before": before,
        "layers_after": _layer_counts(graph),
        "passes": [{"name": s.name, "before": s.before, "after": s.after, "counts": dict(s.counts)}
                   for s in statistics],
        "fusions": fusions,
        "weights_bytes": sum(value.array.nbytes for value in graph.constants()),
    }  # fmt: skip
    emit(data, as_json, _model_text(data))


def _layer_counts(graph: Graph) -> dict[str, int]:
    kinds = Counter(
        f"region {node.attributes['kind']}" if node.op == "Region" else node.op for node in graph
    )
    return dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0])))


def _model_text(data: dict[str, Any]) -> str:
    lines = ["inputs:", *(f"  {text}" for text in data["inputs"]), "outputs:",
             *(f"  {text}" for text in data["outputs"])]  # fmt: skip
    for title in ("layers_before", "layers_after"):
        lines.append(f"{title.replace('_', ' ')}: {sum(data[title].values())}")
        lines += [f"  {count:6d}  {kind}" for kind, count in data[title].items()]
    lines += ["passes (nodes before -> after):"]
    lines += [
        f"  {entry['before']:6d} -> {entry['after']:6d}  {entry['name']}"
        for entry in data["passes"]
    ]
    lines += ["rewrites:", *(f"  {count:6d}  {name}" for name, count in data["fusions"].items())]
    lines += [f"weights: {data['weights_bytes']:,d} bytes"]
    return "\n".join(lines)


def _inspect_engine(engine: Engine, show_graph: bool, show_source: bool, as_json: bool) -> None:
    if show_graph:
        print(engine.graph_text)
        return
    if show_source:
        print(engine.source)
        return
    emit({"inputs": [str(info) for info in engine.inputs], "outputs": [str(i) for i in engine.outputs],
          "report": engine.report.to_dict()}, as_json, engine.report.to_text())  # fmt: skip
