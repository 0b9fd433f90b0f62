"""The TensorFlow importer: a `TfGraph`, frozen and inlined, to Graph at Planish's opset.

`read_tensorflow` walks over the nodes in order and lets the rule of each operation
(`savedmodel_rules/`, one function an operation) emit its nodes. Tensors keep TensorFlow's axes:
a convolution in NHWC becomes Transpose, Conv, Transpose, and the passes see to it that nothing is
moved. Types are inferred node by node with Planish's own `infer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from planish.config import Profile
from planish.errors import GraphError, ModelError, PlanishError, UnsupportedOperatorError
from planish.importers.onnx_inputs import BATCH, SymbolTable
from planish.importers.profiles import apply_profiles, default_ranges
from planish.importers.savedmodel_rules import RULES
from planish.importers.tensorflow_builder import (
    MISSING,
    Builder,
    Operand,
    Refusal,
    Skipped,
    dtype_from,
)
from planish.importers.tensorflow_graph import (
    TfGraph,
    TfInput,
    TfNode,
    TfRef,
    TfShape,
    TfType,
)
from planish.ir.graph import Graph, Value
from planish.ir.shape import Shape
from planish.ops.infer import OPERAND_ERRORS

Known = np.ndarray[Any, Any] | tuple[TfType, TfShape]  # a constant, or a tensor's type


def read_tensorflow(graph: TfGraph, profiles: Mapping[str, Profile] | None = None) -> Graph:
    """Return the graph of a frozen TensorFlow model.

    Parameters
    ----------
    graph : TfGraph
        What `planish.importers.tensorflow` reads.
    profiles : dict of str to Profile, optional
        Ranges of open extents, by input name; see `importer.read_model`.

    Raises
    ------
    UnsupportedOperatorError
        With every node that cannot be converted, and why.
    ModelError, ShapeError, ConfigError
        As `importer.read_model` does.
    """
    result = Graph("graph")
    for name in _names(graph):
        result.reserve_name(name)
    values = _add_inputs(graph, result, profiles or {})
    if profiles is None:
        result.ranges = default_ranges(result)
    else:
        apply_profiles(result, profiles)
    importer = _Importer(graph.functions)
    outputs = importer.convert(graph, result, values)
    if importer.refused:
        lines = dict.fromkeys([*importer.refused, *_without_rule(graph)])
        raise UnsupportedOperatorError(list(lines), where=graph.label or None)
    for declared, value in zip(graph.outputs, outputs, strict=True):
        if not isinstance(value, Value):
            raise ModelError(
                f"the output {declared.name!r} is a {type(value).__name__}, not a tensor",
                where=graph.label or None,
            )
        result.add_output(value, declared.name)
    result.notes += graph.notes
    return result


def unconvertible(
    node: TfNode, operands: Sequence[Known], functions: Mapping[str, TfGraph] | None = None
) -> str | None:
    """Return why `node` cannot be converted, None where it can.

    The answer is the rule's own: it is run on a graph that is thrown away.

    Parameters
    ----------
    node : TfNode
    operands : sequence
        For each input an array where it is a constant, else (type, shape).
    functions : dict of str to TfGraph, optional
        Bodies that the node's function attributes name.
    """
    if node.op not in RULES and node.op not in _STRUCTURAL:
        return "Planish has no rule for this operation"
    graph, symbols = Graph("probe"), SymbolTable()
    importer = _Importer(functions or {})
    values: list[Value] = []
    for index, operand in enumerate(operands):
        if isinstance(operand, np.ndarray):
            values.append(graph.constant(_plain(operand)))
            continue
        dtype = dtype_from(operand[0])
        if dtype is None:
            return f"input {index} is a {operand[0]}"
        if operand[1] is None:
            return f"the rank of input {index} is not known"
        shape = _shape(f"input_{index}", operand[1], symbols)
        values.append(graph.add_input(f"input_{index}", dtype, shape))
    try:
        importer.outputs_of(node, importer.builder(graph), values)
    except Refusal as refusal:
        return refusal.reason
    except Skipped:
        return "; ".join(importer.refused)
    except PlanishError as error:
        return error.what
    return None


_STRUCTURAL = ("Const", "Placeholder")


class _Importer:
    """Converts the graphs of one model; collects what it cannot convert."""

    def __init__(self, functions: Mapping[str, TfGraph]) -> None:
        self._functions = functions
        self.refused: list[str] = []
        self._names: dict[Graph, set[str]] = {}  # given to values so far

    def builder(self, graph: Graph) -> Builder:
        """Return a builder that appends to `graph`."""
        return Builder(graph, self._functions, self.convert)

    def convert(self, body: TfGraph, graph: Graph, operands: Sequence[Operand]) -> list[Operand]:
        """Append the nodes of `body` to `graph`; return its outputs for `operands`."""
        builder = self.builder(graph)
        results: dict[str, Sequence[Operand]] = {
            given.name: (operand,) for given, operand in zip(body.inputs, operands, strict=True)
        }
        for node in body.nodes:
            if node.name not in results:
                results[node.name] = self._node(node, builder, results)
        return [_lookup(output.ref, results, body) for output in body.outputs]

    def _node(
        self, node: TfNode, builder: Builder, results: Mapping[str, Sequence[Operand]]
    ) -> Sequence[Operand]:
        operands = [_lookup(ref, results, None) for ref in node.inputs]
        if any(operand is MISSING for operand in operands):
            return _ALL_MISSING
        if node.op not in RULES and node.op not in _STRUCTURAL:
            self.refused.append(_no_rule(node))
            return _ALL_MISSING
        try:
            return self.outputs_of(node, builder, operands)
        except Skipped:
            return _ALL_MISSING
        except Refusal as refusal:
            self.refused += refusal.nodes
            return _ALL_MISSING
        except GraphError as error:  # a rule asked for a rank that nobody knows
            self.refused.append(f"{node.name} ({node.op}): {error.what}")
            return _ALL_MISSING

    def outputs_of(
        self, node: TfNode, builder: Builder, operands: Sequence[Operand]
    ) -> Sequence[Operand]:
        """Return what the rule of `node` makes of `operands`."""
        builder.at(node, operands)
        if node.op == "Const":
            return (self._constant(node, builder),)
        if node.op == "Placeholder":
            builder.refuse("nothing is fed to this placeholder")
        try:
            made = RULES[node.op](node, builder)
        except OPERAND_ERRORS as error:
            reason = f"its operands or attributes do not fit: {type(error).__name__}: {error}"
            raise Refusal(node, reason) from error
        outputs = tuple(made) if isinstance(made, list | tuple) else (made,)
        # two functions in one graph (a loop's condition and body) may use a name twice
        taken = self._names.setdefault(builder.graph, set())
        for index, value in enumerate(outputs):
            if isinstance(value, Value) and value.producer is not None and _is_new(value, node):
                name = node.name if index == 0 else f"{node.name}:{index}"
                value.name = value.name if name in taken else name
                taken.add(name)
        return outputs

    def _constant(self, node: TfNode, builder: Builder) -> Value:
        array = node.attributes.get("value")
        if not isinstance(array, np.ndarray):
            builder.refuse("it has no value")
        if array.dtype.kind != "O" and dtype_from(array.dtype) is None:
            builder.refuse(f"its elements are {array.dtype}")
        return builder.graph.constant(_plain(array), node.name)


class _AllMissing(tuple[Operand, ...]):
    """Outputs of a node that could not be converted, however many it has."""

    __slots__ = ()

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: Any) -> Any:
        return MISSING


_ALL_MISSING = _AllMissing()


def _lookup(ref: TfRef, results: Mapping[str, Sequence[Operand]], body: TfGraph | None) -> Operand:
    outputs = results.get(ref.node)
    if outputs is None or ref.index >= len(outputs):
        raise ModelError(f"nothing produces {ref}", where=body.label if body else None)
    return outputs[ref.index]


def _is_new(value: Value, node: TfNode) -> bool:
    """Whether `value` was made for `node`, so that it may carry its name."""
    return value.producer is not None and value.producer.source.names == (node.name,)


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return string constants as str where they are text; other arrays as they are."""
    if array.dtype.kind != "O":
        return array
    texts = [item.decode("utf-8", "surrogateescape") for item in array.reshape(-1).tolist()]
    return np.array(texts, object).reshape(array.shape)


