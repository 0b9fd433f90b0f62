"""Converted SavedModels side by side with native TensorFlow, in one process.

usage: python tensorflow_models.py [--models ResNet50 InceptionV3 MobileNetV2] [--batches 1 8]
                                   [--precisions FP32 FP16] [--threads 2] [--rounds 10]
                                   [--burst 5] [--budget 120] [--json FILE]

Each Keras model (random weights) is saved as a SavedModel and converted with TF-TRT's interface.
The signatures of both are called as users do, `signature(x)[key].numpy()`, in bursts in alternating
order; the figure is the median, the ratio the median over rounds of (TensorFlow's burst median /
ours): above 1 means Planish is faster. Results are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCES = {"FP32": 1e-3, "FP16": 5e-2}  # of the largest output


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=["ResNet50", "InceptionV3", "MobileNetV2"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--precisions", nargs="+", default=["FP32", "FP16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--burst", type=int, default=5)
    parser.add_argument("--budget", type=float, default=120.0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    cores = sorted(os.sched_getaffinity(0))[: options.threads]
    os.sched_setaffinity(0, cores)  # before TensorFlow counts them
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    rows = [
        row for name in options.models for row in measure_model(tf, name, options)
    ]  # fmt: skip
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure_model(tf: Any, name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Convert one model in every precision and return its rows."""
    from planish.frontends.tensorflow import trt_convert as trt

    tf.keras.utils.set_random_seed(0)
    model = getattr(tf.keras.applications, name)(weights=None)
    size = model.input_shape[1]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model.export(f"{folder}/native")
        native = signature_of(tf, f"{folder}/native")
        for precision in options.precisions:
            converter = trt.TrtGraphConverterV2(
                input_saved_model_dir=f"{folder}/native",
                precision_mode=precision,
                time_budget=options.budget,
            )
            start = time.perf_counter()
            converter.convert()
            seconds = time.perf_counter() - start
            converter.save(f"{folder}/{precision}")
            engine = signature_of(tf, f"{folder}/{precision}")
            for batch in options.batches:
                x = tf.constant(np.random.default_rng(1).random((batch, size, size, 3), np.float32))
                error = difference(native(x), engine(x))
                if error > TOLERANCES[precision]:
                    raise SystemExit(f"{name} {precision}: results differ by {error:.2g}")
                row = compare(partial(native, x), partial(engine, x), options)
                row |= {"model": name, "precision": precision, "batch": batch}
                row |= {"threads": options.threads, "error": error, "conversion_s": seconds}
                rows.append(row)
                print(
                    f"{name:<16} {precision} batch {batch}: TensorFlow {row['tensorflow_ms']:8.2f} "
                    f"ms, Planish {row['planish_ms']:8.2f} ms, ratio {row['ratio']:.2f}",
                    flush=True,
                )
    return rows


def signature_of(tf: Any, folder: str) -> Callable[[Any], np.ndarray]:
    """Return a function from a tensor to the first output of a SavedModel as an array."""
    loaded = tf.saved_model.load(folder)
    function = loaded.signatures["serving_default"]
    key = sorted(function.structured_outputs)[0]

    def call(x: Any, keep: Any = loaded) -> np.ndarray:
        return function(x)[key].numpy()

    return call


def difference(expected: np.ndarray, got: np.ndarray) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def compare(
    native: Callable[[], Any], engine: Callable[[], Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Return medians in milliseconds and the ratio of two functions, in alternating bursts."""
    samples: dict[str, list[list[float]]] = {"tensorflow": [], "planish": []}
    runners = [("tensorflow", native), ("planish", engine)]
    for number in range(options.rounds):
        for name, run in runners if number % 2 else reversed(runners):
            times = []
            for _ in range(options.burst):
                start = time.perf_counter()
                run()
                times.append(1e3 * (time.perf_counter() - start))
            samples[name].append(times)
    medians = {name: [statistics.median(burst) for burst in bursts]
               for name, bursts in samples.items()}  # fmt: skip
    ratios = [a / b for a, b in zip(medians["tensorflow"], medians["planish"], strict=True)]
    return {
        "tensorflow_ms": statistics.median(medians["tensorflow"]),
        "planish_ms": statistics.median(medians["planish"]),
        "ratio": statistics.median(ratios),
    }


if __name__ == "__main__":
    main()
