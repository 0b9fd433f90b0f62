"""`planish build`: a model becomes an engine file."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from planish.builder import build
from planish.cli.common import emit, interrupt_flag, parse_profiles, progress_bar
from planish.config import BuildConfig
from planish.engine.writer import check_writable


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("build")(build_command)


def build_command(
    model: Annotated[Path, typer.Argument(help="an ONNX model")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="engine file")] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "fp32",
    profile: Annotated[
        list[str] | None,
        typer.Option(help="NAME=MIN:OPT:MAX, e.g. x=1x3x224x224:8x3x224x224:32x3x224x224"),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="threads of one inference")] = None,
    time_budget: Annotated[float, typer.Option(help="seconds for the whole build")] = 120.0,
    workspace_limit: Annotated[
        int | None, typer.Option(help="bytes of scratch a kernel may use")
    ] = None,
    tune: Annotated[str, typer.Option(help="off, cache or measure")] = "measure",
    timing_cache: Annotated[Path | None, typer.Option(help="file of measured times")] = None,
    fallback: Annotated[str, typer.Option(help="reference or error")] = "reference",
    tactic_sources: Annotated[str | None, typer.Option(help="comma-separated tactic names")] = None,
    report: Annotated[
        Path | None, typer.Option(help="write the report (.html, .json, .txt)")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
) -> None:
    """Build an engine from MODEL. Ctrl-C ends tuning and keeps the engine so far."""
    path = output or model.with_suffix(".plan")
    check_writable(path)
    cancelled, handler = interrupt_flag()
    previous = signal.signal(signal.SIGINT, handler)
    try:
        with progress_bar() as show:
            engine = build(model, BuildConfig(
                precision=precision, profiles=parse_profiles(profile or []), threads=threads,
                time_budget=time_budget, workspace_limit=workspace_limit, tune=tune,
                timing_cache=timing_cache, fallback=fallback, progress=show,
                tactic_sources=tuple(tactic_sources.split(",")) if tactic_sources else None,
                cancel=cancelled.is_set,
            ))  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, previous)
    engine.save(path)
    _write_report(engine.report, report)
    emit({"engine": str(path), "report": engine.report.to_dict()}, as_json,
         f"{engine.report.to_text()}\nwrote {path} ({path.stat().st_size:,d} bytes)")  # fmt: skip


def _write_report(report: object, path: Path | None) -> None:
    if path is None:
        return
    check_writable(path)
    method = {".html": "to_html", ".json": "to_json"}.get(path.suffix, "to_text")
    path.write_text(getattr(report, method)())
