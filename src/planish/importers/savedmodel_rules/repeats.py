"""Repeating every row or column of an image, which Keras 3 spells out to enlarge one.

``repeat(x, n, axis)`` is ExpandDims, Tile, Reshape. On the height or width of an image it is the
nearest neighbour interpolation by n, and of both in turn, one interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planish.importers.tensorflow_builder import Builder
from planish.ir.graph import Value
from planish.ops.content import integers

SPATIAL = (1, 2)  # axes of an image NHWC


@dataclass(frozen=True)
class Tiled:
    """A value with `count` copies of `source` along a new axis behind `axis`."""

    source: Value
    axis: int
    count: int


@dataclass(frozen=True)
class Enlarged:
    """A value that repeats rows and columns of `source`."""

    source: Value
    counts: tuple[int, int]


def note_tile(builder: Builder, x: Value, result: Value) -> None:
    """Remember that `result` repeats along an axis that has just been inserted, if it does."""
    counts, node = integers(builder.input(1)), x.producer
    if counts is None or node is None or node.op != "Unsqueeze":
        return
    axes, source = integers(node.inputs[1]), node.present_inputs[0]
    many = [axis for axis, count in enumerate(counts) if count != 1]
    if axes is None or len(many) != 1 or [axis % len(counts) for axis in axes] != many:
        return
    builder.notes[result] = Tiled(source, many[0] - 1, counts[many[0]])


def enlarged(builder: Builder, x: Value, result: Value) -> Value | None:
    """Return what `result`, a reshaped `x`, is as an enlarged image; None if it is none."""
    note = builder.notes.get(x)
    if not isinstance(note, Tiled) or note.axis not in SPATIAL or note.source.shape is None:
        return None
    extents = list(note.source.shape)
    extents[note.axis] = extents[note.axis] * note.count
    if len(extents) != 4 or result.shape != tuple(extents) or not result.dtype.is_float:
        return None
    before = builder.notes.get(note.source)
    source, counts = note.source, [1, 1]
    if isinstance(before, Enlarged):
        source, counts = before.source, list(before.counts)
    counts[note.axis - 1] *= note.count
    scales = builder.constant(np.array([1, 1, *counts], np.float32))
    image = builder.transpose(source, (0, 3, 1, 2))
    resized = builder.emit(
        "Resize",
        image,
        None,
        scales,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    found = builder.transpose(resized, (0, 2, 3, 1))
    builder.notes[found] = Enlarged(source, (counts[0], counts[1]))
    return found
