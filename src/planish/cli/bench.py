"""`planish bench`: latency percentiles and throughput, alone or interleaved with other runtimes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from planish.cli.calibration import (
    Calibrate,
    CalibrationCache,
    CalibratorName,
    Preprocess,
    make_calibrator,
)
from planish.cli.common import (
    Array,
    AsJson,
    Device,
    EngineOrModel,
    Inputs,
    Precision,
    Profiles,
    Seed,
    Signature,
    Tags,
    TargetName,
    TimeBudget,
    TimingCache,
    Tune,
    emit,
    engine_of,
    guarded,
    is_engine,
    parse_profiles,
    parse_tags,
    percentiles,
    read_inputs,
    table,
    writing,
)
from planish.cli.peers import Runner, make_peer
from planish.config import BuildConfig
from planish.engine.writer import check_writable
from planish.errors import ConfigError
from planish.runtime.profiler import Profile

WARM_UP = 3
ROUNDS = 10  # turns that every runtime has at least, when there is time
BURST = 10  # most runs in one turn
COLUMNS = ("median_ms", "min_ms", "p90_ms", "p99_ms", "per_second", "ratio")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("bench")(guarded(bench_command))


def bench_command(
    engine: EngineOrModel,
    against: Annotated[
        str,
        typer.Option(
            help="Other runtimes, with commas: onnxruntime, openvino, openvino:bf16, tensorflow, "
            "reference."
        ),
    ] = "",
    model: Annotated[
        Path | None,
        typer.Option(help="The model, when ENGINE is an engine file and --against is given."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of every runtime; the process is bound to as many.")
    ] = None,
    device: Device = "cpu",
    target: TargetName = None,
    precision: Precision = "fp32",
    calibrate: Calibrate = None,
    calibrator: CalibratorName = "entropy2",
    calibration_cache: CalibrationCache = None,
    preprocess: Preprocess = None,
    profile: Profiles = None,
    signature: Signature = None,
    tags: Tags = None,
    inputs: Inputs = None,
    seconds: Annotated[
        float, typer.Option(help="Measuring time, for all runtimes together.")
    ] = 5.0,
    tune: Tune = "measure",
    time_budget: TimeBudget = 120.0,
    timing_cache: TimingCache = None,
    regions: Annotated[
        bool, typer.Option("--regions", help="Also show the time of every region of the engine.")
    ] = False,
    trace: Annotated[
        Path | None, typer.Option(help="Write the regions' times for chrome://tracing.")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Measure ENGINE; other runtimes take turns with it in this process, on the same inputs.

    Percentiles are of single runs; ratio is a runtime's median time against Planish's.
    """
    if trace is not None:
        check_writable(trace)
    source = model if is_engine(engine) else engine
    names = [name for name in against.split(",") if name]
    if names and source is None:
        raise ConfigError("--against needs the model as well", fix="add --model MODEL")
    with _bound_to_cores(threads) as count:
        config = BuildConfig(
            device=device, target=target,
            profiles=parse_profiles(profile), precision=precision, threads=count, tune=tune,
            signature=signature, tags=parse_tags(tags),
            calibrator=make_calibrator(calibrator, calibrate, preprocess, calibration_cache),
            time_budget=time_budget, timing_cache=timing_cache,
        )  # fmt: skip
        loaded = engine_of(engine, config)
        arrays = read_inputs(loaded, inputs, seed)
        runners: dict[str, Runner] = {"planish": loaded.run}
        runners |= {name: make_peer(name, source or engine, config) for name in names}
        times = measure(runners, arrays, seconds)
        profiled = loaded.profile(arrays) if regions or trace is not None else None
    if profiled is not None and trace is not None:
        with writing(trace, "trace") as file:
            file.write(profiled.to_chrome_trace())
    _show(times, count, profiled, as_json)


def _show(
    times: dict[str, list[float]], threads: int, profiled: Profile | None, as_json: bool
) -> None:
    rows: list[dict[str, Any]] = [
        {"runtime": name, "threads": threads, **percentiles(each)} for name, each in times.items()
    ]
    for row in rows:
        row["ratio"] = round(row["median_ms"] / max(rows[0]["median_ms"], 1e-6), 3)
    data: dict[str, Any] = {"runtimes": rows}
    text = _table(rows)
    if profiled is not None:
        data["regions"] = [vars(region) for region in profiled.regions]
        text += "\n" + profiled.to_text().rstrip()
    emit(data, as_json, text)


def measure(
    runners: Mapping[str, Runner], arrays: dict[str, Array], seconds: float
) -> dict[str, list[float]]:
    """Return seconds of each run; runtimes take turns in bursts, in alternating order.

    A burst is so short that every runtime has `ROUNDS` turns in the time given, and never longer
    than `BURST` runs; each runtime runs once at least.
    """
    bursts = {}
    for name, run in runners.items():
        longest = seconds / ROUNDS / len(runners)
        times = [_time(run, arrays) for _ in range(WARM_UP)]
        bursts[name] = max(1, min(BURST, int(longest / max(times[-1], 1e-9))))
    found: dict[str, list[float]] = {name: [] for name in runners}
    order = list(runners)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not all(found.values()):
        for name in order:
            found[name] += [_time(runners[name], arrays) for _ in range(bursts[name])]
        order.reverse()
    return found


def _time(run: Runner, arrays: dict[str, Array]) -> float:
    start = time.perf_counter()
    run(arrays)
    return time.perf_counter() - start


@contextmanager
def _bound_to_cores(threads: int | None) -> Iterator[int]:
    """Bind the process to as many cores as threads, so that no runtime gets more; yield threads."""
    before = os.sched_getaffinity(0)
    count = len(before) if threads is None else threads
    if count < 1:
        raise ConfigError(f"threads is {count}, expected at least 1", where="--threads")
    os.sched_setaffinity(0, set(sorted(before)[:count]))
    try:
        yield count
    finally:
        os.sched_setaffinity(0, before)


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [("runtime", "threads", "median", "min", "p90", "p99", "runs/s", "ratio")]
    for row in rows:
        cells = [f"{row[key]:.3f} ms" for key in COLUMNS[:4]]
        lines.append((row["runtime"], str(row["threads"]), *cells, f"{row['per_second']:.1f}",
                      f"{row['ratio']:.2f}x"))  # fmt: skip
    return "\n".join(table(lines, numbers=7))
