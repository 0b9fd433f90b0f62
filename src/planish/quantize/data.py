"""Calibration data as the model takes them: batches checked, named, and cut to size.

A batch may be larger than what the engine runs at once. It is cut along the first axis of every
input when that is the batch: the same symbol everywhere, or the same number everywhere. A rest
that is smaller than the smallest allowed batch is filled up with the batch's own first elements.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.errors import InputError
from planish.ir.dtypes import dtype_by_name
from planish.ir.shape import Dim, is_static
from planish.plan.plan import TensorInfo

Array = np.ndarray[Any, Any]
Inputs = dict[str, Array]


@dataclass(frozen=True)
class BatchAxis:
    """How batches may be cut: sizes of the first axis that the engine accepts.

    `exact` is False for an axis that is no batch: nothing is cut then.
    """

    smallest: int
    largest: int
    exists: bool = True


def batch_axis(
    inputs: Sequence[TensorInfo], ranges: Mapping[str, tuple[int, int, int]], at_once: int
) -> BatchAxis:
    """Return how batches are cut so that at most `at_once` elements run together."""
    firsts: set[Dim] = {info.shape[0] for info in inputs if info.shape}
    if len(firsts) != 1 or any(not info.shape for info in inputs):
        return BatchAxis(0, 0, exists=False)
    (first,) = firsts
    if is_static(first):
        size = int(str(first))
        return BatchAxis(size, size, exists=size > 0)
    if str(first) not in ranges:
        return BatchAxis(0, 0, exists=False)
    low, _, high = ranges[str(first)]
    low = max(low, 1)
    return BatchAxis(low, max(min(high, at_once), low))


def named(batch: Any, inputs: Sequence[TensorInfo], where: str) -> Inputs:
    """Return a batch as arrays by input name, with exact dtypes and without NaN or infinity.

    Raises
    ------
    InputError
        When names, number, dtypes, ranks or contents do not fit; `where` says which batch.
    """
    arrays = _by_name(batch, inputs, where)
    return {info.name: _checked(arrays[info.name], info, where) for info in inputs}


def pieces(arrays: Inputs, axis: BatchAxis, where: str) -> Iterator[Inputs]:
    """Yield a batch in pieces that the engine accepts."""
    sizes = {array.shape[0] for array in arrays.values() if array.ndim}
    if 0 in sizes:
        raise InputError(
            "a calibration batch is empty", where=where, fix="leave it out, or give it elements"
        )
    if not axis.exists or len(sizes) != 1:
        yield arrays
        return
    (size,) = sizes
    for start in range(0, size, axis.largest):
        piece = {name: array[start : start + axis.largest] for name, array in arrays.items()}
        if min(axis.largest, size - start) < axis.smallest:
            piece = {name: _filled(part, arrays[name], axis) for name, part in piece.items()}
        yield piece


def _filled(part: Array, whole: Array, axis: BatchAxis) -> Array:
    """Return `part` with elements of the batch behind it, until it is of the smallest size."""
    lacking = axis.smallest - part.shape[0]
    return np.concatenate([part, np.take(whole, np.arange(lacking), axis=0, mode="wrap")])


def _by_name(batch: Any, inputs: Sequence[TensorInfo], where: str) -> dict[str, Any]:
    names = [info.name for info in inputs]
    if isinstance(batch, Mapping):
        missing = [name for name in names if name not in batch]
        unknown = [str(name) for name in batch if name not in names]
        if missing or unknown:
            near = difflib.get_close_matches(unknown[0], names, n=1) if unknown else []
            raise InputError(
                "a calibration batch does not fit the model's inputs; "
                f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}",
                where=where,
                fix=f"did you mean {near[0]!r}?" if near else f"give {', '.join(names)}",
            )
        return dict(batch)
    given = list(batch) if isinstance(batch, list | tuple) else [batch]
    if len(given) != len(names):
        raise InputError(
            f"a calibration batch holds {len(given)} array(s), the model has {len(names)} "
            f"input(s): {', '.join(names)}",
            where=where,
            fix="give each batch as an array, a sequence in the order of the inputs, or a dict "
            "by input name",
        )
    return dict(zip(names, given, strict=True))


def _checked(given: Any, info: TensorInfo, where: str) -> Array:
    array = _as_array(given, info, where)
    wanted = dtype_by_name(info.dtype).numpy
    place = f"{where}, input {info.name!r}"
    if array.dtype != wanted:
        raise InputError(
            f"calibration data have dtype {array.dtype.name}, the model takes {wanted.name}",
            where=place,
            fix=f'array.astype("{wanted.name}"), after the same preprocessing as at run time',
        )
    if array.ndim != len(info.shape):
        raise InputError(
            f"calibration data have shape {list(array.shape)}, the model takes "
            f"[{', '.join(map(str, info.shape))}]",
            where=place,
            fix="give batches with all axes of the input, the batch axis included",
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(
            "calibration data hold NaN or infinity",
            where=place,
            fix="leave such elements out, or repair the preprocessing",
        )
    return np.asarray(array, order="C")  # and a single number stays one


def _as_array(given: Any, info: TensorInfo, where: str) -> Array:
    if isinstance(given, np.ndarray):
        return given
    try:
        if hasattr(given, "__dlpack__") and not hasattr(given, "__array__"):
            return np.from_dlpack(given)
        array = np.asarray(given)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"calibration data of type {type(given).__name__} are no array: {error}",
            where=f"{where}, input {info.name!r}",
            fix="give numpy arrays",
        ) from error
    if array.dtype == object:
        raise InputError(
            f"calibration data of type {type(given).__name__} are no array",
            where=f"{where}, input {info.name!r}",
            fix="give numpy arrays",
        )
    return array
