"""Handlers of the operations on variables and lookup tables; see `tensorflow_freeze`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from planish.errors import ModelError
from planish.importers.tensorflow_freeze import (
    Binding,
    Constant,
    Frame,
    Freezer,
    Resource,
    Results,
    attributes_of,
    handles,
)
from planish.importers.tensorflow_graph import TfNode, TfRef, TfTable
from planish.importers.tensorflow_source import SourceNode

INT32 = np.dtype(np.int32)
MAX_VOCABULARY = 1 << 28  # bytes of a text file that fills a table


@handles("VarHandleOp")
def _handle(freezer: Freezer, frame: Frame, node: SourceNode, _: list[Binding]) -> Results:
    return [Resource("variable", node.name)]


@handles("VariableV2", "Variable", "TemporaryVariable")
def _reference(freezer: Freezer, frame: Frame, node: SourceNode, _: list[Binding]) -> Results:
    return [Resource("reference", node.name)]


@handles("ReadVariableOp", operands=1)
def _read(freezer: Freezer, frame: Frame, node: SourceNode, operands: list[Binding]) -> Results:
    return [freezer.read(_variable(node, operands), frame)]


@handles("VariableShape", operands=1)
def _shape(freezer: Freezer, frame: Frame, node: SourceNode, operands: list[Binding]) -> Results:
    dtype = node.attributes.get("out_type", INT32)
    value = freezer.storage.variable(_variable(node, operands))
    return [_number(frame, node, np.array(value.array.shape, dtype))]


@handles("VarIsInitializedOp", "IsVariableInitialized")
def _initialized(freezer: Freezer, frame: Frame, node: SourceNode, _: list[Binding]) -> Results:
    return [_number(frame, node, np.array(True))]


@handles("ResourceGather", operands=2)
def _gather(freezer: Freezer, frame: Frame, node: SourceNode, operands: list[Binding]) -> Results:
    value = freezer.read(_variable(node, operands), frame)
    name = frame.prefix + node.name
    axis = np.array(node.attributes.get("batch_dims", 0), np.int32)
    ref = frame.builder.copy(TfNode(f"{name}/axis", "Const", (), {"dtype": INT32, "value": axis}))
    given = attributes_of(node.attributes, frame.bound, name)
    attributes = {
        "Tparams": given.get("dtype"),
        "Tindices": given.get("Tindices"),
        "Taxis": INT32,
        "batch_dims": int(axis),
    }
    indices = freezer.as_ref(operands[1], frame)
    return frame.builder.copy(TfNode(name, "GatherV2", (value, indices, ref), attributes)).node


@handles("ResourceGatherNd", operands=2)
def _gather_nd(
    freezer: Freezer, frame: Frame, node: SourceNode, operands: list[Binding]
) -> Results:
    value = freezer.read(_variable(node, operands), frame)
    given = attributes_of(node.attributes, frame.bound, node.name)
    attributes = {"Tparams": given.get("dtype"), "Tindices": given.get("Tindices")}
    indices = freezer.as_ref(operands[1], frame)
    name = frame.prefix + node.name
    return frame.builder.copy(TfNode(name, "GatherNd", (value, indices), attributes)).node


@handles(
    "Assign", "AssignAdd", "AssignSub", "ScatterUpdate", "ScatterAdd", "ScatterNdUpdate",
    "AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp", "ResourceScatterUpdate",
    "ResourceScatterAdd", "ResourceScatterSub", "ResourceScatterNdUpdate", "ResourceScatterNdAdd",
    "ResourceStridedSliceAssign", "ResourceApplyGradientDescent", "ResourceApplyAdam",
    "ResourceApplyMomentum", "ResourceApplyKerasMomentum", "ResourceApplyRMSProp",
    "LookupTableInsert", "LookupTableInsertV2", "LookupTableRemoveV2",
    "StatefulUniform", "StatefulStandardNormalV2", "RngReadAndSkip", "RngSkip",
)  # fmt: skip
def _write(freezer: Freezer, frame: Frame, node: SourceNode, operands: list[Binding]) -> Results:
    for operand in operands:
        if isinstance(operand, Resource):
            freezer.written.setdefault(operand, f"{frame.prefix}{node.name} ({node.op})")
    if operands and isinstance(operands[0], Resource) and operands[0].kind == "reference":
        return operands[:1]
    inputs = tuple(freezer.as_ref(operand, frame) for operand in operands)
    return frame.builder.copy(TfNode(frame.prefix + node.name, node.op, inputs)).node


# -- tables ------------------------------------------------------------------------------------


@handles(
    "HashTable",
    "HashTableV2",
    "MutableHashTable",
    "MutableHashTableV2",
    "MutableDenseHashTableV2",
    "AnonymousHashTable",
    "AnonymousMutableHashTable",
)
def _table(freezer: Freezer, frame: Frame, node: SourceNode, _: list[Binding]) -> Results:
    return [Resource("table", frame.prefix + node.name)]


@handles(
    "LookupTableImport", "LookupTableImportV2", "InitializeTable", "InitializeTableV2", operands=3
)
def _fill(freezer: Freezer, frame: Frame, node: SourceNode, operands: list[Binding]) -> Results:
    table, keys, values = operands[:3]
    if not isinstance(table, Resource):
        return []
    found = [frame.builder.constant_of(keys), frame.builder.constant_of(values)]
    if found[0] is not None and found[1] is not None:
        where = f"node {frame.prefix}{node.name} ({node.op})"
        freezer.tables[table] = make_table(found[0].array, found[1].array, where)
    return []


@handles("InitializeTableFromTextFile", "InitializeTableFromTextFileV2", operands=2)
def _fill_from_file(
    freezer: Freezer, frame: Frame, node: SourceNode, operands: list[Binding]
) -> Results:
    table, name = operands[:2]
    path = frame.builder.constant_of(name)
    if isinstance(table, Resource) and path is not None:
        attributes = attributes_of(node.attributes, frame.bound, node.name)
        freezer.tables[table] = _table_of_file(_path_of(path), attributes)
    return []


@handles("LookupTableFind", "LookupTableFindV2", operands=3)
def _find(freezer: Freezer, frame: Frame, node: SourceNode, operands: list[Binding]) -> Results:
    inputs = tuple(freezer.as_ref(operand, frame) for operand in operands[1:])
    table = freezer.table(operands[0]) if isinstance(operands[0], Resource) else None
    attributes = attributes_of(node.attributes, frame.bound, node.name)
    if table is not None:
        attributes["table"] = _typed(table, attributes.get("Tin"), attributes.get("Tout"), node)
    copied = TfNode(frame.prefix + node.name, "LookupTableFindV2", inputs, attributes)
    return frame.builder.copy(copied).node


@handles("LookupTableSize", "LookupTableSizeV2", operands=1)
def _size(freezer: Freezer, frame: Frame, node: SourceNode, operands: list[Binding]) -> Results:
    table = freezer.table(operands[0]) if isinstance(operands[0], Resource) else None
    if table is None:
        return frame.builder.copy(TfNode(frame.prefix + node.name, node.op)).node
    return [_number(frame, node, np.array(len(table.keys), np.int64))]


def make_table(keys: np.ndarray[Any, Any], values: np.ndarray[Any, Any], where: str) -> TfTable:
    """Return a table; raise ModelError unless there are as many values as keys."""
    if keys.shape != values.shape:
        raise ModelError(
            f"a table has keys of the shape {keys.shape} and values of the shape {values.shape}",
            where=where,
        )
    return TfTable(keys.reshape(-1), values.reshape(-1))


def _typed(table: TfTable, key: object, value: object, node: SourceNode) -> TfTable:
    """Return the table with texts turned into the numbers that the operation declares."""

    def numbers(array: np.ndarray[Any, Any], dtype: object) -> np.ndarray[Any, Any]:
        if array.dtype != object or not isinstance(dtype, np.dtype):
            return array
        try:
            return np.array([dtype.type(text) for text in array.tolist()], dtype)
        except ValueError as error:
            raise ModelError(
                f"the table holds texts, not numbers: {error}",
                where=f"node {node.name} ({node.op})",
            ) from error

    return TfTable(numbers(table.keys, key), numbers(table.values, value))


def _variable(node: SourceNode, operands: list[Binding]) -> Resource:
    if isinstance(operands[0], Resource):
        return operands[0]
    raise ModelError(
        "the variable that is read is not known: it comes out of control flow or another operation",
        where=f"node {node.name} ({node.op})",
    )


def _number(frame: Frame, node: SourceNode, array: np.ndarray[Any, Any]) -> TfRef:
    constant = Constant(frame.prefix + node.name, array, array.dtype)
    return frame.builder.constant(constant, (frame.prefix, node.name))


def _path_of(constant: Constant) -> Path:
    value = constant.array.reshape(-1)[:1].tolist()
    if not value or not isinstance(value[0], bytes):
        raise ModelError("the name of a table's file is not text", where=constant.name)
    return Path(value[0].decode("utf-8", "replace"))


def _table_of_file(path: Path, attributes: dict[str, Any]) -> TfTable:
    """Return the table that a text file holds, one entry a line.

    A column number of -2 means the whole line, -1 the line's number.
    """
    try:
        if path.stat().st_size > MAX_VOCABULARY:
            raise ModelError("the file of a lookup table is too large", where=str(path))
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ModelError(
            f"the file of a lookup table cannot be read: {error.strerror}",
            where=str(path),
            fix="copy the whole SavedModel folder again, with assets/",
        ) from error
    lines = lines[max(int(attributes.get("offset", 0)), 0) :]
    size = attributes.get("vocab_size", -1)
    lines = lines[:size] if size >= 0 else lines
    delimiter = attributes.get("delimiter", "\t")
    delimiter = delimiter.encode() if isinstance(delimiter, str) else delimiter
    columns = [
        _column(lines, int(attributes.get(name, -2)), delimiter, path)
        for name in ("key_index", "value_index")
    ]
    return make_table(columns[0], columns[1], str(path))


def _column(lines: list[bytes], index: int, delimiter: bytes, path: Path) -> np.ndarray[Any, Any]:
    if index == -1:
        return np.arange(len(lines), dtype=np.int64)
    texts = np.empty(len(lines), object)
    for number, line in enumerate(lines):
        parts = [line] if index == -2 else line.split(delimiter)
        if index >= len(parts):
            raise ModelError(f"line {number + 1} has no column {index}", where=str(path))
        texts[number] = parts[max(index, 0)]
    return texts
