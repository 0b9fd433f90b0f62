"""Convolutions and matrix products of a model: generated kernels beside oneDNN, region by region.

usage: python onednn.py MODEL.onnx [--threads 1] [--batch 1] [--sequence 128]
                        [--precision fp32|bf16] [--rounds 15] [--repeats 3] [--json FILE]

Regions are taken from the model as the build's passes leave them (epilogues, layouts, halos), each
distinct one once. First all generated configurations are timed through the real runtime; then the
best one and oneDNN's take turns, in `repeats` separate sets of `rounds`, and the figure is the
smallest of the sets' medians. Results are compared with numpy's before anything is timed. oneDNN's
time includes the call from Python (a few microseconds); what a native segment more costs an engine
is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models import feeds_of
from planish.backends.cpu.backend import CpuBackend
from planish.backends.cpu.onednn.library import library
from planish.backends.reference.tactic import ReferenceTactic
from planish.config import BuildConfig, Profile
from planish.importers.importer import read_model
from planish.ir.dtypes import BF16
from planish.passes.pipeline import optimize
from planish.tactics.bench import Bench, Trial
from planish.tactics.select import Candidate, Group, group_regions
from planish.tactics.target import Target

KINDS = ("Conv", "MatMul")
OTHERS = ("onednn", "reference")
COMPILE_SECONDS = 120.0


def groups_of(path: Path, arguments: argparse.Namespace, target: Target) -> list[Group]:
    """Return the model's distinct convolutions and products that oneDNN can do."""
    feeds = feeds_of(path, arguments.batch, arguments.sequence)
    profiles = {name: Profile(a.shape, a.shape, a.shape) for name, a in feeds.items()}
    config = BuildConfig(profiles=profiles, precision=arguments.precision, threads=target.threads)
    graph = read_model(path, profiles=profiles)
    optimize(graph, config)
    groups = group_regions(graph, target, config, CpuBackend().tactics())
    return [
        group for group in groups
        if group.representative.kind in KINDS
        and any(c.tactic.name == "onednn" for c in group.candidates)
    ]  # fmt: skip


def check(bench: Bench, group: Group, candidates: Sequence[Candidate]) -> None:
    """Raise ValueError when a candidate's result is not numpy's.

    The reference of a region rounds every bf16 value inside, kernels do not: where only the result
    is float32, candidates are compared with each other instead.
    """
    region = group.representative
    rounds = any(value.dtype is BF16 for node in region.body for value in node.outputs)
    comparable = not rounds or region.outputs[0].dtype is BF16
    reference = [Candidate(ReferenceTactic(), {})] if comparable else []
    trials = [Trial(group, candidate) for candidate in (*reference, *candidates)]
    for trial, result in zip(trials, bench.measure(trials, 1, COMPILE_SECONDS), strict=True):
        if result.difference is not None:
            raise ValueError(f"{trial.candidate.label} is wrong: {result.difference}")


def row_of(bench: Bench, group: Group, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one group and return its figures."""
    generated = [c for c in group.candidates if c.tactic.name not in OTHERS]
    theirs = [c for c in group.candidates if c.tactic.name == "onednn"]
    first = bench.measure([Trial(group, c) for c in generated], arguments.rounds, COMPILE_SECONDS)
    right = [i for i, result in enumerate(first) if result.difference is None]
    best = min(right, key=lambda index: first[index].microseconds)
    finalists = [generated[best], *theirs]
    check(bench, group, finalists)
    trials = [Trial(group, candidate) for candidate in finalists]
    sets = [
        [result.microseconds for result in bench.measure(trials, arguments.rounds, COMPILE_SECONDS)]
        for _ in range(arguments.repeats)
    ]
    times = np.min(np.array(sets), axis=0)
    winner = int(np.argmin(times[1:]))
    anchor = group.representative.anchor
    weights = "x".join(map(str, anchor.inputs[1].known_shape)) if anchor else ""
    source = "x".join(map(str, group.representative.inputs[0].shape))
    return {
        "layers": len(group.regions),
        "operations": " ".join(node.op for node in group.representative.body),
        "input": source,
        "weights": weights,
        "generated": generated[best].label,
        "generated_us": round(float(times[0]), 2),
        "onednn": str(theirs[winner].config["as"]),
        "onednn_us": round(float(times[1 + winner]), 2),
        "ratio": round(float(times[1 + winner] / times[0]), 3),
    }


def main() -> None:
    """Read the arguments, measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sequence", type=int, default=128)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    backend = CpuBackend()
    target = backend.detect(arguments.threads)
    bench = Bench(target, backend.assemble)
    rows = []
    for group in groups_of(arguments.model, arguments, target):
        row = row_of(bench, group, arguments)
        rows.append(row)
        print(
            f"{row['layers']:3d} x {row['input']:>15s} {row['weights']:>13s} "
            f"{row['operations']:14s} generated {row['generated_us']:8.1f} us  oneDNN "
            f"{row['onednn_us']:8.1f} us ({row['onednn']:11s}) x{row['ratio']:.2f}  "
            f"{row['generated']}",
            flush=True,
        )
    totals = {
        name: round(sum(row[f"{name}_us"] * row["layers"] for row in rows) / 1e3, 3)
        for name in ("generated", "onednn")
    }
    ratio = float(np.exp(np.mean([np.log(row["ratio"]) for row in rows])))
    print(f"all layers: generated {totals['generated']} ms, oneDNN {totals['onednn']} ms; "
          f"geometric mean of the ratios {ratio:.3f} (above 1: generated is faster)")  # fmt: skip
    if arguments.json:
        report = {
            "model": arguments.model.name, "precision": arguments.precision,
            "threads": arguments.threads, "onednn": library().version, "cpus": os.cpu_count(),
            "features": sorted(target.features), "total_ms": totals,
            "geometric_mean_ratio": round(ratio, 3), "rows": rows,
        }  # fmt: skip
        arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
