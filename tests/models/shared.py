"""Where the real models lie, and how their recorded outputs are compared."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

FOLDER = Path(os.environ.get("PLANISH_SHARED") or Path(__file__).parents[3] / "shared") / "models"
SUFFIXES = (".io.npz", ".ort_io.npz")
ABSENT = f"there are no models with recorded outputs in {FOLDER} (set PLANISH_SHARED)"


def recorded_models() -> dict[str, tuple[Path, Path]]:
    """Return name to (model, recorded inputs and outputs) of every ONNX model, sorted by name."""
    found = {}
    for model in sorted(FOLDER.glob("**/*.onnx")):
        records = [model.with_name(model.name + suffix) for suffix in SUFFIXES]
        for record in records:
            if record.is_file():
                found.setdefault(str(model.relative_to(FOLDER)), (model, record))
    return found


def read_record(path: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the recorded inputs and outputs by name."""
    arrays = np.load(path, allow_pickle=False)
    sides: dict[str, dict[str, Array]] = {"in": {}, "out": {}}
    for key in arrays.files:
        side, _, name = key.partition(":")
        sides[side][name] = arrays[key]
    return sides["in"], sides["out"]


def difference(got: Array, want: Array, tolerance: float, one_step: bool) -> str | None:
    """Return how `got` differs from what was recorded, or None.

    Floats may differ by `tolerance` times the largest magnitude (at least 1), a hundred times as
    much in quantized models; integers must be equal, in quantized models within one step.
    """
    if got.shape != want.shape:
        return f"shape {got.shape}, want {want.shape}"
    if want.dtype.kind in "iub":
        steps = int(np.abs(got.astype(np.int64) - want.astype(np.int64)).max(initial=0))
        return None if steps <= int(one_step) else f"integers differ by {steps}"
    if not np.isfinite(got).all() and np.isfinite(want).all():
        return "not finite"
    worst = float(np.abs(got.astype(np.float64) - want.astype(np.float64)).max(initial=0))
    largest = max(1.0, float(np.abs(want).max(initial=0)))
    limit = tolerance * largest * (100 if one_step else 1)
    return None if worst <= limit else f"differs by {worst:.3g}, allowed {limit:.3g}"


def differences(
    name: str, got: Mapping[str, Array], want: Mapping[str, Array], tolerance: float
) -> list[str]:
    """Return what differs, a line for each output of the model called `name`."""
    one_step = "qdq" in name or "quant" in name
    found = {key: difference(got[key], want[key], tolerance, one_step) for key in want}
    return [f"{key}: {text}" for key, text in found.items() if text is not None]
