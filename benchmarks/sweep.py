"""Correctness of whole models against ONNX Runtime, over precisions, threads and input sizes.

usage: python sweep.py MODEL.onnx... [--precisions fp32,bf16] [--threads 1,2] [--json FILE]
                       [--timeout 600]

Every model runs in a process of its own, so that a crash loses one model. For each precision and
number of threads the model is built with tune="off", once with fixed sizes and, where its inputs
have symbolic extents, once with a range that is then run at two sizes. The error of an output is
max|got - want| / max(1, max|want|), for bf16 the root of the mean square of each instead of the
largest. Detections may come in another order: where scores are equal up to rounding, rows trade
places, so an output that differs is compared again with every row's nearest one. Where the model
has recorded outputs, its first size is that of the record.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

Feeds = dict[str, np.ndarray]
VOCABULARY = 100  # ids below this exist in every model's embedding
SEQUENCES = (24, 40)  # other symbolic extents of the two sizes
# random weights can amplify bf16's rounding: OpenVINO in bf16 is off by 0.19 on inception_v3
LIMITS = {"fp32": 2e-4, "bf16": 0.25}


def input_specs(path: Path) -> list[tuple[str, list[int | str], np.dtype]]:
    """Return name, shape (symbols as text) and dtype of every input."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    constants = {initializer.name for initializer in graph.initializer}
    specs = []
    for value in graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        shape = [max(dim.dim_value, 0) or dim.dim_param or f"{value.name}.{axis}"
                 for axis, dim in enumerate(tensor.shape.dim)]  # fmt: skip
        specs.append((value.name, shape, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)))
    return specs


def recorded(path: Path) -> Feeds | None:
    """Return the inputs recorded beside a model."""
    for suffix in (".io.npz", ".ort_io.npz"):
        file = Path(f"{path}{suffix}")
        if file.exists():
            arrays = np.load(file)
            return {key[3:]: arrays[key] for key in arrays.files if key.startswith("in:")}
    return None


def sizes_of(path: Path) -> list[Feeds]:
    """Return inputs of one size, or of two where the model has symbolic extents."""
    specs, record = input_specs(path), recorded(path)
    if record is not None:
        larger = {name: doubled(record[name], shape) for name, shape, _ in specs}
        grown = any(larger[name].shape != record[name].shape for name in larger)
        return [record, larger] if grown else [record]
    symbolic = any(isinstance(dim, str) for _, shape, _ in specs for dim in shape)
    first = random_feeds(specs, 1, SEQUENCES[0])
    return [first, random_feeds(specs, 2, SEQUENCES[1])] if symbolic else [first]


def doubled(array: np.ndarray, shape: list[int | str]) -> np.ndarray:
    """Repeat an array along its batch axis if that is symbolic."""
    for axis in (0, 1):
        name = shape[axis] if axis < len(shape) else 1
        batch = axis == 0 or (isinstance(name, str) and name.lower() in ("n", "batch", "state.1"))
        if isinstance(name, str) and batch:
            return np.concatenate([array, array], axis)
    return array


def random_feeds(specs: Any, batch: int, sequence: int) -> Feeds:
    """Return random inputs; ids are in the vocabulary, masks end with zeros."""
    generator, feeds = np.random.default_rng(batch), {}
    batches = {shape[0] for _, shape, _ in specs if shape}
    for name, shape, dtype in specs:
        extents = [dim if isinstance(dim, int) else batch if dim in batches else sequence
                   for dim in shape]  # fmt: skip
        if dtype.kind == "f":
            values = generator.standard_normal(extents)
        elif "mask" in name:
            values = np.ones(extents)
            values[..., -2:] = batch == 1
        else:
            values = generator.integers(0, 2 if "type" in name else VOCABULARY, extents)
        feeds[name] = values.astype(dtype)
    return feeds


