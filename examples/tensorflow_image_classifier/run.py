"""Train a small image classifier with Keras, convert it with TF-TRT's interface, and compare.

usage: python run.py [--output FOLDER] [--time-budget SECONDS] [--quick]

Tells stripes from blobs in pictures of 299 x 299 pixels. Writes the native SavedModel and one
converted SavedModel for each precision, a few sample pictures, results.json and results.png.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads would slow TensorFlow's
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from planish.frontends.tensorflow import trt_convert as trt

SIZE, BATCH = 299, 32
CLASSES = ("stripes", "blobs")
# the largest difference of a probability from native TensorFlow's that we accept
TOLERANCES = {"FP32": 1e-4, "FP16": 0.05, "INT8": 0.1}

Images = np.ndarray  # [N, 299, 299, 3], 0 to 255
Signature = Callable[..., dict[str, Any]]


# -- 1. pictures ----------------------------------------------------------------------------------


def stripes(rng: np.random.Generator) -> np.ndarray:
    """Return waves [299, 299] between 0 and 1, of any direction."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    angle, phase, waves = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi), rng.uniform(6, 20)
    return 0.5 + 0.5 * np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)) + phase)


def blobs(rng: np.random.Generator) -> np.ndarray:
    """Return round spots [299, 299] between 0 and 1, as wide as the stripes."""
    place, spots = np.arange(SIZE) / SIZE, rng.integers(20, 60)
    width = rng.uniform(0.02, 0.06, (spots, 1))
    rows = np.exp(-(((place - rng.random((spots, 1))) / width) ** 2))
    columns = np.exp(-(((place - rng.random((spots, 1))) / width) ** 2))
    return np.minimum(rows.T @ columns, 1)


def make_images(count: int, seed: int) -> tuple[Images, np.ndarray]:
    """Return `count` noisy pictures in random colours, 8 bits deep, and their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(CLASSES))
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):
        pattern = (stripes, blobs)[label](rng)[..., np.newaxis]
        dark, light = rng.uniform(0, 110, 3), rng.uniform(130, 255, 3)
        noise = 50 * rng.standard_normal(image.shape, np.float32)
        image[:] = np.clip(dark + (light - dark) * pattern + noise, 0, 255)
    return images, labels


# -- 2. a Keras model, trained and saved ----------------------------------------------------------


def make_model() -> keras.Model:
    """Return an untrained CNN that takes pictures of 0 to 255 and gives two probabilities."""
    image = keras.Input((SIZE, SIZE, 3), name="image")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    for filters in (16, 32, 64, 128):
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.8)(x)  # settles within few batches
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(len(CLASSES), "softmax", name="scores")(x))


def train_and_save(folder: Path, count: int, epochs: int) -> None:
    """Train on `count` pictures and write a SavedModel."""
    keras.utils.set_random_seed(1)
    images, labels = make_images(count, seed=1)
    model = make_model()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, labels, batch_size=16, epochs=epochs, verbose=2)
    model.export(str(folder))


# -- 3. conversion: nothing here is different from TF-TRT but the import --------------------------


def convert(native: Path, folder: Path, precision: str, images: Images, seconds: float) -> None:
    """Convert a SavedModel; engines are tuned for one picture and for a batch."""

    def batches() -> Iterator[tuple[Any]]:
        for start in range(0, len(images), BATCH):
            yield (tf.constant(images[start : start + BATCH], tf.float32),)

    def shapes() -> Iterator[tuple[Any]]:
        for size in (1, BATCH):
            yield (tf.zeros((size, SIZE, SIZE, 3)),)

    params = trt.DEFAULT_TRT_CONVERSION_PARAMS._replace(
        precision_mode=precision, maximum_cached_engines=2
    )
    converter = trt.TrtGraphConverterV2(
        input_saved_model_dir=str(native),
        conversion_params=params,
        time_budget=seconds,  # Planish's own, for convert and for build: TF-TRT has no limit
    )
    converter.convert(calibration_input_fn=batches if precision == "INT8" else None)
    converter.build(input_fn=shapes)
    converter.summary()
    converter.save(output_saved_model_dir=str(folder))


def show(folder: Path) -> None:
    """Show a converted model with TensorFlow's own command."""
    module = "tensorflow.python.tools.saved_model_cli"
    command = [sys.executable, "-m", module, "show", "--dir", str(folder), "--all"]
    # planish_tensorflow.pth, installed with Planish, makes the engine operation known
    subprocess.run(command, env={**os.environ, "PLANISH_TF_TRT": "1"}, check=True)
    print()  # the command leaves its last line open


# -- 4. inference ---------------------------------------------------------------------------------


def run(signature: Signature, images: Any) -> np.ndarray:
    """Return the probabilities [N, 2] of pictures."""
    (scores,) = signature(tf.cast(images, tf.float32)).values()
    return scores.numpy()


def predict(signature: Signature, image_path: Path) -> tuple[str, float]:
    """Return the class of a picture in a file and its probability."""
    data = tf.io.read_file(str(image_path))
    image = tf.io.decode_image(data, channels=3, expand_animations=False)
    (scores,) = run(signature, tf.image.resize(image, (SIZE, SIZE))[tf.newaxis])
    return CLASSES[scores.argmax()], float(scores.max())


