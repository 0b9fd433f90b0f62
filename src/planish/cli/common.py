"""What several verbs share: options, errors, inputs, engines from either kind of file, output."""

from __future__ import annotations

import functools
import json
import math
import os
import secrets
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TextIO

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from planish.builder import build
from planish.config import BuildConfig, Profile
from planish.config import Progress as BuildProgress
from planish.errors import BuildCancelled, ConfigError, InputError, PlanishError
from planish.importers.keras_file import KERAS_SUFFIXES
from planish.ir.dtypes import STRING, dtype_by_name
from planish.ir.shape import evaluate
from planish.runtime.engine import Engine, load

Array = np.ndarray[Any, Any]

EXIT_DIFFERENT = 1  # `compare` found a difference, or `doctor` misses something essential
EXIT_USER_ERROR = 2  # bad arguments, a bad model, a bad engine
EXIT_INTERRUPTED = 130

ENGINE_MAGIC = b"PK\x03\x04"  # an engine is a zip file, an ONNX model never starts like one

# Options that several verbs have. A verb adds the default.
EngineOrModel = Annotated[
    Path,
    typer.Argument(
        help="An engine file (.plan), or a model that is built first: ONNX, a TensorFlow "
        "SavedModel folder, a frozen graph (.pb), a Keras file."
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="NAME=FILE",
        help="Input array from a .npy file, or FILE.npz with all inputs. May be given several "
        "times. Without any, inputs are random.",
    ),
]
Profiles = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=MIN:OPT:MAX",
        help="Shapes that a dynamic input may have, for example "
        "x=1x224:8x224:32x224. One shape instead of three fixes it. May be "
        "given several times.",
    ),
]
Signature = Annotated[
    str | None,
    typer.Option(help="Signature of a SavedModel; by default serving_default, else the only one."),
]
Tags = Annotated[
    str | None,
    typer.Option(help="Tag set of a SavedModel, with commas; by default the one for serving."),
]
Device = Annotated[str, typer.Option(help="Where the engine of a model runs: cpu, or cuda.")]
TargetName = Annotated[
    str | None,
    typer.Option(
        "--target",
        help="GPU architecture to build for, like sm_90; by default that of the GPU here.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(help="Precision of a model that is built: fp32, bf16, fp16, fp8, int8 or best."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        help="Threads of one inference; by default what an engine was built for, or all cores."
    ),
]
Tune = Annotated[
    str,
    typer.Option(help="off: heuristic choices. cache: known times only. measure: time kernels."),
]
TimeBudget = Annotated[float, typer.Option(help="Seconds that a whole build may take.")]
TimingCache = Annotated[
    Path | None, typer.Option(help="File of measured times: read, and updated after measuring.")
]
Seed = Annotated[int, typer.Option(help="Seed of random inputs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def guarded(verb: Callable[..., None]) -> Callable[..., None]:
    """Wrap a verb: errors become messages and exit codes, warnings one line each on stderr."""

    @functools.wraps(verb)
    def wrapper(*arguments: Any, **options: Any) -> None:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                verb(*arguments, **options)
            sys.stdout.flush()
        except BuildCancelled as error:
            complain(f"interrupted: {error}")
            raise typer.Exit(EXIT_INTERRUPTED) from error
        except PlanishError as error:
            complain(f"error: {type(error).__name__}: {error}")
            raise typer.Exit(EXIT_USER_ERROR) from error
        except KeyboardInterrupt as error:
            complain("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from error
        except BrokenPipeError as error:  # the reader of a pipe (head, less) has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from error

    return wrapper


def complain(text: str) -> None:
    """Print `text` on stderr as it is: no markup, no wrapping; the first word red in a terminal."""
    if not sys.stderr.isatty():
        print(text, file=sys.stderr)
        return
    label, colon, rest = text.partition(":")
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    console.print(label, style="bold red", end="")
    console.print(colon + rest)


def emit(data: Any, as_json: bool, text: str) -> None:
    """Print `data` as JSON (numbers that are not finite as null) or `text` for people."""
    print(json.dumps(_finite(data), indent=1, allow_nan=False) if as_json else text)


def table(rows: Sequence[tuple[str, ...]], numbers: int = 0) -> list[str]:
    """Return rows as aligned lines of any width; the last `numbers` columns align to the right."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    first_number = len(widths) - numbers
    return [
        "  ".join(
            cell.rjust(width) if column >= first_number else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def parse_profiles(texts: list[str] | None) -> dict[str, Profile]:
    """Read ``name=1x3x224x224:8x3x224x224:32x3x224x224`` (or one shape for all three)."""
    profiles: dict[str, Profile] = {}
    for text in texts or []:
        name, _, ranges = text.rpartition("=")
        parts = ranges.split(":")
        if not name or len(parts) not in (1, 3):
            raise _bad_profile(f"cannot read the profile {text!r}")
        if name in profiles:
            raise _bad_profile(f"there are two profiles for the input {name!r}")
        shapes = [_parse_shape(part, text) for part in parts]
        profiles[name] = Profile(shapes[0], shapes[len(shapes) // 2], shapes[-1])
    return profiles


def _parse_shape(part: str, text: str) -> tuple[int, ...]:
    extents = part.split("x") if part else []
    if not all(extent.isdecimal() for extent in extents):
        raise _bad_profile(f"cannot read the shape {part!r} in {text!r}")
    return tuple(map(int, extents))


def _bad_profile(what: str) -> ConfigError:
    return ConfigError(
        what,
        where="--profile",
        fix="write NAME=MIN:OPT:MAX with shapes like 1x3x224x224, or NAME=SHAPE",
    )


def parse_tags(text: str | None) -> tuple[str, ...] | None:
    """Read ``serve,gpu``."""
    return None if text is None else tuple(filter(None, text.split(",")))


def is_engine(path: Path) -> bool:
    """Return whether `path` is an engine file, or is named like one."""
    if not path.is_file() or path.suffix in KERAS_SUFFIXES:  # .keras is a zip file, too
        return path.suffix == ".plan"
    with path.open("rb") as file:
        return file.read(len(ENGINE_MAGIC)) == ENGINE_MAGIC or path.suffix == ".plan"


def engine_of(path: Path, config: BuildConfig) -> Engine:
    """Load `path` when it is an engine, build it when it is a model."""
    if is_engine(path):
        return load(path, threads=config.threads)
    with progress_bar() as report:
        return build(path, replace(config, progress=report))


@contextmanager
def progress_bar() -> Iterator[Callable[[BuildProgress], None]]:
    """Show the stage, how far it is, and the time left; nothing when stderr is not a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:8s}", markup=False),
        BarColumn(),
        _TimeLeft(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=1, note="", deadline=None)

        def report(progress: BuildProgress) -> None:
            counted = f"{progress.done}/{progress.total}" if progress.total > 1 else ""
            bar.update(
                task,
                description=progress.stage,
                completed=progress.done,
                total=max(progress.total, 1),
                note=f"{counted}  {progress.detail}".strip(),
                deadline=time.monotonic() + progress.remaining,
            )

        yield report


class _TimeLeft(ProgressColumn):
    """Counts the budget down, also between two reports of a build."""

    def render(self, task: Task) -> Text:
        """Return the seconds left."""
        deadline = task.fields["deadline"]
        if deadline is None:
            return Text()
        return Text(f"{max(deadline - time.monotonic(), 0):.0f} s left of the budget")


def interrupt_flag() -> tuple[threading.Event, Callable[..., None]]:
    """Return an event and a signal handler that sets it: Ctrl-C ends tuning, keeps the engine."""
    event = threading.Event()

    def handler(*_: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()
        complain("interrupted: finishing with the engine so far; Ctrl-C again abandons it")

    return event, handler


def read_inputs(engine: Engine, texts: list[str] | None, seed: int = 0) -> dict[str, Array]:
    """Return arrays for every input: from ``name=file.npy`` or an ``.npz``, else random."""
    given: dict[str, Array] = {}
    for text in texts or []:
        name, _, path = text.rpartition("=")
        loaded = _load_arrays(Path(path), name, engine)
        given.update({key: _as_declared(engine, key, array) for key, array in loaded.items()})
    return given if texts else random_inputs(engine, seed)


def _load_arrays(path: Path, name: str, engine: Engine) -> dict[str, Array]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.ndarray):
            # recorded inputs and outputs in one file are told apart by a prefix
            with loaded:
                return {key.removeprefix("in:"): loaded[key] for key in loaded.files
                        if not key.startswith("out:")}  # fmt: skip
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"cannot read an array: {error}", where=str(path), fix="give a .npy or .npz file"
        ) from error
    if not name and len(engine.inputs) != 1:
        raise InputError(
            f"the file holds one array but the engine has {len(engine.inputs)} inputs",
            where=str(path),
            fix="write NAME=FILE for each of " + ", ".join(info.name for info in engine.inputs),
        )
    return {name or engine.inputs[0].name: loaded}


def _as_declared(engine: Engine, name: str, array: Array) -> Array:
    """Convert types that .npy files cannot hold: bfloat16 and 8-bit floats come as float32."""
    declared = next((info.dtype for info in engine.inputs if info.name == name), None)
    if declared is None or array.dtype != np.float32:
        return array
    dtype = dtype_by_name(declared)
    return array.astype(dtype.numpy) if dtype.is_float and dtype.bits < 32 else array


def random_inputs(
    engine: Engine, seed: int = 0, sizes: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """Return random inputs at the profile's opt shape: normal floats, integers of 0..9."""
    generator = np.random.default_rng(seed)
    bindings = {name: opt for name, (_, opt, _) in engine.ranges.items()} | dict(sizes or {})
    arrays: dict[str, Array] = {}
    for info in engine.inputs:
        shape = tuple(evaluate(dim, bindings) for dim in info.shape)
        dtype = dtype_by_name(info.dtype)
        if dtype is STRING:
            raise InputError(f"input {info.name!r} holds strings, which are not made up",
                             fix=f"give them: --input {info.name}=FILE.npy")  # fmt: skip
        values: Any = (
            generator.standard_normal(shape) if dtype.is_float else generator.integers(0, 10, shape)
        )
        arrays[info.name] = np.asarray(values % 2 if info.dtype == "bool" else values).astype(
            dtype.numpy
        )
    return arrays


@contextmanager
def writing(path: Path, what: str) -> Iterator[TextIO]:
    """Yield a text file that takes the name `path` when it is whole; ConfigError when it cannot.

    Use its `buffer` for bytes.
    """
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("x") as file:
            yield file
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(
            f"cannot write the {what}: {error.strerror or error}",
            where=str(path),
            fix="give a path in an existing folder that you may write to, with enough space",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return percentiles of latency in milliseconds, and runs a second one after the other."""
    times = np.asarray(seconds) * 1e3
    found = {"median_ms": 50, "p90_ms": 90, "p95_ms": 95, "p99_ms": 99}
    return {
        "runs": len(seconds),
        "min_ms": round(float(times.min()), 4),
        **{name: round(float(np.percentile(times, share)), 4) for name, share in found.items()},
        "max_ms": round(float(times.max()), 4),
        "mean_ms": round(float(times.mean()), 4),
        "per_second": round(1e3 / float(times.mean()), 2),
    }


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    complain(f"warning: {message}")
