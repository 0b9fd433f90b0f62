"""Lookup in constant tables of numbers."""

from __future__ import annotations

import numpy as np

from planish.importers.tensorflow_builder import Builder, rule
from planish.importers.tensorflow_graph import TfNode, TfTable
from planish.ir.dtypes import I64
from planish.ir.graph import Value

MAX_COMPARED = 1024  # keys that lie too far apart for a dense table


@rule("LookupTableFindV2")
def find(node: TfNode, builder: Builder) -> Value:
    """Pick by key minus the smallest key where keys lie close together, else by comparing."""
    table = builder.attribute("table")
    if not isinstance(table, TfTable):
        builder.refuse("the table is not constant")
    if table.keys.dtype.kind not in "iu" or table.values.dtype == object:
        kind = "texts" if object in (table.keys.dtype, table.values.dtype) else "fractions"
        builder.refuse(f"the table holds {kind}: look up before the model, and feed the numbers")
    keys, default = builder.cast(builder.input(0), I64), builder.input(1)
    if len(table.keys) == 0:
        return builder.emit("Expand", default, builder.shape_of(keys))
    span = int(table.keys.max()) - int(table.keys.min()) + 1
    if span <= max(MAX_COMPARED, 8 * len(table.keys)):
        return _dense(table, span, keys, default, builder)
    if len(table.keys) > MAX_COMPARED:
        builder.refuse(f"the table has {len(table.keys)} keys that lie far apart")
    return _compared(table, keys, default, builder)


def _dense(table: TfTable, span: int, keys: Value, default: Value, builder: Builder) -> Value:
    """Return values picked from an array with one place a number, and one for what is outside."""
    first = int(table.keys.min())
    places = table.keys.astype(np.int64) - first
    values = np.zeros(span + 1, table.values.dtype)
    present = np.zeros(span + 1, np.bool_)
    values[places], present[places] = table.values, True
    inside = builder.emit(
        "And",
        builder.emit("GreaterOrEqual", keys, builder.scalar(first, keys)),
        builder.emit("Less", keys, builder.scalar(first + span, keys)),
    )
    offset = builder.emit("Sub", keys, builder.scalar(first, keys))
    index = builder.emit("Where", inside, offset, builder.scalar(span, keys))
    found = builder.emit("Gather", builder.constant(values), index, axis=0)
    known = builder.emit("Gather", builder.constant(present), index, axis=0)
    return builder.emit("Where", known, found, default)


def _compared(table: TfTable, keys: Value, default: Value, builder: Builder) -> Value:
    """Return values picked by the place of the equal key among all."""
    every = builder.constant(table.keys.astype(np.int64))
    same = builder.emit("Equal", builder.unsqueeze(keys, builder.rank(keys)), every)
    number = builder.cast(same, I64)
    index = builder.emit("ArgMax", number, axis=-1, keepdims=0)
    axis = builder.constant(np.array([-1], np.int64))
    known = builder.emit("ReduceMax", number, axis, keepdims=0)
    found = builder.emit("Gather", builder.constant(table.values), index, axis=0)
    return builder.emit(
        "Where", builder.emit("Greater", known, builder.scalar(0, known)), found, default
    )
