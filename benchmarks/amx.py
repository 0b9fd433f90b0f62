"""AMX kernels layer by layer: every configuration's speed, its share of the measured peak.

usage: python amx.py [--precision bf16|int8] [--json FILE] [--only PART...] [--seconds 1.2]
                     [--core N] [--openvino]
                     [--emulate]     (no AMX: runs the emulation for a moment, to test this script)

Layers: ResNet-50's distinct convolutions at batch 1, the matrix products of BERT-base (128 tokens)
and ViT-B/16 (197 tokens), with their epilogues, all bf16 or all int8 (u8 or i8 data, i8 weights
and results). For each layer every configuration that
the AMX tactics propose and the first three of the AVX-512 GEMM are compiled, compared with the
numpy reference, and then timed interleaved on one core:

  hot   the same operands again and again;
  cold  another copy of the weights each time (they exceed L2 together), as in a network.

Every layer has a process of its own. All compile at the same time, then they are timed one by one.
A process that dies is started again without the configuration that killed it.

The peak is measured in the same run: products on registers alone, and with tiles loaded from L1 and
from L2, for several numbers of rows.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amx_layers import LAYERS, ROOT, Layer

from planish.backends.cpu.device import detect

AMX = {"bf16": ("amx_tile", "amx_bf16"), "int8": ("amx_tile", "amx_bf16", "amx_int8")}
WORKER = str(ROOT / "benchmarks" / "amx_worker.py")
LIMIT = 90  # seconds of one process


class Child:
    """A process for one layer, restarted without the configurations that killed it."""

    def __init__(self, layer: Layer, arguments: argparse.Namespace) -> None:
        self.layer, self.arguments, self.skip = layer, arguments, []
        self.killed: list[dict[str, str]] = []
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> str | None:
        """Start and wait until the kernels are compiled; return what went wrong."""
        command = [sys.executable, WORKER, "--layer", self.layer.name,
                   "--skip", json.dumps(self.skip), "--core", str(self.arguments.core),
                   "--seconds", str(self.arguments.seconds),
                   "--precision", self.arguments.precision]  # fmt: skip
        command += ["--emulate"] if self.arguments.emulate else []
        command += ["--openvino"] if self.arguments.openvino else []
        environment = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
            env=environment,
        )  # fmt: skip
        answer = self._read(LIMIT)
        return None if answer and "ready" in answer else self._failure()

    def _read(self, seconds: float) -> dict[str, Any] | None:
        """Return the next message, or None when the process ended or takes too long."""
        assert self.process is not None
        assert self.process.stdout is not None
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        return json.loads(line) if line.startswith("{") else None

    def _failure(self) -> str:
        assert self.process is not None
        self.process.kill()
        code = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return f"exit code {code}: {lines[-1] if lines else 'no message'}"

    def measure(self) -> dict[str, Any] | str:
        """Let the process measure; return its result or what went wrong."""
        for _ in range(6):
            assert self.process is not None
            assert self.process.stdin is not None
            running = None
            try:
                self.process.stdin.write("go\n")
                self.process.stdin.flush()
            except BrokenPipeError:
                return self._failure()
            while (message := self._read(LIMIT)) is not None:
                if "result" in message:
                    self.process.wait()
                    return message
                running = message.get("running", running)
            failure = self._failure()
            if not running:
                return failure
            self.killed.append({"config": running, "error": failure})
            self.skip.append(running)
            again = self.start()
            if again is not None:
                return again
        return "too many configurations died"

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def prepare(children: list[Child], jobs: int) -> dict[str, str]:
    """Start all children, `jobs` at a time; return the failures."""
    waiting: queue.SimpleQueue[Child] = queue.SimpleQueue()
    failures: dict[str, str] = {}
    for child in children:
        waiting.put(child)

    def serve() -> None:
        while True:
            try:
                child = waiting.get_nowait()
            except queue.Empty:
                return
            failure = child.start()
            if failure is not None:
                failures[child.layer.name] = failure

    threads = [threading.Thread(target=serve) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def rate(layer: Layer, microseconds: float) -> float:
    return layer.flops / microseconds / 1e3


def summarise(layer: Layer, message: dict[str, Any], top: float) -> dict[str, Any]:
    """Return a layer's row and print it."""
    timed = [r for r in message["result"] if r.get("min_us")]
    for result in timed:
        result["gflops_max"] = round(rate(layer, result["min_us"]), 1)
        result["gflops_median"] = round(rate(layer, result["median_us"]), 1)
        result["gflops_cold"] = round(rate(layer, result["cold_median_us"]), 1)
        result["share_of_peak"] = round(result["gflops_max"] / top, 3) if top else None
    row: dict[str, Any] = {**asdict(layer), "flops": layer.flops, **message}
    ours = [r for r in timed if r["tactic"].startswith("amx")]
    others = [r for r in timed if not r["tactic"].startswith("amx")]
    if not ours:
        print(f"{layer.name:38s} no AMX configuration gave the right result", flush=True)
        return row
    hot, cold = (min(ours, key=lambda r: r[key]) for key in ("median_us", "cold_median_us"))
    first = ours[0]["cold_median_us"] / cold["cold_median_us"]
    row |= {"best": hot["config"], "best_cold": cold["config"], "first_ratio": round(first, 3)}
    if others:
        row["gemm_ratio"] = round(
            min(r["cold_median_us"] for r in others) / cold["cold_median_us"], 3)  # fmt: skip
    wrong = sum(bool(r["error"]) for r in message["result"])
    c, other = cold["config"], message.get("openvino_us")
    print(
        f"{layer.name:38s} hot {hot['median_us']:8.1f} us {hot['gflops_median']:7.0f} GF"
        f" {100 * (hot['share_of_peak'] or 0):4.0f}% | cold {cold['cold_median_us']:8.1f} us"
        f" {cold['gflops_cold']:7.0f} GF | first x{row['first_ratio']:.2f}"
        f" gemm x{row.get('gemm_ratio', 0):.2f}"
        f" | {c['rows']}x{c['vectors']}{c['order']}{' flat' if c['flat'] else ''}"
        f"{'' if c['interleave'] else ' apart'} pf{c['prefetch']}+{c['ahead']} d{c['depth']}"
        f"{f' | openvino {other:.1f} us' if other else ''}"
        f"{f' | {wrong} WRONG' if wrong else ''}",
        flush=True,
    )
    return row