def write_samples(folder: Path, images: Images) -> list[Path]:
    """Write pictures as PNG and JPEG in turns."""
    folder.mkdir(exist_ok=True)
    paths = []
    for index, image in enumerate(images):
        encode, suffix = [(tf.io.encode_png, "png"), (tf.io.encode_jpeg, "jpg")][index % 2]
        paths.append(folder / f"sample_{index}.{suffix}")
        tf.io.write_file(str(paths[-1]), encode(image))
    return paths


# -- 5. comparison --------------------------------------------------------------------------------


def median_seconds(models: dict[str, Signature], images: Images, rounds: int) -> dict[str, float]:
    """Return the median time of one call; the models take turns, now forwards, now backwards."""
    batch = tf.constant(images, tf.float32)
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(-1, rounds):  # the first turn warms up
        for name in list(models)[:: 1 if turn % 2 == 0 else -1]:
            for _ in range(1 if len(images) > 1 else 5):
                start = time.perf_counter()
                run(models[name], batch)
                if turn >= 0:
                    times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def compare(models: dict[str, Signature], count: int, rounds: int) -> list[dict[str, Any]]:
    """Return accuracy, largest difference from native TensorFlow, and speed of every model."""
    images, labels = make_images(count, seed=2)  # none of them was trained on
    parts = [images[start : start + BATCH] for start in range(0, count, BATCH)]
    scores = {n: np.concatenate([run(m, part) for part in parts]) for n, m in models.items()}
    expected = next(iter(scores.values()))
    differences = {name: float(np.abs(got - expected).max()) for name, got in scores.items()}
    for name, tolerance in TOLERANCES.items():
        if not differences[name] <= tolerance:
            raise SystemExit(f"{name}: scores are off by {differences[name]:.3g}, not timed")
    single = median_seconds(models, images[:1], rounds)
    batch = median_seconds(models, images[:BATCH], rounds)
    return [
        {
            "model": name,
            "accuracy": float((scores[name].argmax(1) == labels).mean()),
            "difference": differences[name],
            "latency_ms": 1e3 * single[name],
            "images_per_second": BATCH / batch[name],
        }
        for name in models
    ]


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print one line for each model."""
    print("\nmodel       accuracy  largest difference  latency, batch 1  throughput, batch 32")
    for row in rows:
        speedup = row["images_per_second"] / rows[0]["images_per_second"]
        print(f"{row['model']:10s}  {row['accuracy']:8.1%}  {row['difference']:18.2g}  "
              f"{row['latency_ms']:13.2f} ms  {row['images_per_second']:8.0f} images/s "
              f"({speedup:.2f}x)")  # fmt: skip


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw accuracy, latency and throughput as bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    names = [row["model"] for row in rows]
    titles = {
        "accuracy": "accuracy (higher is better)",
        "latency_ms": "ms for 1 image (lower is better)",
        "images_per_second": f"images/s in batches of {BATCH} (higher is better)",
    }
    for axes, (key, title) in zip(figure.subplots(1, len(titles)), titles.items(), strict=True):
        bars = axes.bar(names, [row[key] for row in rows], color=["#9aa5b1", *["#2f80c2"] * 3])
        axes.bar_label(bars, fmt="{:.3g}")
        axes.margins(y=0.12)
        axes.set_title(title, fontsize=10)
    figure.savefig(path, dpi=120, format="png")


def main() -> None:
    """Train, save, convert, show, load, predict, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("image_classifier"))
    parser.add_argument("--time-budget", type=float, help="seconds to tune an engine (20)")
    parser.add_argument("--quick", action="store_true", help="little training and tuning")
    given = parser.parse_args()
    try:
        import matplotlib  # noqa: F401  (said now, not after minutes of work)
    except ImportError as error:
        raise SystemExit("the picture needs Matplotlib: pip install 'planish[examples]'") from error
    if given.output.exists():
        raise SystemExit(f"{given.output} exists already: remove it, or choose another --output")
    count, epochs, rounds, budget = (160, 3, 3, 2.0) if given.quick else (480, 4, 20, 20.0)
    if given.time_budget is not None:
        budget = given.time_budget

    native = given.output / "native"
    given.output.mkdir(parents=True)
    train_and_save(native, count, epochs)
    folders = {"TensorFlow": native}
    calibration, _ = make_images(2 * BATCH, seed=3)
    for precision in TOLERANCES:
        folders[precision] = given.output / precision.lower()
        convert(native, folders[precision], precision, calibration, budget)
    show(folders["FP32"])

    loaded = {name: tf.saved_model.load(str(folder)) for name, folder in folders.items()}
    models = {name: model.signatures["serving_default"] for name, model in loaded.items()}
    samples, _ = make_images(4, seed=4)
    for path in write_samples(given.output / "samples", samples):
        for name, model in models.items():
            label, probability = predict(model, path)
            print(f"{path.name}: {name:10s} says {label} ({probability:.1%})")
    rows = compare(models, count=96 if given.quick else 256, rounds=rounds)
    print_table(rows)
    (given.output / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    draw(rows, given.output / "results.png")
    print(f"drawn in {given.output / 'results.png'}")


if __name__ == "__main__":
    main()
