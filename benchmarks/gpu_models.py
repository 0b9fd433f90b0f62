"""Latency of whole models on an NVIDIA GPU, side by side with PyTorch, in one process.

usage: python gpu_models.py [--models resnet50 vit_b_16 bert ...] [--batches 1 128]
                            [--precision fp16|int8] [--budget 90] [--rounds 15] [--burst 20]
                            [--peers graph compile] [--layers] [--timing-cache FILE] [--json FILE]

Models are torchvision's and transformers' architectures with random weights (biases too, since
zeros would be folded away), exported to ONNX in float32. The peers are PyTorch in half precision,
channels-last: "graph" is eager execution captured in a CUDA graph, "compile" is
torch.compile(mode="reduce-overhead") with freezing. All read inputs that lie on the device. Bursts
of every runtime take turns in changing order on one stream, timed by events; the figure is the
median, a ratio the median over rounds of (peer / Planish): above 1 means Planish is faster.
Outputs are compared with float32 PyTorch before anything is timed: the error is the root mean
square of the difference over that of the output.

With --precision int8 the model is calibrated on 16 random samples; peers stay in half precision.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import planish

Run = Callable[[], Any]
BATCHES = {"bert": (1, 32)}
LIMITS = {"fp16": 2.0, "int8": 100.0}  # of the error of half precision in PyTorch, to be timed
PRECISIONS = {"fp16": "fp16", "int8": "best"}  # what is not int8 is in half precision
SEQUENCE = 128
VOCABULARY = 30522


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    names = ["resnet50", "inception_v3", "mobilenet_v3_large", "efficientnet_b0", "vit_b_16"]
    parser.add_argument("--models", nargs="+", default=[*names, "bert"])
    parser.add_argument("--batches", nargs="+", type=int)
    parser.add_argument("--precision", choices=sorted(LIMITS), default="fp16")
    parser.add_argument("--tune", default="measure")
    parser.add_argument("--budget", type=float, default=90.0)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--burst", type=int, default=20)
    parser.add_argument("--peers", nargs="*", default=["graph", "compile"])
    parser.add_argument("--layers", action="store_true", help="print the time of every kernel")
    parser.add_argument("--timing-cache", type=Path)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    rows = []
    for name in options.models:
        for batch in options.batches or BATCHES.get(name, (1, 128)):
            rows.append(measure(name, batch, options))
            print(json.dumps({k: v for k, v in rows[-1].items() if k != "kernels"}), flush=True)
            if options.json is not None:
                about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
                options.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


def measure(name: str, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """Build, check and time one model at one batch; return its row."""
    model, sample = architecture(name, batch)
    with torch.inference_mode():
        wanted = model.cuda()(sample.cuda()).float().cpu().numpy()
    row: dict[str, Any] = {"model": name, "batch": batch, "precision": options.precision}
    start = time.perf_counter()
    engine = built(model.cpu(), sample, options)
    row["build_s"] = round(time.perf_counter() - start, 1)

    half = model.half().cuda().to(memory_format=torch.channels_last)
    given = sample.cuda() if name == "bert" else channels_last_half(sample)
    with torch.inference_mode():
        row["error_of_peer"] = relative_error(half(given).float().cpu(), wanted)
    stream = torch.cuda.Stream()
    ours = planish_run(engine, sample.cuda(), stream)
    row["error"] = relative_error(next(iter(ours().result().values())), wanted)
    row["streams"] = 1 + max(step.stream for step in engine.plan.steps)
    if not row["error"] < LIMITS[options.precision] * row["error_of_peer"]:
        return {**row, "failure": "the results differ from float32's"}
    runs: dict[str, Run] = {"planish": ours}
    with torch.cuda.stream(stream), torch.inference_mode():
        if "graph" in options.peers:
            runs["graph"] = graphed(half, given, stream)
        if "compile" in options.peers:
            runs["compile"] = compiled(half, given)
        times = interleaved(runs, stream, options)
    ms = {key: statistics.median(samples) for key, samples in times.items()}
    row["ms"] = {key: round(value, 4) for key, value in ms.items()}
    for key in ms:
        if key != "planish":
            pairs = zip(times[key], times["planish"], strict=True)
            row[f"against_{key}"] = round(statistics.median(a / b for a, b in pairs), 3)
    if options.layers:
        row["kernels"] = kernel_times(engine, sample)
    return row


# -- models --------------------------------------------------------------------------------------


def architecture(name: str, batch: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """Return a float32 model on the CPU and its input."""
    torch.manual_seed(0)
    if name == "bert":
        from transformers import BertConfig, BertModel

        model: torch.nn.Module = _Hidden(BertModel(BertConfig(attn_implementation="sdpa")))
        sample = torch.randint(0, VOCABULARY, (batch, SEQUENCE))
    else:
        import torchvision

        special = {"init_weights": True, "aux_logits": True} if name == "inception_v3" else {}
        model = torchvision.models.get_model(name, weights=None, **special)
        size = 299 if name == "inception_v3" else 224
        sample = torch.randn(batch, 3, size, size)
    for key, parameter in model.named_parameters():
        if key.endswith("bias") or not parameter.any():  # torchvision's ViT begins with a zero head
            torch.nn.init.normal_(parameter, std=0.02)
    return settled(model.eval(), sample, name), sample


def settled(model: torch.nn.Module, sample: torch.Tensor, name: str) -> torch.nn.Module:
    """Return the model with the statistics that its normalizations would have learned."""
    if name in ("bert", "vit_b_16"):
        return model
    model.cuda().train()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None
            elif isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
        model(torch.randn(16, *sample.shape[1:], device="cuda"))
    return model.cpu().eval()


class _Hidden(torch.nn.Module):
    """BERT from token numbers to the last hidden states."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=tokens).last_hidden_state


