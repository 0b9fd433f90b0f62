"""Matrix products by weights of four and eight bits, beside ONNX Runtime's, in one run.

usage: python weight_only.py [--threads 1] [--rows 1 8 128] [--shapes 768x3072 4096x4096 4096x11008]
                             [--group 32] [--evict 64] [--seconds 1.0] [--tune] [--json FILE]

For each shape K x N one matrix is rounded to four bits in groups (and to eight with a scale a
column). Every engine multiplies by these numbers:

  ours fp32, int8, int4   planish: the matrix in floats, the rounded ones kept in few bits
  ort fp32                ONNX Runtime's MatMul
  ort int4                its MatMulNBits with float32 arithmetic (accuracy_level 1)
  ort int4 a8             the same with activations rounded to eight bits (accuracy_level 4)

Ours and ONNX Runtime's results are compared before anything is timed. They take turns; a figure is
the median of the calls that fit into `--seconds`. Before every call `--evict` MB are written, so
that weights come from memory as they do between the layers of a large model (0: they may be
cached).
`read` is what the threads read of one large array (a dot product of it with itself).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import planish
from planish.quantize.group_scales import Grid, GroupedWeights, round_to_nearest

Array = np.ndarray[Any, Any]
Run = Callable[[Array], Array]
TOLERANCE = 1e-4  # of the largest result; 20 times that for rounded activations


def main() -> None:
    """Measure, print, write."""
    arguments = _arguments()
    rows = []
    for shape in arguments.shapes:
        depth, columns = map(int, shape.split("x"))
        for count in arguments.rows:
            found = measure(depth, columns, count, arguments)
            rows.append(found)
            print(_line(found), flush=True)
    data = {
        "machine": {
            "cpu": _cpu(),
            "threads": arguments.threads,
            "onnxruntime": onnxruntime.__version__,
            "read_gb_per_s": round(read_bandwidth(arguments.threads), 2),
        },
        "group": arguments.group,
        "evict_mb": arguments.evict,
        "rows": rows,
    }
    print(json.dumps(data["machine"]))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(data, indent=1) + "\n")


def measure(depth: int, columns: int, rows: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return milliseconds and bytes of every engine for one product."""
    random = np.random.default_rng(depth + columns)
    weights = random.standard_normal((depth, columns), np.float32) / np.float32(np.sqrt(depth))
    four = round_to_nearest(weights, Grid(4, arguments.group, symmetric=True))
    eight = round_to_nearest(weights, Grid(8, depth, symmetric=True))
    x = random.standard_normal((rows, depth), np.float32)
    threads, sizes = arguments.threads, {}
    runs: dict[str, Run] = {}
    for name, model in (
        ("ours fp32", plain(four.real(), rows)),
        ("ours int8", dequantized(eight, rows)),
        ("ours int4", few_bits(four, rows, 1)),
    ):
        config = planish.BuildConfig(
            threads=threads, tune="measure" if arguments.tune else "off", time_budget=60
        )
        engine = planish.build(model, config)
        sizes[name] = int(engine.report.memory["weights"])
        runs[name] = engine
    runs["ort fp32"] = onnx_runtime(plain(four.real(), rows), threads)
    runs["ort int4"] = onnx_runtime(few_bits(four, rows, 1), threads)
    runs["ort int4 a8"] = onnx_runtime(few_bits(four, rows, 4), threads)
    want = x @ four.real()
    for name, run in runs.items():
        exact = x @ eight.real() if name == "ours int8" else want
        limit = TOLERANCE * (200 if name.endswith("a8") else 1) * np.abs(exact).max()
        worst = float(np.abs(run(x) - exact).max())
        if worst > limit:
            raise ValueError(f"{name} is wrong: {worst} at {depth}x{columns}, {rows} rows")
    times = take_turns(runs, x, arguments.seconds, arguments.evict)
    return {
        "depth": depth,
        "columns": columns,
        "rows": rows,
        "milliseconds": times,
        "bytes": sizes,
        "gb_per_s": {name: round(sizes[name] / times[name] / 1e6, 2) for name in sizes},
    }


