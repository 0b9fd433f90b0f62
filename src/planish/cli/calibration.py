"""Calibration on the command line: the data, the calibrator, and precisions of single layers.

DATA is an .npz file (arrays by input name), a folder of .npy or .npz files (one batch each), a
folder of images with --preprocess, or MODULE:FUNCTION, a function that returns batches.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from planish.cli.images import IMAGE_SUFFIXES, image_batches, named_preprocessing
from planish.errors import ConfigError, InputError
from planish.quantize.calibrators import (
    Calibrator,
    EntropyCalibrator,
    EntropyCalibrator2,
    LegacyCalibrator,
    MinMaxCalibrator,
    MseCalibrator,
)

Array = np.ndarray[Any, Any]
Source = Callable[[], Iterator[Any]]

CALIBRATORS: dict[str, type[Calibrator]] = {
    "entropy2": EntropyCalibrator2,
    "entropy": EntropyCalibrator,
    "minmax": MinMaxCalibrator,
    "legacy": LegacyCalibrator,
    "mse": MseCalibrator,
}

Calibrate = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="Data that int8 takes its scales from: an .npz file, a folder of .npy files (a batch "
        "each), a folder of images with --preprocess, or MODULE:FUNCTION.",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        help="An .npz file, a folder of .npy files (a batch each), a folder of images with "
        "--preprocess, or MODULE:FUNCTION."
    ),
]
CalibratorName = Annotated[
    str, typer.Option("--calibrator", help=f"One of {', '.join(CALIBRATORS)}.")
]
CalibrationCache = Annotated[
    Path | None,
    typer.Option(help="Calibration cache in TensorRT's format: read when it exists, else written."),
]
Preprocess = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[:SIZE]|MODULE:FUNCTION",
        help="How an image becomes an array: imagenet (NCHW, mean and deviation), unit (NCHW, 0 to "
        "1), signed (NHWC, -1 to 1), or a function that takes a PIL image.",
    ),
]
LayerPrecisions = Annotated[
    list[str] | None,
    typer.Option(
        "--layer-precision",
        metavar="PATTERN=PRECISION",
        help="Precision of layers by name, like 'head*=fp32'. May be given several times.",
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Fail when the precision asked for is not reached.")
]


def make_calibrator(
    name: str, data: str | None, preprocess: str | None, cache: Path | None
) -> Calibrator | None:
    """Return the calibrator that the options describe; None when they give neither data nor cache.

    Raises
    ------
    ConfigError
        When the calibrator, the data or the preprocessing is not known.
    """
    if name not in CALIBRATORS:
        raise ConfigError(
            f"there is no calibrator {name!r}",
            where="--calibrator",
            fix=f"use one of {', '.join(CALIBRATORS)}",
        )
    if data is None and cache is None:
        return None
    return CALIBRATORS[name](None if data is None else read_data(data, preprocess), cache=cache)


def parse_layer_precisions(texts: list[str] | None) -> dict[str, str]:
    """Read ``PATTERN=PRECISION`` options; raise ConfigError when one has another form."""
    found = {}
    for text in texts or []:
        pattern, separator, precision = text.rpartition("=")
        if not separator or not pattern:
            raise ConfigError(
                f"cannot read {text!r}",
                where="--layer-precision",
                fix="write PATTERN=PRECISION, like 'head*=fp32'",
            )
        found[pattern] = precision
    return found


def read_data(text: str, preprocess: str | None = None) -> Source:
    """Return a function that yields the batches that `text` stands for.

    Raises
    ------
    ConfigError
        When there are none.
    """
    path = Path(text)
    if path.is_dir():
        return _folder(path, preprocess)
    if path.suffix in (".npz", ".npy"):
        if not path.is_file():
            raise ConfigError("the file does not exist", where=text, fix="check the path")
        return lambda: iter([_read(path)])
    if ":" in text:
        function = imported(text, "--calibrate")
        return lambda: iter(function())
    raise ConfigError(
        f"cannot read calibration data from {text!r}",
        where="--calibrate",
        fix="give an .npz file, a folder of .npy files or images, or MODULE:FUNCTION",
    )


def imported(text: str, option: str) -> Callable[..., Any]:
    """Return the function that ``module:function`` names; the working folder is looked in first."""
    module_name, _, name = text.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), name, None)
    except ImportError as error:
        raise ConfigError(
            f"cannot import {module_name!r}: {error}",
            where=f"{option} {text}",
            fix="give a module in the working folder or an installed one",
        ) from error
    finally:
        sys.path.pop(0)
    if not callable(function):
        raise ConfigError(
            f"{module_name} has no function {name!r}",
            where=f"{option} {text}",
            fix="write MODULE:FUNCTION",
        )
    return function  # type: ignore[no-any-return]  # callable() says it


def _folder(path: Path, preprocess: str | None) -> Source:
    files = sorted(entry for entry in path.iterdir() if entry.is_file())
    arrays = [entry for entry in files if entry.suffix in (".npy", ".npz")]
    images = [entry for entry in files if entry.suffix.lower() in IMAGE_SUFFIXES]
    if arrays:
        return lambda: map(_read, arrays)
    if not images:
        raise ConfigError(
            "the folder holds neither .npy files nor images",
            where=str(path),
            fix="give a folder of .npy files (a batch each), or of images with --preprocess",
        )
    if preprocess is None:
        raise ConfigError(
            "images need a preprocessing: the one that the model was trained with",
            where=str(path),
            fix="add --preprocess imagenet, or --preprocess MODULE:FUNCTION",
        )
    function = named_preprocessing(preprocess) or imported(preprocess, "--preprocess")
    return partial(image_batches, images, function)


def _read(path: Path) -> Any:
    """Return the batch in a file: an array, or arrays by name when there are several."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            arrays = {key.removeprefix("in:"): loaded[key] for key in loaded.files
                      if not key.startswith("out:")}  # fmt: skip
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"cannot read calibration data: {error}",
            where=str(path),
            fix="give .npy and .npz files",
        ) from error
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays
