"""Build an engine from digits.onnx, save it, load it, and compare with ONNX Runtime.

usage: python run.py [--precision fp32|bf16] [--threads N] [--time-budget SECONDS] [--json FILE]

Prints the accuracy on held-out images and the latency of both runtimes, one image and 32 images at
a time. ONNX Runtime is optional; without it only Planish is measured.
"""

import argparse
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning peers would slow the others

import numpy as np

import planish

HERE = Path(__file__).parent
ROUNDS, BURST = 20, 20

Classifier = Callable[[np.ndarray], np.ndarray]


def onnxruntime_classifier(path: Path, threads: int) -> Classifier | None:
    """Return ONNX Runtime's classifier, or None where it is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"image": images})[0]


def accuracy(classify: Classifier, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of `images` [N, 1, 8, 8] that are classified as their label, in batches."""
    scores = [classify(images[i : i + 32]) for i in range(0, len(images), 32)]
    return float((np.concatenate(scores).argmax(1) == labels).mean())


def latencies(classifiers: dict[str, Classifier], images: np.ndarray) -> dict[str, float]:
    """Return the median microseconds of one call; the runtimes take turns in short bursts."""
    times: dict[str, list[float]] = {name: [] for name in classifiers}
    for turn in range(ROUNDS):
        for name in list(classifiers)[:: 1 if turn % 2 == 0 else -1]:
            for _ in range(BURST):
                start = time.perf_counter()
                classifiers[name](images)
                times[name].append((time.perf_counter() - start) * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Build, save, load, run, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--time-budget", type=float, default=120.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    held_out = np.load(HERE / "held_out.npz")
    images, labels = held_out["images"], held_out["labels"]

    config = planish.BuildConfig(
        precision=arguments.precision,
        threads=arguments.threads,
        time_budget=arguments.time_budget,
    )
    start = time.perf_counter()
    engine = planish.build(HERE / "digits.onnx", config)
    print(f"built in {time.perf_counter() - start:.1f} s: {len(engine.report.layers)} regions")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.plan"
        engine.save(path)
        start = time.perf_counter()
        engine = planish.load(path)
        print(f"saved {path.stat().st_size:,} bytes, loaded in "
              f"{(time.perf_counter() - start) * 1e3:.1f} ms")  # fmt: skip

    classifiers: dict[str, Classifier] = {"planish": engine}
    peer = onnxruntime_classifier(HERE / "digits.onnx", arguments.threads)
    if peer is not None:
        classifiers["onnxruntime"] = peer
    rows = []
    for batch in (1, 32):
        medians = latencies(classifiers, images[:batch])
        for name, classify in classifiers.items():
            rows.append({
                "runtime": name, "batch": batch, "median_us": round(medians[name], 1),
                "ratio": round(medians[name] / medians["planish"], 2),
                "accuracy": round(accuracy(classify, images, labels), 4),
            })  # fmt: skip
    for row in rows:
        print(f"{row['runtime']:12s} batch {row['batch']:2d}: accuracy {row['accuracy']:.2%}, "
              f"{row['median_us']:8.1f} us a call, {row['ratio']:.2f}x planish")  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