def built(model: torch.nn.Module, sample: torch.Tensor, options: argparse.Namespace) -> Any:
    """Return a Planish engine of the model."""
    config: dict[str, Any] = {}
    if options.precision == "int8":
        batches = [torch.randn(1, *sample.shape[1:]).numpy() for _ in range(16)]
        config["calibrator"] = planish.EntropyCalibrator2(batches)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(model, (sample,), path, dynamo=True, opset_version=20, verbose=False)
        return planish.build(
            path,
            planish.BuildConfig(
                device="cuda", precision=PRECISIONS[options.precision], tune=options.tune,
                time_budget=options.budget, timing_cache=options.timing_cache, **config,
            ),
        )  # fmt: skip


# -- runs ----------------------------------------------------------------------------------------


def planish_run(engine: Any, sample: torch.Tensor, stream: torch.cuda.Stream) -> Run:
    feeds = {engine.inputs[0].name: sample.contiguous()}
    return lambda: engine.run_async(feeds, stream=stream)


def channels_last_half(sample: torch.Tensor) -> torch.Tensor:
    return sample.half().cuda().to(memory_format=torch.channels_last)


def graphed(model: torch.nn.Module, given: torch.Tensor, stream: torch.cuda.Stream) -> Run:
    torch.backends.cudnn.benchmark = True
    for _ in range(3):
        model(given)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        model(given)
    return graph.replay


def compiled(model: torch.nn.Module, given: torch.Tensor) -> Run:
    import torch._inductor.config as inductor

    inductor.freezing = True
    torch._dynamo.reset()
    fast = torch.compile(model, mode="reduce-overhead")
    for _ in range(4):
        fast(given)
    return lambda: fast(given)


def interleaved(
    runs: dict[str, Run], stream: torch.cuda.Stream, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Return milliseconds a call of every runtime, one figure a round."""
    times: dict[str, list[float]] = {key: [] for key in runs}
    for turn in range(options.rounds + 2):
        order = list(runs) if turn % 2 else list(reversed(runs))
        for key in order:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            stream.synchronize()
            start.record(stream)
            for _ in range(options.burst):
                runs[key]()
            end.record(stream)
            end.synchronize()
            if turn >= 2:  # the first ones warm up
                times[key].append(start.elapsed_time(end) / options.burst)
    return times


def relative_error(got: Any, wanted: np.ndarray) -> float:
    array = np.asarray(got.numpy() if hasattr(got, "numpy") else got, np.float64)
    difference = array - wanted
    return float(np.sqrt(np.mean(difference**2) / np.mean(wanted.astype(np.float64) ** 2)))


def kernel_times(engine: Any, sample: torch.Tensor) -> list[tuple[str, float]]:
    """Return microseconds of every step, launched one by one."""
    feeds = {engine.inputs[0].name: sample.numpy()}
    profile = engine.profile(feeds, runs=20)
    print(profile.to_text(15), flush=True)
    return [(region.layers, region.median) for region in profile.regions]


if __name__ == "__main__":
    main()
