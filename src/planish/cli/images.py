"""Folders of images as batches: reading, and the preprocessings that have a name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from planish.errors import ConfigError, InputError

Array = np.ndarray[Any, Any]
Preprocessing = Callable[[Any], Any]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
TOGETHER = 16  # images of one shape in a batch
MEAN = np.array((0.485, 0.456, 0.406), np.float32)  # of ImageNet's pixels
DEVIATION = np.array((0.229, 0.224, 0.225), np.float32)


def named_preprocessing(text: str) -> Preprocessing | None:
    """Return the preprocessing called ``name`` or ``name:size``; None for another text.

    All resize the shorter side to size / 0.875 and cut the centre out; 224 is the default size.
    """
    name, _, size = text.partition(":")
    if name not in _NAMED or not (size.isdecimal() or not size):
        return None
    return partial(_NAMED[name], int(size or 224))


def image_batches(paths: Sequence[Path], preprocessing: Preprocessing) -> Iterator[Array]:
    """Yield batches of the images at `paths`, neighbours of one shape together.

    `preprocessing` gets an RGB image of PIL and returns an array without a batch axis.
    """
    waiting: list[Array] = []
    for path in paths:
        array = _preprocessed(path, preprocessing)
        if waiting and (len(waiting) == TOGETHER or waiting[0].shape != array.shape):
            yield np.stack(waiting)
            waiting = []
        waiting.append(array)
    if waiting:
        yield np.stack(waiting)


def _preprocessed(path: Path, preprocessing: Preprocessing) -> Array:
    pillow = _pillow()
    try:
        with pillow.open(path) as image:
            array = np.asarray(preprocessing(image.convert("RGB")))
    except OSError as error:
        raise InputError(
            f"cannot read the image: {error}", where=str(path), fix="remove or replace it"
        ) from error
    if array.dtype == object or array.ndim == 0:
        raise InputError(
            f"the preprocessing returned {array.dtype}{list(array.shape)}, expected an array",
            where=str(path),
            fix="let the function return a numpy array of one image, without a batch axis",
        )
    return array


def _pillow() -> Any:
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise ConfigError(
            "reading images needs Pillow", where="--calibrate", fix="pip install pillow"
        ) from error


def _centre(size: int, image: Any) -> Array:
    """Return the centre of an image as float32[size, size, 3] from 0 to 1."""
    factor = size / 0.875 / min(image.size)
    wide, high = (max(round(side * factor), size) for side in image.size)
    left, top = (wide - size) // 2, (high - size) // 2
    resized = image.resize((wide, high), _pillow().Resampling.BILINEAR)
    pixels = np.asarray(resized.crop((left, top, left + size, top + size)), np.float32)
    return pixels / np.float32(255)


def _imagenet(size: int, image: Any) -> Array:
    pixels = (_centre(size, image) - MEAN) / DEVIATION
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)


def _unit(size: int, image: Any) -> Array:
    return np.ascontiguousarray(_centre(size, image).transpose(2, 0, 1))


def _signed(size: int, image: Any) -> Array:
    return _centre(size, image) * np.float32(2) - np.float32(1)


_NAMED: dict[str, Callable[[int, Any], Array]] = {
    "imagenet": _imagenet,
    "unit": _unit,
    "signed": _signed,
}
