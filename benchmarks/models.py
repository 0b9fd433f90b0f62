"""Latency of whole models, side by side with ONNX Runtime and OpenVINO, and a build's own figures.

usage: python models.py MODEL.onnx... [--threads 1] [--batch 1] [--sequence 128]
                        [--precision fp32|bf16] [--tune measure|off] [--rounds 12] [--burst 10]
                        [--json FILE]

One process per runtime, all pinned to the same cores, taking turns in bursts in alternating order.
The figure is the median; the ratio is the median over rounds of (peer's burst median / Planish's):
above 1 means Planish is faster. Planish's results are compared with ONNX Runtime's before anything
is timed. For Planish the row also has: seconds of the build (tuned and with tune="off"),
milliseconds of the load, bytes of the arena and of the largest live set. With --tune off only the
untuned engine is built and measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

Feeds = dict[str, np.ndarray]


def feeds_of(path: Path, batch: int, sequence: int) -> Feeds:
    """Return the inputs recorded beside a model, or random ones."""
    for suffix in (".io.npz", ".ort_io.npz"):
        recorded = Path(f"{path}{suffix}")
        if recorded.exists():
            arrays = np.load(recorded)
            return {key[3:]: arrays[key] for key in arrays.files if key.startswith("in:")}
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    constants = {initializer.name for initializer in graph.initializer}
    generator, feeds = np.random.default_rng(0), {}
    given = [value for value in graph.input if value.name not in constants]
    batches = {v.type.tensor_type.shape.dim[0].dim_param for v in given}
    for value in given:
        tensor = value.type.tensor_type
        shape = [dim.dim_value or (batch if dim.dim_param in batches else sequence)
                 for dim in tensor.shape.dim]  # fmt: skip
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        values = (generator.standard_normal(shape) if dtype.kind == "f"
                  else np.ones(shape) if "mask" in value.name
                  else generator.integers(0, 2, shape))  # fmt: skip
        feeds[value.name] = values.astype(dtype)
    return feeds


def planish_runner(
    path: Path, threads: int, precision: str, feeds: Feeds, tune: str
) -> tuple[Any, dict[str, Any]]:
    """Build, save, load; return the engine's run and the build's figures."""
    import planish

    profiles = {name: planish.Profile(a.shape, a.shape, a.shape) for name, a in feeds.items()}
    options = dict(precision=precision, threads=threads, profiles=profiles)
    start = time.perf_counter()
    engine = planish.build(path, planish.BuildConfig(**options, tune="off"))
    figures = {"build_untuned_s": round(time.perf_counter() - start, 2)}
    if tune != "off":
        start = time.perf_counter()
        engine = planish.build(path, planish.BuildConfig(**options, tune=tune))
        figures["build_s"] = round(time.perf_counter() - start, 2)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.plan"
        engine.save(file)
        start = time.perf_counter()
        engine = planish.load(file)
        loaded = time.perf_counter() - start
        engine.run(feeds)  # maps and copies the weights before the file goes
    return engine.run, {**figures, "load_ms": round(loaded * 1e3, 2), **engine.report.memory}


def runner_of(
    engine: str, path: Path, threads: int, feeds: Feeds, tune: str = "off"
) -> tuple[Any, dict[str, Any]]:
    """Return a function of the feeds, and figures about its setup."""
    kind, _, precision = engine.partition(":")
    if kind == "planish":
        return planish_runner(path, threads, precision or "fp32", feeds, tune)
    if kind == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        return (lambda given: session.run(None, given)), {}
    import openvino

    properties = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
                  "INFERENCE_PRECISION_HINT": precision or "f32"}  # fmt: skip
    request = openvino.Core().compile_model(str(path), "CPU", properties).create_infer_request()
    return (lambda given: request.infer(given, share_inputs=True, share_outputs=True)), {}


def worker(engine: str, arguments: argparse.Namespace) -> None:
    """Serve bursts: read a count, run that often, print the seconds."""
    path, threads = arguments.models[0], arguments.threads
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[-threads:]))
    feeds = feeds_of(path, arguments.batch, arguments.sequence)
    run, figures = runner_of(engine, path, threads, feeds, arguments.tune)
    if engine.startswith("planish"):
        figures["max_error"] = difference(run, path, threads, feeds)
    for _ in range(5):
        run(feeds)
    print(json.dumps(figures), flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            run(feeds)
            times.append(time.perf_counter() - start)
        print(json.dumps(times), flush=True)


def difference(run: Any, path: Path, threads: int, feeds: Feeds) -> float:
    """Return the largest error against ONNX Runtime, relative to the largest output value."""
    want = runner_of("onnxruntime", path, threads, feeds)[0](feeds)
    got = list(run(feeds).values())
    pairs = [(g, w) for g, w in zip(got, want, strict=True) if w.size and w.dtype.kind in "fiu"]
    return max(
        float(np.abs(g.astype(np.float64) - w).max() / max(1.0, float(np.abs(w).max())))
        for g, w in pairs
    )


def compare(path: Path, engines: list[str], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run all engines on one model and return a row for each."""
    processes, figures = {}, {}
    common = ["--threads", str(arguments.threads), "--batch", str(arguments.batch),
              "--sequence", str(arguments.sequence), "--tune", arguments.tune]  # fmt: skip
    omp = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(arguments.threads)}
    environment = dict(os.environ, **omp)
    for engine in engines:
        process = subprocess.Popen(
            [sys.executable, __file__, str(path), "--worker", engine, *common],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip
        line = process.stdout.readline()
        if not line.startswith("{"):
            print(f"{path.name} {engine}: {process.stderr.read().strip().splitlines()[-1:]}")
            continue
        processes[engine], figures[engine] = process, json.loads(line)
    times: dict[str, list[list[float]]] = {engine: [] for engine in processes}
    for turn in range(arguments.rounds):
        for engine in list(processes)[:: 1 if turn % 2 == 0 else -1]:
            processes[engine].stdin.write(f"{arguments.burst}\n")
            processes[engine].stdin.flush()
            times[engine].append(json.loads(processes[engine].stdout.readline()))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return [row(path, engine, times, figures, arguments) for engine in processes]


def row(path: Path, engine: str, times: Any, figures: Any, arguments: Any) -> dict[str, Any]:
    """Return and print the figures of one engine on one model."""
    first = times.get(next(iter(times)))
    bursts = [statistics.median(burst) for burst in times[engine]]
    ratio = statistics.median(b / statistics.median(a) for a, b in zip(first, bursts, strict=True))
    flat = sorted(t for burst in times[engine] for t in burst)
    result = {
        "model": path.name, "engine": engine,
        "threads": arguments.threads, "batch": arguments.batch,
        "median_ms": round(statistics.median(flat) * 1e3, 4), "min_ms": round(flat[0] * 1e3, 4),
        "ratio": round(ratio, 3), **figures[engine],
    }  # fmt: skip
    print(f"{path.name:28s} {engine:16s} {result['median_ms']:9.3f} ms  min {result['min_ms']:9.3f}"
          f"  x{ratio:6.3f}  {figures[engine] or ''}", flush=True)  # fmt: skip
    return result


def main() -> None:
    """Read the arguments, measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sequence", type=int, default=128)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--tune", default="measure", choices=("measure", "off"))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--burst", type=int, default=10)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker")
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, arguments)
        return
    engines = (["planish", "onnxruntime", "openvino"] if arguments.precision == "fp32"
               else ["planish:bf16", "openvino:bf16"])  # fmt: skip
    rows = [entry for path in arguments.models for entry in compare(path, engines, arguments)]
    peers = {}
    for entry in rows:
        if not entry["engine"].startswith("planish"):
            peers.setdefault(entry["model"], []).append(entry["ratio"])
    if len(peers) > 1:
        mean = statistics.geometric_mean(min(ratios) for ratios in peers.values())
        print(f"geometric mean against the faster peer: {mean:.3f} over {len(peers)} models")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
