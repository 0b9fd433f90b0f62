"""`planish bench`: latency percentiles and throughput, alone or interleaved with other runtimes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from planish.cli.common import (
    Array,
    emit,
    engine_of,
    optional_module,
    parse_profiles,
    percentiles,
    read_inputs,
)
from planish.config import BuildConfig
from planish.errors import ConfigError

BURST = 10  # runs of one runtime before the next one's turn
Runner = Callable[[dict[str, Array]], Any]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("bench")(bench_command)


def bench_command(
    engine: Annotated[Path, typer.Argument(help="an engine (.plan) or a model")],
    against: Annotated[
        str, typer.Option(help="comma-separated: onnxruntime, openvino, openvino:bf16")
    ] = "",
    model: Annotated[
        Path | None, typer.Option(help="the model, when ENGINE is a .plan and --against is given")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="threads, equal for all")] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16, for a model")] = "fp32",
    profile: Annotated[list[str] | None, typer.Option(help="NAME=MIN:OPT:MAX, for a model")] = None,
    inputs: Annotated[list[str] | None, typer.Option("--input", "-i", help="NAME=FILE")] = None,
    seconds: Annotated[float, typer.Option(help="measuring time in all")] = 5.0,
    time_budget: Annotated[float, typer.Option(help="seconds for building a model")] = 120.0,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Measure ENGINE; with --against, other runtimes take turns with it in this process."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning peers would slow the others
    cores = sorted(os.sched_getaffinity(0))
    count = threads or len(cores)
    os.sched_setaffinity(0, set(cores[:count]))
    config = BuildConfig(profiles=parse_profiles(profile or []), precision=precision,
                         threads=count, time_budget=time_budget)  # fmt: skip
    loaded = engine_of(engine, config)
    arrays = read_inputs(loaded, inputs or [])
    runners: dict[str, Runner] = {"planish": loaded.run}
    source = engine if engine.suffix != ".plan" else model
    for name in filter(None, against.split(",")):
        runners[name] = _peer(name, source, count)
    times = measure(runners, arrays, seconds)
    rows: list[dict[str, Any]] = [{"runtime": name, "threads": count, **percentiles(t)}
                                  for name, t in times.items()]  # fmt: skip
    base = rows[0]["median_ms"]
    for row in rows:
        row["ratio"] = round(row["median_ms"] / base, 3)
    emit(rows, as_json, _table(rows))


def measure(
    runners: dict[str, Runner], arrays: dict[str, Array], seconds: float
) -> dict[str, list[float]]:
    """Return seconds of each run; runtimes take turns in bursts, in alternating order."""
    for run in runners.values():
        for _ in range(3):
            run(arrays)
    times: dict[str, list[float]] = {name: [] for name in runners}
    order = list(runners)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not all(times.values()):
        for name in order:
            for _ in range(BURST):
                start = time.perf_counter()
                runners[name](arrays)
                times[name].append(time.perf_counter() - start)
        order.reverse()
    return times


def _peer(name: str, model: Path | None, threads: int) -> Runner:
    if model is None:
        raise ConfigError("--against needs the model as well", fix="add --model MODEL.onnx")
    kind, _, precision = name.partition(":")
    if kind == "onnxruntime":
        return _onnxruntime(model, threads)
    if kind == "openvino":
        return _openvino(model, threads, precision or "f32")
    raise ConfigError(f"unknown runtime {name!r}", where="--against",
                      fix="use onnxruntime, openvino or openvino:bf16")  # fmt: skip


def _onnxruntime(model: Path, threads: int) -> Runner:
    runtime = optional_module("onnxruntime", "onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads > 1 else "1")
    session = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return lambda arrays: session.run(None, arrays)


def _openvino(model: Path, threads: int, precision: str) -> Runner:
    openvino = optional_module("openvino", "openvino")
    properties = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
                  "INFERENCE_PRECISION_HINT": precision}  # fmt: skip
    request = openvino.Core().compile_model(str(model), "CPU", properties).create_infer_request()
    return lambda arrays: request.infer(arrays, share_inputs=True, share_outputs=True)


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"{'runtime':20s} {'median':>10s} {'min':>10s} {'p90':>10s} {'p99':>10s} {'runs/s':>10s} {'ratio':>7s}"
    ]
    for row in rows:
        lines.append(f"{row['runtime']:20s} {row['median_ms']:8.3f}ms {row['min_ms']:8.3f}ms {row['p90_ms']:8.3f}ms "
                     f"{row['p99_ms']:8.3f}ms {row['per_second']:10.1f} {row['ratio']:6.2f}x")  # fmt: skip
    return "\n".join(lines)
