"""Functions: which nodes are calls, what their bodies are, and which operators nothing can run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import onnx

from planish.errors import ModelError, UnsupportedOperatorError
from planish.importers.onnx_attributes import schema_of
from planish.importers.onnx_file import OnnxModel, opset_versions
from planish.importers.onnx_legacy import UPGRADES
from planish.importers.onnx_order import node_name
from planish.ir.graph import Value
from planish.ops.op import OPS

Opsets = dict[str, int]
Key = tuple[str, str, str]  # domain, name, overload

# contrib operators that equal one of ONNX's
ALIASES = {
    "com.microsoft.QuantizeLinear": "QuantizeLinear",
    "com.microsoft.DequantizeLinear": "DequantizeLinear",
    "com.microsoft.Gelu": "Gelu",
}
MAX_CALL_DEPTH = 32


def graph_name(domain: str, op: str) -> str:
    """Return an operator's name in Planish's graphs."""
    name = op if domain in ("", "ai.onnx") else f"{domain}.{op}"
    return name if name in OPS else ALIASES.get(name, name)


class FunctionTable:
    """The model's own functions, and ONNX's bodies of operators that Planish lacks."""

    def __init__(self, model: OnnxModel) -> None:
        self._model = model
        self._local: dict[Key, onnx.FunctionProto] = {
            (function.domain, function.name, function.overload): function
            for function in model.proto.functions
        }

    def local(self, node: onnx.NodeProto) -> onnx.FunctionProto | None:
        """Return the model's own function that `node` calls."""
        if not self._local:
            return None
        return self._local.get((node.domain, node.op_type, node.overload))

    def of_operator(
        self,
        node: onnx.NodeProto,
        opsets: Opsets,
        values: Sequence[Value | None],
        bound: Mapping[str, Any],
    ) -> onnx.FunctionProto:
        """Return ONNX's own body of an operator; raise UnsupportedOperatorError without one.

        `bound` holds the attributes of the function call that `node` may refer to.
        """
        version = version_of(node, opsets)
        schema = schema_of(node.op_type, _domain(node), version)
        if schema is not None and schema.has_function:
            body: onnx.FunctionProto = schema.function_body
            return body
        if schema is not None and schema.has_context_dependent_function:
            types = [_type_of(value) for value in values]
            data = schema.get_context_dependent_function(_resolved(node, bound), types)
            function = onnx.FunctionProto()
            function.ParseFromString(data)
            return function
        raise UnsupportedOperatorError([_line(node, opsets)], where=self._model.label)

    def check_supported(self) -> None:
        """Raise UnsupportedOperatorError with every node of the model that cannot be imported."""
        lines = list(self._unsupported(self._model.proto.graph.node, self._model.opsets))
        for function in self._model.proto.functions:
            opsets = function_opsets(function, self._model.opsets, self._model.label)
            prefix = f"in function {function.name}: "
            lines += [prefix + line for line in self._unsupported(function.node, opsets)]
        if lines:
            raise UnsupportedOperatorError(lines, where=self._model.label)

    def _unsupported(self, nodes: Iterable[onnx.NodeProto], opsets: Opsets) -> Iterator[str]:
        for node in nodes:
            if self.local(node) is None and not self._is_supported(node, opsets, 0):
                yield _line(node, opsets)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    yield from self._unsupported(attribute.g.node, opsets)

    def _is_supported(self, node: onnx.NodeProto, opsets: Opsets, depth: int) -> bool:
        name = graph_name(node.domain, node.op_type)
        if name in OPS or name in UPGRADES or name == "Constant":
            return True
        schema = schema_of(node.op_type, _domain(node), version_of(node, opsets))
        if schema is None or depth > MAX_CALL_DEPTH:
            return False
        if schema.has_context_dependent_function:
            return True  # its body depends on types: building it tells
        if not schema.has_function:
            return False
        body = schema.function_body
        inner = function_opsets(body, opsets, self._model.label)
        return all(self._is_supported(child, inner, depth + 1) for child in body.node)


def function_opsets(function: onnx.FunctionProto, outer: Opsets, where: str) -> Opsets:
    """Return the opsets of a function's body: its own imports, else the model's."""
    return opset_versions(function.opset_import, f"function {function.name}, {where}", outer)


def version_of(node: onnx.NodeProto, opsets: Opsets) -> int:
    """Return the opset version that `node` follows."""
    return opsets.get(_domain(node), 1)


def check_call(node: onnx.NodeProto, function: onnx.FunctionProto, where: str) -> None:
    """Check that a call does not give more than its function takes; raise ModelError."""
    for kind, given, declared in (
        ("inputs", len(node.input), len(function.input)),
        ("outputs", len(node.output), len(function.output)),
    ):
        if given > declared:
            raise ModelError(
                f"function {function.name} has {declared} {kind}, the call {given}", where=where
            )


def _domain(node: onnx.NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else node.domain


def _line(node: onnx.NodeProto, opsets: Opsets) -> str:
    domain = _domain(node)
    name = f"{domain}.{node.op_type}" if domain else node.op_type
    return f"{node_name(node)}: {name} (opset {version_of(node, opsets)})"


def _resolved(node: onnx.NodeProto, bound: Mapping[str, Any]) -> bytes:
    """Return `node` serialised, its references to attributes of the call replaced."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.attribute[:]
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            copy.attribute.append(attribute)
        elif bound.get(attribute.ref_attr_name) is not None:
            value = bound[attribute.ref_attr_name]
            copy.attribute.append(onnx.helper.make_attribute(attribute.name, value))
    data: bytes = copy.SerializeToString()
    return data


def _type_of(value: Value | None) -> bytes:
    proto = onnx.TypeProto()
    if value is not None:
        shape: list[str | int | None] | None = None
        if value.shape is not None:
            shape = [dim if isinstance(dim, int) else str(dim) for dim in value.shape]
        proto = onnx.helper.make_tensor_type_proto(value.dtype.onnx, shape)
    data: bytes = proto.SerializeToString()
    return data