# -- inputs ---------------------------------------------------------------------------------------


def _add_inputs(graph: TfGraph, result: Graph, profiles: Mapping[str, Profile]) -> list[Value]:
    symbols = SymbolTable()
    return [_add_input(given, graph, result, profiles, symbols) for given in graph.inputs]


def _add_input(
    given: TfInput,
    graph: TfGraph,
    result: Graph,
    profiles: Mapping[str, Profile],
    symbols: SymbolTable,
) -> Value:
    where = f"input {given.name} of {graph.label}"
    dtype = dtype_from(given.dtype)
    if dtype is None:
        raise ModelError(f"the input is a {given.dtype}, only tensors are supported", where=where)
    shape = given.shape
    if shape is None and given.name in profiles:
        shape = (None,) * len(profiles[given.name].min)
    if shape is None:
        raise ModelError(
            "the input has no shape, not even a rank",
            where=where,
            fix=f'pass a profile for it: profiles={{"{given.name}": Profile(min, opt, max)}}',
        )
    return result.add_input(given.name, dtype, _shape(given.name, shape, symbols))


def _shape(name: str, shape: tuple[int | None, ...], symbols: SymbolTable) -> Shape:
    """Return a shape; open first extents of all inputs are one batch."""
    return tuple(
        dim if dim is not None else symbols.symbol(BATCH if axis == 0 else f"{name}_{axis}")
        for axis, dim in enumerate(shape)
    )


# -- what cannot be converted ---------------------------------------------------------------------


def _without_rule(graph: TfGraph) -> list[str]:
    """Return a line for every node, functions included, whose operation has no rule."""
    bodies = (graph, *graph.functions.values())
    nodes = [node for body in bodies for node in body.nodes]
    return [_no_rule(node) for node in nodes if node.op not in RULES and node.op not in _STRUCTURAL]


def _no_rule(node: TfNode) -> str:
    return f"{node.name} ({node.op}): Planish has no rule for this operation"


def _names(graph: TfGraph) -> list[str]:
    return [node.name for node in graph.nodes]