def take_turns(runs: dict[str, Run], x: Array, seconds: float, evict: int) -> dict[str, float]:
    """Return the median milliseconds of each, one call of each after the other."""
    junk = np.zeros(max(evict, 1) << 17)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(x)
    end = time.perf_counter() + seconds * len(runs)
    while time.perf_counter() < end or len(times["ours fp32"]) < 5:
        for name, run in runs.items():
            if evict:
                junk += 1.0
            else:
                run(x)
            start = time.perf_counter()
            run(x)
            times[name].append(time.perf_counter() - start)
    return {name: round(median(each) * 1e3, 4) for name, each in times.items()}


# -- models --------------------------------------------------------------------------------------


def plain(weights: Array, rows: int) -> bytes:
    """Return a product by floats."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return _model(node, [numpy_helper.from_array(weights, "w")], weights.shape, rows)


def dequantized(weights: GroupedWeights, rows: int) -> bytes:
    """Return a product by bytes with a scale a column."""
    numbers = weights.numbers.astype(np.int8)
    constants = [
        numpy_helper.from_array(numbers, "w"),
        numpy_helper.from_array(weights.scales.reshape(-1), "s"),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["r"], axis=1),
        helper.make_node("MatMul", ["x", "r"], ["y"]),
    ]
    return _model(nodes, constants, numbers.shape, rows)


def few_bits(weights: GroupedWeights, rows: int, accuracy: int) -> bytes:
    """Return a com.microsoft.MatMulNBits."""
    depth, columns = weights.numbers.shape
    group = weights.grid.group
    blocks = depth // group
    numbers = (weights.numbers.T + 8).astype(np.uint8).reshape(columns, blocks, group)
    packed = numbers[:, :, 0::2] | numbers[:, :, 1::2] << 4
    constants = [
        numpy_helper.from_array(np.ascontiguousarray(packed), "w"),
        numpy_helper.from_array(np.ascontiguousarray(weights.scales.T).reshape(-1), "s"),
    ]
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=depth, N=columns, bits=4,
        block_size=group, accuracy_level=accuracy,
    )  # fmt: skip
    return _model(node, constants, (depth, columns), rows)


def _model(nodes: Any, constants: list[Any], shape: tuple[int, ...], rows: int) -> bytes:
    graph = helper.make_graph(
        nodes if isinstance(nodes, list) else [nodes],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, shape[1]])],
        constants,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return bytes(model.SerializeToString())


def onnx_runtime(model: bytes, threads: int) -> Run:
    """Return ONNX Runtime's session as a function."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda x: np.asarray(session.run(None, {"x": x})[0])


# -- the machine ---------------------------------------------------------------------------------


def read_bandwidth(threads: int) -> float:
    """Return the GB/s at which `threads` threads read memory."""
    parts = [np.ones(1 << 25, np.float32) for _ in range(threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(lambda part: part.dot(part), parts))
            seconds = time.perf_counter() - start
            best = max(best, sum(part.nbytes for part in parts) / seconds / 1e9)
    return best


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def _line(found: dict[str, Any]) -> str:
    times = found["milliseconds"]
    cells = "  ".join(f"{name} {value:.3f}" for name, value in times.items())
    rate = found["gb_per_s"]["ours int4"]
    return (
        f"{found['rows']:4d} x {found['depth']} x {found['columns']}: {cells} ms; int4 is "
        f"{times['ort fp32'] / times['ours int4']:.2f}x ort fp32, "
        f"{times['ort int4'] / times['ours int4']:.2f}x ort int4, {rate} GB/s"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 128])
    shapes = ["768x3072", "4096x4096", "4096x11008"]
    parser.add_argument("--shapes", nargs="+", default=shapes)
    parser.add_argument("--group", type=int, default=32)
    parser.add_argument("--evict", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--json")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    return parser.parse_args()


if __name__ == "__main__":
    main()
