"""AttributeProto to Python values, and checks of nodes against ONNX's own schemas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto

from planish.errors import ModelError, UnsupportedTypeError
from planish.importers.onnx_tensor import TensorReader
from planish.ir.dtypes import DTYPES
from planish.ir.graph import Graph, Value

Schema = Any  # onnx.defs.OpSchema, whose stubs lack half of its members
SubgraphBuilder = Callable[[onnx.GraphProto], Graph]

_TYPE_NAMES = {
    dtype.name: f"tensor({onnx.TensorProto.DataType.Name(dtype.onnx).lower()})" for dtype in DTYPES
}


class AttributeReader:
    """Converts the attributes of one node.

    Parameters
    ----------
    tensors : TensorReader
    bound : dict
        Attributes of the function call that is being expanded, for references to them.
    subgraph : callable
        Builds a Graph from a GraphProto.
    """

    def __init__(
        self, tensors: TensorReader, bound: Mapping[str, Any], subgraph: SubgraphBuilder
    ) -> None:
        self._tensors = tensors
        self._bound = bound
        self._subgraph = subgraph

    def read(self, protos: Sequence[AttributeProto], where: str) -> dict[str, Any]:
        """Return name to value; references to attributes that the call leaves out are absent."""
        attributes: dict[str, Any] = {}
        for proto in protos:
            if proto.name in attributes:
                raise ModelError(f"attribute {proto.name} is given twice", where=where)
            if proto.ref_attr_name:
                if proto.ref_attr_name in self._bound:
                    attributes[proto.name] = self._bound[proto.ref_attr_name]
                continue
            attributes[proto.name] = self._value(proto, where)
        return attributes

    def _value(self, proto: AttributeProto, where: str) -> Any:
        match proto.type or _guess_type(proto):
            case AttributeProto.FLOAT:
                return _shortest(proto.f)
            case AttributeProto.INT:
                return proto.i
            case AttributeProto.STRING:
                return _text(proto.s)
            case AttributeProto.FLOATS:
                return tuple(_shortest(number) for number in proto.floats)
            case AttributeProto.INTS:
                return tuple(proto.ints)
            case AttributeProto.STRINGS:
                return tuple(_text(item) for item in proto.strings)
            case AttributeProto.TENSOR:
                return self._tensors.read(proto.t, f"{where}, attribute {proto.name}")
            case AttributeProto.SPARSE_TENSOR:
                return self._tensors.read_sparse(
                    proto.sparse_tensor, f"{where}, attribute {proto.name}"
                )
            case AttributeProto.GRAPH:
                return self._subgraph(proto.g)
        kind = AttributeProto.AttributeType.Name(proto.type) if proto.type <= 14 else proto.type
        raise UnsupportedTypeError(
            f"attribute {proto.name} has the kind {kind}, which is not supported", where=where
        )


def constant_array(attributes: Mapping[str, Any], where: str) -> np.ndarray[Any, Any]:
    """Return the contents of a Constant node, whichever attribute holds them."""
    if len(attributes) != 1:
        given = ", ".join(attributes) or "none"
        raise ModelError(f"Constant needs exactly one attribute, got {given}", where=where)
    ((name, value),) = attributes.items()
    if name in ("value", "sparse_value"):
        if isinstance(value, np.ndarray):
            return value
        raise ModelError(f"attribute {name} of Constant is not a tensor", where=where)
    types = {
        "value_float": np.float32, "value_floats": np.float32, "value_int": np.int64,
        "value_ints": np.int64, "value_string": object, "value_strings": object,
    }  # fmt: skip
    if name not in types:
        raise ModelError(f"Constant has the unknown attribute {name}", where=where)
    try:
        return np.array(value, types[name])
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"attribute {name} of Constant: {error}", where=where) from error


@lru_cache(maxsize=4096)
def schema_of(op: str, domain: str, version: int) -> Schema | None:
    """Return ONNX's schema of an operator at an opset version, None where it has none."""
    try:
        return onnx.defs.get_schema(op, max(1, min(version, 2**30)), domain)
    except onnx.defs.SchemaError:
        return None


def check_against_schema(
    proto: onnx.NodeProto, schema: Schema, values: Sequence[Value | None], where: str
) -> None:
    """Check number and element types of inputs, outputs, and kinds of attributes.

    Raises
    ------
    ModelError
        Where the node is not a valid use of its operator.
    """
    _check_counts(proto, schema, values, where)
    _check_types(schema, values, where)
    for attribute in proto.attribute:
        declared = schema.attributes.get(attribute.name)
        kind = attribute.type or _guess_type(attribute)
        if declared is not None and int(declared.type.value) != kind:
            raise ModelError(
                f"attribute {attribute.name} of {proto.op_type} should be of kind "
                f"{declared.type.name}",
                where=where,
            )


def _check_counts(
    proto: onnx.NodeProto, schema: Schema, values: Sequence[Value | None], where: str
) -> None:
    if not schema.min_input <= len(values) <= schema.max_input:
        raise ModelError(
            f"{proto.op_type} takes {schema.min_input} to {schema.max_input} inputs, "
            f"got {len(values)}",
            where=where,
        )
    if not 1 <= len(proto.output) <= schema.max_output:
        raise ModelError(
            f"{proto.op_type} has 1 to {schema.max_output} outputs, got {len(proto.output)}",
            where=where,
        )
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    for formal, value in zip(schema.inputs, values, strict=False):
        if value is None and formal.option == single:
            raise ModelError(f"{proto.op_type} lacks input {formal.name}", where=where)


def _check_types(schema: Schema, values: Sequence[Value | None], where: str) -> None:
    allowed = _constraints(schema)
    bound: dict[str, str] = {}
    for index, value in enumerate(values):
        formal = schema.inputs[min(index, len(schema.inputs) - 1)]
        if value is None:
            continue
        have = _TYPE_NAMES[value.dtype.name]
        if have not in allowed.get(formal.type_str, {formal.type_str}):
            raise ModelError(
                f"{schema.name} does not take {value.dtype} as input {formal.name}", where=where
            )
        if not formal.is_homogeneous or formal.type_str not in allowed:
            continue
        if bound.setdefault(formal.type_str, have) != have:
            raise ModelError(
                f"{schema.name} takes inputs of one type, got {bound[formal.type_str]} and {have}",
                where=where,
            )


def _constraints(schema: Schema) -> dict[str, frozenset[str]]:
    return _cached_constraints(schema.name, schema.domain, schema.since_version)


@lru_cache(maxsize=4096)
def _cached_constraints(name: str, domain: str, version: int) -> dict[str, frozenset[str]]:
    schema = onnx.defs.get_schema(name, version, domain)
    return {
        constraint.type_param_str: frozenset(constraint.allowed_type_strs)
        for constraint in schema.type_constraints
    }


def _shortest(number: float) -> float:
    """Return the shortest decimal that is the same float32, as people write it."""
    return float(str(np.float32(number)))


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def _guess_type(proto: AttributeProto) -> int:
    """Return the kind of an attribute of the oldest files, which do not state it."""
    for field, kind in (
        ("f", AttributeProto.FLOAT), ("i", AttributeProto.INT), ("s", AttributeProto.STRING),
        ("t", AttributeProto.TENSOR), ("g", AttributeProto.GRAPH),
    ):  # fmt: skip
        if proto.HasField(field):
            return int(kind)
    if proto.floats:
        return int(AttributeProto.FLOATS)
    return int(AttributeProto.STRINGS if proto.strings else AttributeProto.INTS)
