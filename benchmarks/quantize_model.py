"""Write the INT8 (QDQ) form of a float ONNX model, for models.py: every engine reads the same file.

usage: python quantize_model.py MODEL.onnx RESULT.onnx [--batches 3] [--sequence 128] [--symmetric]

ONNX Runtime's static quantization: weights i8 with a scale for each output channel, activations u8
with zero points, or i8 without (--symmetric). It calibrates on random data, so the result says
nothing about accuracy; its speed is that of any other calibration.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)


class RandomBatches(CalibrationDataReader):
    """Random inputs of a model; symbolic extents are 1, of the second axis `sequence`."""

    def __init__(self, path: Path, batches: int, sequence: int) -> None:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self._inputs, self._sequence = session.get_inputs(), sequence
        self._batches = self._all(batches)

    def _all(self, batches: int) -> Iterator[dict[str, np.ndarray]]:
        random = np.random.default_rng(0)
        for _ in range(batches):
            yield {given.name: self._random(given, random) for given in self._inputs}

    def _random(self, given: onnxruntime.NodeArg, random: np.random.Generator) -> np.ndarray:
        free = (1, self._sequence)
        shape = [
            extent if isinstance(extent, int) else free[min(axis, 1)]
            for axis, extent in enumerate(given.shape)
        ]
        if "int64" not in given.type:
            return random.standard_normal(shape).astype(np.float32)
        return np.ones(shape, np.int64) if "mask" in given.name else np.zeros(shape, np.int64)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch."""
        return next(self._batches, None)


def main() -> None:
    """Quantize."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--sequence", type=int, default=128)
    parser.add_argument("--symmetric", action="store_true")
    given = parser.parse_args()
    kind = QuantType.QInt8 if given.symmetric else QuantType.QUInt8
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(given.model), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(given.result),
            RandomBatches(given.model, given.batches, given.sequence),
            quant_format=QuantFormat.QDQ, per_channel=True, activation_type=kind,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True} if given.symmetric else {},
        )  # fmt: skip
    sys.stdout.write(f"{given.result}: {given.result.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
