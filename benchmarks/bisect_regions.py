"""Find the kernels of a model that do not agree with the numpy reference.

usage: python bisect_regions.py MODEL.onnx [--precision fp32|bf16] [--batch 1] [--sequence 24]
                                [--limit 1e-4]

The interpreter runs the optimized graph once; every region's kernel then gets the interpreter's
values as its inputs, so that an error shows where it is made and nowhere behind it. Prints the
regions whose error, relative to the largest value, is above the limit, in network order.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import sweep

from planish.backends.backend import backend_for
from planish.config import BuildConfig, Profile
from planish.importers.importer import read_model
from planish.ops.interpreter import run_graph
from planish.passes.pipeline import optimize
from planish.runtime.executor import Executor
from planish.runtime.native import NativeObject
from planish.runtime.shapes import BoundShapes
from planish.tactics import bench
from planish.tactics.select import build_kernel, group_regions
from planish.tactics.tactic import Kernel


def main() -> None:
    """Read the arguments, run every region alone, print what differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sequence", type=int, default=24)
    parser.add_argument("--limit", type=float, default=1e-4)
    arguments = parser.parse_args()
    feeds = sweep.recorded(arguments.model) or sweep.random_feeds(
        sweep.input_specs(arguments.model), arguments.batch, arguments.sequence
    )
    profiles = {name: Profile(a.shape, a.shape, a.shape) for name, a in feeds.items()}
    config = BuildConfig(precision=arguments.precision, profiles=profiles, threads=1, tune="off")
    backend = backend_for(config.device)
    target = backend.detect(1)
    graph = read_model(arguments.model, profiles=config.profiles)
    optimize(graph, config)
    values: dict[object, np.ndarray] = {value: feeds[value.name] for value in graph.inputs}
    run_graph(graph, [feeds[v.name] for v in graph.inputs], values.__setitem__)

    layout, kernels, steps, regions = bench._Layout(), {}, [], []
    for group in group_regions(graph, target, config, backend.tactics()):
        if group.best.tactic.name == "reference":
            print(f"reference only: {group.representative.name}")
            continue
        for node, region in zip(group.nodes, group.regions, strict=True):
            name = f"step{len(steps)}"
            kernel = build_kernel(group.best, region, target)
            alone = SimpleNamespace(key=name, representative=region)
            steps.append(layout.step(name, SimpleNamespace(group=alone), kernel))
            regions.append((node, region, group.best.label))
            if isinstance(kernel, Kernel):
                kernels[name] = kernel
    plan = layout.plan(steps)
    native = NativeObject(backend.assemble(plan, kernels, target).code)
    executor = Executor(plan, native, layout.constants.memory(), 1)
    context = executor.create_context()
    context.bind(BoundShapes(layout.bindings, ()))
    for step, (node, region, _) in zip(steps, regions, strict=True):
        for binding, operand, value in zip(step.bindings, region.inputs, node.inputs, strict=False):
            array = value.array if value.is_constant else values[value]
            layout._view(context.arena, binding, operand)[...] = array
    executor.run(context, [], [])
    for (node, region, label), outputs in zip(regions, layout._outputs, strict=True):
        for (binding, operand), value in zip(outputs, node.outputs, strict=True):
            report(region, label, value, layout._view(context.arena, binding, operand),
                   values[value], arguments.limit)  # fmt: skip


def report(region, label, value, got, want, limit) -> None:  # type: ignore[no-untyped-def]
    """Print a line when the error is above the limit."""
    got, want = got.astype(np.float64), want.astype(np.float64)
    error = float(np.abs(got - want).max(initial=0)) / max(1.0, float(np.abs(want).max(initial=0)))
    if not error <= limit:
        ops = " ".join(node.op for node in region.body)
        print(f"{error:9.2e} {region.name:40s} {value.dtype} {list(got.shape)} {label} {ops}")


if __name__ == "__main__":
    main()