def check(path: Path, precision: str, threads: int, sizes: list[Feeds], wants: Any) -> list[Any]:
    """Build for one precision; return a row for each way to run."""
    import planish
    from planish.tactics.select import FallbackWarning

    rows = []
    for ranged in (False, True) if len(sizes) > 1 else (False,):
        smallest, largest = sizes[0], sizes[-1 if ranged else 0]
        profiles = {name: planish.Profile(array.shape, array.shape, largest[name].shape)
                    for name, array in smallest.items()}  # fmt: skip
        config = planish.BuildConfig(
            precision=precision, threads=threads, profiles=profiles, tune="off"
        )
        row = {"model": path.name, "precision": precision, "threads": threads, "dynamic": ranged}
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", FallbackWarning)
            engine = planish.build(path, config)
        row["build_s"] = round(time.perf_counter() - start, 2)
        row["fallback"] = [str(w.message) for w in caught if w.category is FallbackWarning]
        row["errors"] = [
            errors(engine.run(feeds), want, precision)
            for feeds, want in zip(sizes if ranged else sizes[:1], wants, strict=False)
        ]
        row["ok"] = all(e <= LIMITS[precision] for sizes_ in row["errors"] for e in sizes_.values())
        rows.append(row)
    return rows


def errors(got: Feeds, want: Feeds, precision: str) -> dict[str, float]:
    """Return the error of every output."""
    result = {}
    for name, expected in want.items():
        array = got[name].astype(np.float64)
        if array.shape != expected.shape:
            result[name] = float("inf")
        elif array.size:
            result[name] = error_of(array, expected.astype(np.float64), precision)
    limit = LIMITS[precision]
    if all(error <= limit for error in result.values()) or not same_rows(got, want, limit):
        return result
    return {f"{name} (rows in another order)": 0.0 for name in result}


def error_of(array: np.ndarray, expected: np.ndarray, precision: str) -> float:
    """Return the error of one output, infinite where it is not finite."""
    measure = np.max if precision == "fp32" else lambda a: np.sqrt(np.mean(np.square(a)))
    error = float(measure(np.abs(array - expected)) / max(1.0, measure(np.abs(expected))))
    return error if np.isfinite(error) else float("inf")


def same_rows(got: Feeds, want: Feeds, limit: float) -> bool:
    """Whether the outputs, side by side, have the same rows in some order."""
    shapes = {array.shape[:-1] for array in want.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2 or np.prod(next(iter(shapes))) > 2000:
        return False
    rows, others = (
        np.concatenate([side[name].reshape(-1, side[name].shape[-1]) for name in want], 1)
        for side in (got, want)
    )
    distances = np.abs(rows[:, None] - others[None]).max(-1)
    paired = len(set(distances.argmin(1))) == len(rows)
    return paired and distances.min(1).max() <= limit * max(1.0, float(np.abs(others).max()))


def worker(path: Path, arguments: argparse.Namespace) -> None:
    """Check one model in every way; print a line of JSON for each."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    sizes, wants = [], []
    for feeds in sizes_of(path):
        try:
            outputs = session.run(None, feeds)
        except Fail as error:
            print(f"only one size: {error}", file=sys.stderr)  # the model itself fixes an extent
            break
        sizes.append(feeds)
        wants.append(dict(zip(names, outputs, strict=True)))
    del session
    for precision in arguments.precisions.split(","):
        for threads in map(int, arguments.threads.split(",")):
            for row in check(path, precision, threads, sizes, wants):
                print(json.dumps(row), flush=True)


def sweep(path: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the worker of one model; print and return its rows."""
    command = [sys.executable, __file__, str(path), "--worker", "--precisions",
               arguments.precisions, "--threads", arguments.threads]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.timeout)
        output, code, problem = done.stdout, done.returncode, done.stderr
    except subprocess.TimeoutExpired as late:
        output, code, problem = (late.stdout or b"").decode(), 1, "out of time"
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    if code:
        reason = "\n".join(problem.strip().splitlines()[-4:])
        rows.append({"model": path.name, "ok": False, "code": code, "problem": reason})
    for row in rows:
        worst = max((e for sizes in row.get("errors", []) for e in sizes.values()), default=0.0)
        print(f"{'ok  ' if row['ok'] else 'FAIL'} {row['model']:36s} {row.get('precision', ''):5s}"
              f" {row.get('threads', ''):2} {'dynamic' if row.get('dynamic') else 'fixed  '}"
              f" {worst:9.2e} {row.get('problem', '')} {' '.join(row.get('fallback', []))[:300]}",
              flush=True)  # fmt: skip
    return rows


def main() -> None:
    """Read the arguments, sweep, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--timeout", type=float, default=900)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", action="store_true")
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.models[0], arguments)
        return
    rows = [row for path in arguments.models for row in sweep(path, arguments)]
    bad = [row for row in rows if not row["ok"]]
    print(f"{len(rows) - len(bad)} agree, {len(bad)} do not")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
