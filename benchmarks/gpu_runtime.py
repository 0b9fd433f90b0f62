"""What running an engine on an NVIDIA GPU costs besides its kernels.

usage: python gpu_runtime.py MODEL_OR_PLAN [--precision fp16] [--loads 1000] [--seconds 60]
                             [--json FILE]

- load: `planish.load`, then the first context (kernels and weights on the device), in milliseconds
- graph: the kernels alone, timed by events around a launch of the graph, in microseconds
- run: `Engine.run` on an array of the device, result on the device, complete when it returns; and
  what of it is not the graph's time (host); the same with a tensor of PyTorch where there is one
- launch: the bare driver's calls, a launch of the graph and the wait for it
- async: the host's time of `run_async` on a stream, while the GPU is behind
- threads: inferences a second of eight threads that share the engine, half of them on arrays of the
  host; each result is compared with that of a single thread
- memory: bytes of the device that are free before and after loading, running and dropping the
  engine many times

Figures are medians.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import planish
from planish.runtime.cuda.context import CudaContext
from planish.runtime.cuda.driver import Event, Graph, Stream, device
from planish.runtime.cuda.program import GraphPiece
from planish.runtime.engine import Engine

BURST = 50


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--loads", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device().use()
    path = engine_file(options.model, options.precision)
    engine = planish.load(path)
    inputs = {name: planish.DeviceArray.of(a) for name, a in engine.example_inputs().items()}
    found: dict[str, Any] = {
        "device": device().name,
        "model": options.model.name,
        "load_ms": load_times(path),
        "run_us": run_times(engine, inputs),
        "threads": share(engine, options.seconds),
        "memory": load_often(path, options.loads),
    }
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def engine_file(model: Path, precision: str) -> Path:
    """Return an engine file: the one given, or one built of the model given."""
    if model.suffix == ".plan":
        return model
    config = planish.BuildConfig(device="cuda", precision=precision, tune="off")
    path = Path(tempfile.mkdtemp(), "model.plan")
    planish.build(model, config).save(path)
    return path


def load_times(path: Path) -> dict[str, float]:
    """Return milliseconds of loading an engine and of making its first context."""
    loads, contexts = [], []
    for _ in range(9):
        start = time.perf_counter()
        engine = planish.load(path)
        loaded = time.perf_counter()
        engine.create_context()
        loads.append((loaded - start) * 1e3)
        contexts.append((time.perf_counter() - loaded) * 1e3)
    return {"load": statistics.median(loads), "first context": statistics.median(contexts)}


def run_times(engine: Engine, inputs: dict[str, Any]) -> dict[str, float]:
    """Return microseconds of inferences on the device and of their parts."""
    context = engine.create_context()
    engine.run(inputs, context=context)
    graph, stream = graph_of(context), Stream()

    def launch() -> None:
        graph.launch(stream)
        stream.synchronize()

    start, end, samples = Event(), Event(), []
    for _ in range(200):
        start.record(stream)
        graph.launch(stream)
        end.record(stream)
        stream.synchronize()
        samples.append(end.milliseconds_since(start) * 1e3)
    kernels = statistics.median(samples)
    found = {"graph": kernels, "launch": median(launch), "run": median(lambda: engine.run(inputs))}
    tensors = of_pytorch(inputs)
    if tensors:
        found["run, PyTorch"] = median(lambda: engine.run(tensors))
    found |= {f"host of {name}": found[name] - kernels for name in found if "run" in name}
    found["async"] = behind(lambda: engine.run_async(inputs, stream=stream), stream)
    return found


def graph_of(context: CudaContext) -> Graph:
    """Return the only graph of an engine that ran once in `context`."""
    (program,) = context.programs.values()
    (piece,) = program.pieces
    if not isinstance(piece, GraphPiece) or piece.graph is None:
        raise SystemExit("give an engine of which the host runs no step")
    return piece.graph


def of_pytorch(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs as tensors; nothing where PyTorch is not installed."""
    try:
        import torch
    except ImportError:
        return {}
    return {name: torch.from_dlpack(array) for name, array in inputs.items()}


def median(action: Callable[[], object]) -> float:
    """Return microseconds of `action`."""
    samples = []
    for number in range(-50, 500):
        start = time.perf_counter_ns()
        action()
        if number >= 0:
            samples.append((time.perf_counter_ns() - start) / 1e3)
    return statistics.median(samples)


def behind(action: Callable[[], object], stream: Stream) -> float:
    """Return microseconds of one of a burst of actions that are not waited for."""
    samples = []
    for _ in range(20):
        start = time.perf_counter_ns()
        for _ in range(BURST):
            action()
        samples.append((time.perf_counter_ns() - start) / 1e3 / BURST)
        stream.synchronize()
    return statistics.median(samples)


def share(engine: Engine, seconds: float) -> dict[str, float]:
    """Return inferences a second of eight threads, and how many results were wrong."""
    given = [engine.example_inputs()]
    for factor in (0.5, -1.0, 2.0):
        given.append({name: (a * factor).astype(a.dtype) for name, a in given[0].items()})
    wanted = [engine.run(arrays) for arrays in given]
    on_device = [{n: planish.DeviceArray.of(a) for n, a in arrays.items()} for arrays in given]
    counts, wrong = [0] * 8, [0] * 8
    stop = time.monotonic() + seconds

    def work(number: int) -> None:
        turn = number
        while time.monotonic() < stop:
            turn = (turn + 1) % len(given)
            results = engine.run((given if number % 2 else on_device)[turn])
            for name, expected in wanted[turn].items():
                got = results[name] if number % 2 else results[name].numpy()
                limit = 1e-3 * np.abs(np.asarray(expected, np.float32)).max()
                wrong[number] += not np.allclose(got, expected, rtol=0, atol=limit)
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"inferences a second": sum(counts) / seconds, "wrong": sum(wrong), "seconds": seconds}


def load_often(path: Path, count: int) -> dict[str, float]:
    """Return the free bytes before and after `count` times loading, running and dropping."""
    inputs = planish.load(path).example_inputs()
    planish.load(path).run(inputs)
    gc.collect()
    before, start = device().free_bytes(), time.perf_counter()
    for _ in range(count):
        planish.load(path).run(inputs)
    elapsed = (time.perf_counter() - start) / count * 1e3
    after = device().free_bytes()
    return {"loads": count, "free before": before, "free after": after, "ms each": elapsed}


if __name__ == "__main__":
    main()
