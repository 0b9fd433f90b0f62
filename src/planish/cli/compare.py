"""`planish compare`: an engine's outputs against ONNX Runtime's or the numpy reference's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from planish.cli.common import (
    EXIT_DIFFERENT,
    Array,
    emit,
    engine_of,
    optional_module,
    parse_profiles,
    read_inputs,
)
from planish.config import BuildConfig
from planish.errors import ConfigError
from planish.importers.importer import read_model
from planish.ops.interpreter import run_graph

Outputs = Mapping[str, Array]
DEFAULT_TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2}  # relative to the largest output value


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("compare")(compare_command)


def compare_command(
    model: Annotated[Path, typer.Argument(help="the ONNX model")],
    engine: Annotated[Path | None, typer.Option(help="an engine of it; built when absent")] = None,
    against: Annotated[str, typer.Option(help="onnxruntime or reference")] = "onnxruntime",
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="NAME=FILE.npy or FILE.npz; random values without any"),
    ] = None,
    profile: Annotated[list[str] | None, typer.Option(help="NAME=MIN:OPT:MAX")] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "fp32",
    threads: Annotated[int | None, typer.Option(help="threads of one inference")] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="allowed max error, relative to the largest output value")
    ] = None,
    seed: Annotated[int, typer.Option(help="for random inputs")] = 0,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Compare outputs; the exit code is 1 when an output differs by more than the tolerance."""
    config = BuildConfig(profiles=parse_profiles(profile or []), precision=precision,
                         threads=threads, tune="off")  # fmt: skip
    loaded = engine_of(engine or model, config)
    arrays = read_inputs(loaded, inputs or [], seed)
    limit = DEFAULT_TOLERANCE[precision] if tolerance is None else tolerance
    got, want = loaded.run(arrays), _peer(against)(model, arrays)
    rows = [_difference(name, got[name], np.asarray(want[name]), limit) for name in got]
    text = "\n".join(f"{'ok  ' if row['ok'] else 'DIFF'} {row['output']}: max error "
                     f"{row['max_error']:.3g}, mean {row['mean_error']:.3g}, largest value "
                     f"{row['largest']:.3g}" for row in rows)  # fmt: skip
    emit(rows, as_json, text)
    if not all(row["ok"] for row in rows):
        raise typer.Exit(EXIT_DIFFERENT)


def _difference(name: str, got: Array, want: Array, limit: float) -> dict[str, Any]:
    if got.shape != want.shape or got.dtype != want.dtype:
        return {"output": name, "ok": False, "max_error": float("inf"), "mean_error": float("inf"),
                "largest": float("nan"), "got": f"{got.dtype}{list(got.shape)}",
                "want": f"{want.dtype}{list(want.shape)}"}  # fmt: skip
    error = np.abs(got.astype(np.float64) - want.astype(np.float64))
    same = (got == want) | (np.isnan(got.astype(np.float64)) & np.isnan(want.astype(np.float64)))
    error = np.where(same, 0.0, error)  # equal infinities are no difference
    finite = np.abs(want.astype(np.float64))[np.isfinite(want.astype(np.float64))]
    largest = float(finite.max(initial=0.0))
    worst = float(error.max(initial=0.0))
    ok = bool(worst <= limit * max(1.0, largest))
    return {"output": name, "ok": ok, "max_error": worst,
            "mean_error": float(error.mean()) if error.size else 0.0, "largest": largest}  # fmt: skip


def _peer(name: str) -> Callable[[Path, Outputs], Outputs]:
    peers = {"onnxruntime": _onnxruntime, "reference": _reference}
    if name not in peers:
        raise ConfigError(f"cannot compare against {name!r}", fix=f"use {' or '.join(peers)}")
    return peers[name]


def _onnxruntime(path: Path, arrays: Outputs) -> Outputs:
    runtime = optional_module("onnxruntime", "onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(arrays)), strict=True))


def _reference(path: Path, arrays: Outputs) -> Outputs:
    graph = read_model(path, profiles={})
    results = run_graph(graph, [arrays[name] for name in graph.input_names])
    return dict(zip(graph.output_names, results, strict=True))
