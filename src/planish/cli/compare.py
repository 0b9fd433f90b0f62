"""`planish compare`: an engine's outputs against another runtime's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from planish.cli.calibration import (
    Calibrate,
    CalibrationCache,
    CalibratorName,
    Preprocess,
    make_calibrator,
)
from planish.cli.common import (
    EXIT_DIFFERENT,
    Array,
    AsJson,
    Device,
    Inputs,
    Precision,
    Profiles,
    Seed,
    Signature,
    Tags,
    TargetName,
    Threads,
    emit,
    engine_of,
    guarded,
    parse_profiles,
    parse_tags,
    read_inputs,
    table,
)
from planish.cli.peers import make_peer
from planish.config import BuildConfig

# Relative to the largest output value; bf16 has 8 significant bits and rounds every layer, int8
# rounds to 127 steps.
DEFAULT_TOLERANCE = {
    "fp32": 5e-4, "bf16": 5e-2, "fp16": 5e-2, "fp8": 0.2, "int8": 0.2, "best": 0.2,
}  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("compare")(guarded(compare_command))


def compare_command(
    model: Annotated[Path, typer.Argument(help="The model.")],
    engine: Annotated[
        Path | None,
        typer.Option(help="An engine of the model; without it MODEL is built, untuned."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="onnxruntime, openvino, tensorflow or reference (numpy, slow). By default "
            "tensorflow for a SavedModel, onnxruntime for ONNX."
        ),
    ] = None,
    inputs: Inputs = None,
    profile: Profiles = None,
    signature: Signature = None,
    tags: Tags = None,
    device: Device = "cpu",
    target: TargetName = None,
    precision: Precision = "fp32",
    calibrate: Calibrate = None,
    calibrator: CalibratorName = "entropy2",
    calibration_cache: CalibrationCache = None,
    preprocess: Preprocess = None,
    threads: Threads = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Largest allowed error, relative to the largest value of an output (at least 1). "
            "By default 5e-4, 5e-2 for bf16 and fp16, and 0.2 for int8 and best."
        ),
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Compare the outputs of MODEL's engine with another runtime's, on the same inputs.

    The exit code is 1 when an output differs by more than the tolerance.
    """
    config = BuildConfig(
        device=device, target=target,
        profiles=parse_profiles(profile), precision=precision, threads=threads, tune="off",
        signature=signature, tags=parse_tags(tags),
        calibrator=make_calibrator(calibrator, calibrate, preprocess, calibration_cache),
    )  # fmt: skip
    loaded = engine_of(engine or model, config)
    limit = DEFAULT_TOLERANCE.get(loaded.report.precision, 5e-4) if tolerance is None else tolerance
    arrays = read_inputs(loaded, inputs, seed)
    got = loaded.run(arrays)
    peer = against or ("tensorflow" if model.is_dir() else "onnxruntime")
    want = make_peer(peer, model, replace(config, threads=loaded.threads))(arrays)
    rows = [difference(name, got[name], np.asarray(want[name]), limit) for name in got]
    emit({"against": peer, "tolerance": limit, "outputs": rows}, as_json, _text(rows))
    if not all(row["ok"] for row in rows):
        raise typer.Exit(EXIT_DIFFERENT)


def difference(name: str, got: Array, want: Array, limit: float) -> dict[str, Any]:
    """Return max and mean error of an output, and whether it stays within the tolerance.

    Equal infinities and NaNs in the same places are no difference.
    """
    row: dict[str, Any] = {"output": name, "got": f"{got.dtype}{list(got.shape)}",
                           "want": f"{want.dtype}{list(want.shape)}"}  # fmt: skip
    nothing = {"max_error": None, "mean_error": None, "largest": None}
    if row["got"] != row["want"]:
        return {**row, "ok": False, **nothing}
    if got.dtype == object:
        return {**row, "ok": bool((got == want).all()), **nothing}
    kind = np.complex128 if got.dtype.kind == "c" else np.float64
    mine, theirs = got.astype(kind), want.astype(kind)
    same = (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(mine - theirs))
    error = np.where(np.isnan(error), np.inf, error)
    magnitude = np.abs(theirs)
    largest = float(magnitude[np.isfinite(magnitude)].max(initial=0.0))
    worst = float(error.max(initial=0.0))
    return {
        **row,
        "ok": worst <= limit * max(1.0, largest),
        "max_error": worst,
        "mean_error": float(error.mean()) if error.size else 0.0,
        "largest": largest,
    }


def _text(rows: list[dict[str, Any]]) -> str:
    lines = [("", "output", "type", "max error", "mean error", "largest value")]
    for row in rows:
        kind = row["got"] if row["got"] == row["want"] else f"{row['got']}, not {row['want']}"
        numbers = ("-" if row[key] is None else f"{row[key]:.3g}"
                   for key in ("max_error", "mean_error", "largest"))  # fmt: skip
        lines.append(("ok" if row["ok"] else "DIFFERS", row["output"], kind, *numbers))
    return "\n".join(table(lines, numbers=3))
