"""What several verbs share: options, inputs, engines from either kind of file, and output."""

from __future__ import annotations

import importlib
import json
import threading
import time
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from planish.builder import build
from planish.config import BuildConfig, Profile
from planish.config import Progress as BuildProgress
from planish.runtime.engine import load
from planish.errors import ConfigError, InputError
from planish.ir.dtypes import dtype_by_name
from planish.ir.shape import evaluate
from planish.runtime.engine import Engine, load

Array = np.ndarray[Any, Any]

EXIT_DIFFERENT = 1  # `compare` found a difference beyond the tolerance
EXIT_USER_ERROR = 2  # bad arguments, a bad model, a bad engine
EXIT_INTERRUPTED = 130

console = Console()
errors = Console(stderr=True)


def parse_profiles(texts: list[str]) -> dict[str, Profile]:
    """Read ``name=1x3x224x224:8x3x224x224:32x3x224x224`` (or one shape for all three)."""
    profiles = {}
    for text in texts:
        name, separator, ranges = text.rpartition("=")
        parts = ranges.split(":")
        if not separator or len(parts) not in (1, 3):
            raise ConfigError(
                f"cannot read the profile {text!r}",
                where="--profile",
                fix="write NAME=MIN:OPT:MAX with shapes like 1x3x224x224, or NAME=SHAPE",
            )
        shapes = [_parse_shape(part, text) for part in parts]
        profiles[name] = Profile(shapes[0], shapes[-2 if len(shapes) == 3 else 0], shapes[-1])
    return profiles


def _parse_shape(part: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(extent) for extent in part.split("x") if part)
    except ValueError as error:
        raise ConfigError(
            f"cannot read the shape {part!r} in {text!r}",
            where="--profile",
            fix="write 1x3x224x224",
        ) from error


def engine_of(path: Path, config: BuildConfig) -> Engine:
    """Load `path` when it is an engine, build it when it is a model."""
    if path.suffix == ".plan":
        return load(path)
    with progress_bar() as report:
        return build(path, _with_progress(config, report))


def _with_progress(config: BuildConfig, report: Any) -> BuildConfig:
    values = {name: getattr(config, name) for name in BuildConfig.__dataclass_fields__}
    return BuildConfig(**{**values, "progress": report})


@contextmanager
def progress_bar() -> Iterator[Any]:
    """Show the stage, how far it is, and the time left; nothing when stderr is not a terminal."""
    columns = (TextColumn("{task.description:10s}"), BarColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("", total=1, note="")

        def report(progress: BuildProgress) -> None:
            note = f"{progress.done}/{progress.total}  {progress.remaining:.0f} s left  "
            bar.update(task, description=progress.stage, completed=progress.done,
                       total=max(progress.total, 1), note=note + progress.detail)  # fmt: skip

        yield report


def read_inputs(engine: Engine, paths: list[str], seed: int = 0) -> dict[str, Array]:
    """Return arrays for every input: from ``name=file.npy`` or an ``.npz``, else random."""
    given: dict[str, Array] = {}
    for text in paths:
        name, separator, path = text.rpartition("=")
        loaded = _load_array(Path(path))
        if isinstance(loaded, dict):
            given.update({key.removeprefix("in:"): array for key, array in loaded.items()
                          if not key.startswith("out:")})  # fmt: skip
        elif separator:
            given[name] = loaded
        elif len(engine.inputs) == 1:
            given[engine.inputs[0].name] = loaded
        else:
            raise InputError(
                f"{path} holds one array but the engine has {len(engine.inputs)} inputs",
                fix="write NAME=FILE for each: " + ", ".join(info.name for info in engine.inputs),
            )
    return given or random_inputs(engine, seed)


def _load_array(path: Path) -> Array | dict[str, Array]:
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read an array: {error}", where=str(path), fix="give a .npy or .npz file"
        ) from error
    return loaded if isinstance(loaded, np.ndarray) else {k: loaded[k] for k in loaded.files}


def random_inputs(
    engine: Engine, seed: int = 0, sizes: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """Return random inputs at the profile's opt shape: normal floats, integers of 0..9."""
    generator = np.random.default_rng(seed)
    bindings = {name: opt for name, (_, opt, _) in engine.ranges.items()} | dict(sizes or {})
    arrays: dict[str, Array] = {}
    for info in engine.inputs:
        shape = [evaluate(dim, bindings) for dim in info.shape]
        dtype = dtype_by_name(info.dtype)
        values = (
            generator.standard_normal(shape) if dtype.is_float else generator.integers(0, 10, shape)
        )
        arrays[info.name] = np.asarray(values % 2 if info.dtype == "bool" else values).astype(
            dtype.numpy
        )
    return arrays


def emit(data: Any, as_json: bool, text: str) -> None:
    """Print `data` as JSON or `text` for people."""
    print(json.dumps(data, indent=1) if as_json else text)


def optional_module(name: str, install: str) -> types.ModuleType:
    """Import an optional package; raise ConfigError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} is not installed", fix=f"pip install {install}") from error


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return min, median, mean, p90, p99 in milliseconds and runs a second."""
    times = np.asarray(seconds) * 1e3
    return {
        "min_ms": round(float(times.min()), 4),
        "median_ms": round(float(np.median(times)), 4),
        "mean_ms": round(float(times.mean()), 4),
        "p90_ms": round(float(np.percentile(times, 90)), 4),
        "p99_ms": round(float(np.percentile(times, 99)), 4),
        "per_second": round(1e3 / float(np.median(times)), 2),
    }


def interrupt_flag() -> tuple[threading.Event, Any]:
    """Return an event and a signal handler that sets it: Ctrl-C ends tuning, keeps the engine."""
    event = threading.Event()
    started = time.monotonic()

    def handler(*_: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()
        errors.print(f"finishing with the engine so far ({time.monotonic() - started:.0f} s); "
                     "press Ctrl-C again to abandon it")  # fmt: skip

    return event, handler