def totals(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return milliseconds of each network: best and first configuration, AVX-512 GEMM."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        ours = [r for r in row.get("result", []) if r.get("min_us") and "amx" in r["tactic"]]
        others = [r for r in row.get("result", []) if r.get("min_us") and "amx" not in r["tactic"]]
        if not ours or not row["count"]:
            continue
        network = found.setdefault(row["name"].split("/")[0], {})
        for key, value in {
            "best_hot_ms": min(r["median_us"] for r in ours),
            "best_cold_ms": min(r["cold_median_us"] for r in ours),
            "first_cold_ms": ours[0]["cold_median_us"],
            "gemm_cold_ms": min((r["cold_median_us"] for r in others), default=math.nan),
        }.items():  # fmt: skip
            network[key] = round(network.get(key, 0.0) + row["count"] * value / 1e3, 4)
    return found


def measure_peak(arguments: argparse.Namespace) -> dict[str, float]:
    """Measure the peak in a process of its own."""
    command = [sys.executable, WORKER, "--peak", "--core", str(arguments.core),
               "--precision", arguments.precision]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        print("peak: took too long")
        return {}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        print(f"peak: {(done.stderr.strip().splitlines() or ['died'])[-1]}")
        return {}
    found: dict[str, float] = json.loads(lines[-1])["peak"]
    for key, value in found.items():
        print(f"  peak {key:28s} {value:9.1f} GFLOP/s", flush=True)
    return found


def machine() -> dict[str, Any]:
    text = Path("/proc/cpuinfo").read_text()
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    here = detect()
    return {"cpu": names[0] if names else "?", "cores": len(os.sched_getaffinity(0)),
            "features": sorted(here.features), "l1": here.l1, "l2": here.l2, "l3": here.l3,
            "compiler": subprocess.run(["cc", "--version"], capture_output=True, text=True,
                                       check=False).stdout.split("\n")[0]}  # fmt: skip


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=tuple(AMX), default="bf16")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="*", default=[], help="parts of layers' names")
    parser.add_argument("--seconds", type=float, default=1.2, help="of timing a layer")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--openvino", action="store_true")
    parser.add_argument("--emulate", action="store_true")
    parser.add_argument("--limit", type=float, default=170.0, help="seconds in all")
    return parser.parse_args()


def main() -> None:
    """Read the arguments, measure, print, write JSON."""
    arguments = read_arguments()
    started = time.monotonic()
    report: dict[str, Any] = {
        "machine": machine(), "precision": arguments.precision, "layers": [],
    }  # fmt: skip
    print(json.dumps(report["machine"]), flush=True)
    if not arguments.emulate and not detect().has(*AMX[arguments.precision]):
        raise SystemExit(
            f"this CPU has no AMX for {arguments.precision} (or the system forbids it)"
        )
    report["peak"] = {} if arguments.emulate else measure_peak(arguments)
    parts = arguments.only or [""]
    layers = [layer for layer in LAYERS if any(part in layer.name for part in parts)]
    children = [Child(layer, arguments) for layer in layers]
    try:
        failures = prepare(children, max(1, min(12, len(os.sched_getaffinity(0)) - 1)))
        print(f"{len(children)} layers compiled, {time.monotonic() - started:.0f} s", flush=True)
        for child in children:
            name = child.layer.name
            if name in failures or time.monotonic() - started > arguments.limit:
                message: Any = failures.get(name, "no time left")
            else:
                message = child.measure()
            if isinstance(message, str):
                print(f"{name:38s} {message}", flush=True)
                report["layers"].append({**asdict(child.layer), "error": message,
                                         "killed": child.killed})  # fmt: skip
                continue
            row = summarise(child.layer, message, report["peak"].get("gflops", 0.0))
            report["layers"].append({**row, "killed": child.killed})
            write(arguments.json, report)
    finally:
        for child in children:
            child.close()
    report["totals"] = totals(report["layers"])
    report["seconds"] = round(time.monotonic() - started, 1)
    for network, values in report["totals"].items():
        print(network, values, flush=True)
    print(f"{report['seconds']} s", flush=True)
    write(arguments.json, report)


def write(path: Path | None, report: dict[str, Any]) -> None:
    """Write what there is so far."""
    if path is not None:
        path.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
