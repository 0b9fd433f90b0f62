"""`planish run`: one inference, arrays in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from planish.cli.common import (
    Array,
    AsJson,
    Device,
    EngineOrModel,
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
    writing,
)
from planish.config import BuildConfig
from planish.engine.writer import check_writable


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("run")(guarded(run_command))


def run_command(
    engine: EngineOrModel,
    inputs: Inputs = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the outputs to this .npz file.")
    ] = None,
    profile: Profiles = None,
    signature: Signature = None,
    tags: Tags = None,
    device: Device = "cpu",
    target: TargetName = None,
    precision: Precision = "fp32",
    threads: Threads = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Run ENGINE once; print shape, minimum, maximum and mean of its outputs, or write them."""
    if output is not None:
        check_writable(output)
    config = BuildConfig(
        device=device, target=target,
        profiles=parse_profiles(profile), precision=precision, threads=threads, tune="off",
        signature=signature, tags=parse_tags(tags),
    )  # fmt: skip
    loaded = engine_of(engine, config)
    results = loaded.run(read_inputs(loaded, inputs, seed))
    if output is not None:
        with writing(output, "outputs") as file:
            storable: dict[str, Any] = {name: _storable(each) for name, each in results.items()}
            np.savez(file.buffer, **storable)
    rows = [{"name": name, "dtype": str(array.dtype), "shape": list(array.shape),
             **_summary(array)} for name, array in results.items()]  # fmt: skip
    lines = [("output", "type", "min", "max", "mean")]
    lines += [(row["name"], f"{row['dtype']}{row['shape']}",
               *(_text(row[key]) for key in ("min", "max", "mean"))) for row in rows]  # fmt: skip
    emit(rows, as_json, "\n".join(table(lines, numbers=3)))


def _summary(array: Array) -> dict[str, Any]:
    if array.size == 0 or array.dtype == object or array.dtype.kind == "c":
        return {"min": None, "max": None, "mean": None}
    values = array.astype(np.float64)
    return {"min": float(values.min()), "max": float(values.max()), "mean": float(values.mean())}


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _storable(array: Array) -> Array:
    """Return `array` in a type that .npz files hold: text as text, short floats as float32."""
    if array.dtype == object:
        return array.astype(str)
    return array.astype(np.float32) if array.dtype.kind == "V" else array
