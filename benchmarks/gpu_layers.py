"""Time of every convolution and linear layer of a network on a GPU, against PyTorch's cuDNN.

usage: python gpu_layers.py [--models resnet50 inception_v3 ...] [--batches 1 128]
                            [--candidates 24] [--json FILE]

Layers are those of torchvision's architectures, in half precision, channels-last, random weights;
layers of equal extents are measured once. Ours is the fastest of the first `--candidates`
configurations of each tactic, with bias and ReLU in the kernel, weights coming from memory (see
backends/cuda/bench.py). PyTorch's is the convolution with bias alone (cudnn.benchmark=True; a
linear layer is cuBLAS's), repeated in a CUDA graph: the activation, a kernel of its own there, is
not counted. The first configuration is compared with PyTorch in float32, the others with the first.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torchvision
from onnx import TensorProto, helper, numpy_helper

from planish import BuildConfig
from planish.backends.backend import backend_for
from planish.backends.cuda.bench import CudaBench
from planish.backends.cuda.codegen.compile import ENTRY, Cubin, compile_kernels
from planish.backends.cuda.device import architecture_of
from planish.build_clock import BuildClock
from planish.builder import lower
from planish.errors import CompileError
from planish.importers.importer import read_model
from planish.runtime.cuda.driver import Function, Stream
from planish.tactics.select import Candidate, Group, build_kernel, group_regions
from planish.tactics.tactic import TritonKernel
from planish.tactics.target import Target

MODELS = ("resnet50", "inception_v3", "mobilenet_v3_large", "efficientnet_b0")
ROUNDS = 5
LIMIT = 5e-3  # relative rms error that half precision may have
REPEATS = 20


@dataclass(frozen=True)
class Layer:
    """A convolution of [N, channels, height, width]; a linear layer has extents of 1."""

    channels: int
    outputs: int
    height: int
    width: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    groups: int


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 128])
    parser.add_argument("--candidates", type=int, default=24)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    rows: list[dict[str, Any]] = []
    for name in options.models:
        layers = layers_of(name)
        for batch in options.batches:
            rows += measured(name, layers, batch, options.candidates)
            mine = [row for row in rows if row["model"] == name and row["batch"] == batch]
            ours = sum(row["microseconds"] * row["count"] for row in mine)
            theirs = sum(row["cudnn_microseconds"] * row["count"] for row in mine)
            print(f"{name} batch {batch}: {ours:.1f} us, cuDNN {theirs:.1f} us", flush=True)
            if options.json is not None:
                about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
                options.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


def layers_of(name: str) -> Counter[Layer]:
    """Return the convolutions and linear layers of an architecture, and how often each is there."""
    special = {"init_weights": False} if name == "inception_v3" else {}
    model = getattr(torchvision.models, name)(weights=None, **special).eval()
    found: Counter[Layer] = Counter()

    def note(module: Any, inputs: tuple[torch.Tensor], _: Any) -> None:
        if isinstance(module, torch.nn.Linear):
            one = (1, 1)
            found[Layer(module.in_features, module.out_features, 1, 1, one, one, (0, 0), 1)] += 1
            return
        height, width = inputs[0].shape[2:]
        found[
            Layer(
                module.in_channels, module.out_channels, height, width, module.kernel_size,
                module.stride, module.padding, module.groups,
            )
        ] += 1  # fmt: skip

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(note)
    size = 299 if name == "inception_v3" else 224
    with torch.inference_mode():
        model(torch.zeros(1, 3, size, size))
    return found


def measured(
    model: str, layers: Counter[Layer], batch: int, candidates: int
) -> list[dict[str, Any]]:
    """Return a row for each layer."""
    groups = {layer: group_of(layer, batch) for layer in layers}
    target = next(iter(groups.values()))[1]
    arch = architecture_of(target)
    kernels = {layer: kernels_of(group, target, candidates) for layer, (group, _) in groups.items()}
    everything = [kernel for found in kernels.values() for _, kernel in found]
    cubins = iter(compile_kernels(everything, arch))
    bench = CudaBench(target, arch)
    rows = []
    for layer, (group, _) in groups.items():
        pairs = [(kernel, next(cubins)) for _, kernel in kernels[layer]]
        error = error_of(layer, batch, *next(p for p in pairs if isinstance(p[1], Cubin)))
        if not error < LIMIT:
            raise SystemExit(f"{layer}: a relative error of {error}")
        times = bench.measure_group(group.representative, pairs, ROUNDS)
        best, label = min(
            (time.microseconds, label)
            for time, (label, _) in zip(times, kernels[layer], strict=True)
            if time.difference is None
        )
        theirs = cudnn_microseconds(layer, batch)
        row = {"model": model, "batch": batch, "count": layers[layer], **asdict(layer)}
        row |= {"microseconds": round(best, 2), "cudnn_microseconds": round(theirs, 2)}
        row |= {"ratio": round(theirs / best, 3), "kernel": label}
        row |= {"first_guess_microseconds": round(times[0].microseconds, 2), "error": error}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


# -- ours ----------------------------------------------------------------------------------------


def weights_of(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and bias, the same ones each time."""
    generator = np.random.default_rng(0)
    shape = (layer.outputs, layer.channels // layer.groups, *layer.kernel)
    weights = generator.standard_normal(shape) / np.prod(shape[1:]) ** 0.5
    return weights.astype(np.float16), generator.standard_normal(layer.outputs).astype(np.float16)


def group_of(layer: Layer, batch: int) -> tuple[Group, Target]:
    """Return the region of a layer with ReLU, its operands channels-last, and its candidates."""
    weights, bias = weights_of(layer)
    down, right = layer.padding
    nodes = [
        helper.make_node("Transpose", ["data"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "Conv", ["x", "w", "b"], ["c"], strides=layer.stride, group=layer.groups,
            pads=[down, right, down, right],
        ),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Transpose", ["r"], ["y"], perm=[0, 2, 3, 1]),
    ]  # fmt: skip
    shape = (batch, layer.height, layer.width, layer.channels)
    made = helper.make_model(
        helper.make_graph(
            nodes, "layer",
            [helper.make_tensor_value_info("data", TensorProto.FLOAT16, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT16, None)],
            [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
        ),
        opset_imports=[helper.make_opsetid("", 20)], ir_version=9,
    )  # fmt: skip
    made = onnx.shape_inference.infer_shapes(made)
    config = BuildConfig(device="cuda", precision="fp16", tune="off")
    backend = backend_for("cuda")
    target = backend.detect(None, None)
    graph = read_model(made, config.profiles, None, None)
    lower(graph, config, backend, target, BuildClock(config))
    (group,) = group_regions(graph, target, config, backend.tactics())
    return group, target


def kernels_of(group: Group, target: Target, count: int) -> list[tuple[str, TritonKernel]]:
    """Return the first `count` Triton kernels of each tactic, with their labels."""
    taken: Counter[str] = Counter()
    found = []
    for candidate in group.candidates:
        taken[candidate.tactic.name] += 1
        if taken[candidate.tactic.name] > count:
            continue
        kernel = build_kernel(Candidate(candidate.tactic, candidate.config), group.representative,
                              target)  # fmt: skip
        if isinstance(kernel, TritonKernel):
            found.append((candidate.label, kernel))
    return found


def error_of(layer: Layer, batch: int, kernel: TritonKernel, cubin: Cubin | CompileError) -> float:
    """Return the root mean square of the error, relative to that of the result in float32."""
    if isinstance(cubin, CompileError):
        raise SystemExit(f"{layer}: {cubin}")
    generator = torch.Generator("cuda").manual_seed(1)
    shape = (batch, layer.height, layer.width, layer.channels)
    data = torch.randn(shape, device="cuda", dtype=torch.float16, generator=generator)
    weights, bias = (torch.from_numpy(array).cuda().float() for array in weights_of(layer))
    wanted = torch.relu(
        torch.nn.functional.conv2d(
            data.float().permute(0, 3, 1, 2), weights, bias, layer.stride, layer.padding, 1,
            layer.groups,
        )
    ).permute(0, 2, 3, 1)  # fmt: skip
    got = torch.empty(wanted.shape, device="cuda", dtype=torch.float16)
    packed = [torch.from_numpy(array.reshape(-1).view(np.uint8)).cuda() for array in kernel.packed]
    work = [torch.empty(kernel.workspace_bytes + 16, device="cuda", dtype=torch.uint8),
            torch.zeros(kernel.counters + 4, device="cuda", dtype=torch.int32)]  # fmt: skip
    pointers = [data.data_ptr(), got.data_ptr(), *(part.data_ptr() for part in packed)]
    if kernel.workspace_bytes or kernel.counters:
        pointers += [part.data_ptr() for part in work]
    grid = (*(int(str(extent)) for extent in kernel.grid), 1, 1, 1)
    torch.cuda.synchronize()
    stream = Stream()
    Function(cubin.code, ENTRY, cubin.shared, cubin.warps).launch(
        stream, (grid[0], grid[1], grid[2]), pointers, []
    )
    stream.synchronize()
    difference = (got.float() - wanted).square().mean().sqrt()
    return float(difference / wanted.square().mean().sqrt())


# -- PyTorch's -----------------------------------------------------------------------------------


def cudnn_microseconds(layer: Layer, batch: int) -> float:
    """Return the median time of the layer without its activation."""
    weights, bias = (torch.from_numpy(array).cuda() for array in weights_of(layer))
    weights = weights.to(memory_format=torch.channels_last)
    shape = (batch, layer.channels, layer.height, layer.width)
    data = torch.randn(shape, device="cuda", dtype=torch.float16)
    data = data.to(memory_format=torch.channels_last)
    flat, matrix = data.flatten(1), weights.flatten(1)
    linear = layer.height * layer.width == 1 and layer.groups == 1

    def run() -> torch.Tensor:
        if linear:
            return torch.nn.functional.linear(flat, matrix, bias)
        return torch.nn.functional.conv2d(
            data, weights, bias, layer.stride, layer.padding, 1, layer.groups
        )

    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream), torch.inference_mode():
        for _ in range(3):
            run()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(REPEATS):
                run()
        samples = []
        for _ in range(ROUNDS + 1):
            start, end = torch.cuda.Event(True), torch.cuda.Event(True)
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            samples.append(start.elapsed_time(end) * 1e3 / REPEATS)
    return statistics.median(samples[1:])


if __name__ == "__main__":
    main()
