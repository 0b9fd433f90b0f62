"""`planish run`: one inference, arrays in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from planish.cli.common import emit, engine_of, parse_profiles, read_inputs
from planish.config import BuildConfig
from planish.engine.writer import check_writable


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("run")(run_command)


def run_command(
    engine: Annotated[Path, typer.Argument(help="an engine (.plan) or a model")],
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="NAME=FILE.npy or FILE.npz; random values without any"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="write outputs as .npz")
    ] = None,
    profile: Annotated[list[str] | None, typer.Option(help="NAME=MIN:OPT:MAX, for a model")] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16, for a model")] = "fp32",
    threads: Annotated[int | None, typer.Option(help="threads of one inference")] = None,
    seed: Annotated[int, typer.Option(help="for random inputs")] = 0,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Run ENGINE once and print (or write) its outputs."""
    if output is not None:
        check_writable(output)
    config = BuildConfig(profiles=parse_profiles(profile or []), precision=precision,
                         threads=threads, tune="off")  # fmt: skip
    loaded = engine_of(engine, config)
    results = loaded.run(read_inputs(loaded, inputs or [], seed))
    if output is not None:
        with output.open("wb") as file:
            np.savez(file, **results)  # type: ignore[arg-type]
    rows = [{"name": name, "dtype": str(array.dtype), "shape": list(array.shape),
             **_summary(array)} for name, array in results.items()]  # fmt: skip
    text = "\n".join(f"{row['name']}: {row['dtype']}{row['shape']} min {row['min']} max "
                     f"{row['max']} mean {row['mean']}" for row in rows)  # fmt: skip
    emit(rows, as_json, text)


def _summary(array: np.ndarray) -> dict[str, float | None]:
    if array.size == 0 or array.dtype == object:
        return {"min": None, "max": None, "mean": None}
    values = array.astype(np.float64)
    return {"min": float(values.min()), "max": float(values.max()), "mean": float(values.mean())}
