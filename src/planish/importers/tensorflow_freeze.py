"""Freezes a TensorFlow graph: calls are inlined, variables become constants.

Every node of a body is visited in order, with what its operands are bound to: a reference into the
graph being made, a resource (a variable, a table), or a constant from outside. Most operations are
copied; those that have to do with resources and functions have a handler (`HANDLERS`). What runs
only for its effect is visited, too, so that writes to variables are seen, and dropped at the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from planish.errors import ModelError, UnsupportedTypeError
from planish.importers.tensorflow_graph import (
    TfFunction,
    TfGraph,
    TfInput,
    TfNode,
    TfOutput,
    TfRef,
    TfTable,
    TfType,
)
from planish.importers.tensorflow_source import Bound, Port, SourceBody, SourceLibrary, SourceNode

Array = np.ndarray[Any, Any]

MAX_NODES = 1_000_000
MAX_CALL_DEPTH = 100
_ANONYMOUS = re.compile(r"(Stateful)?PartitionedCall(_\d+)?")


@dataclass(frozen=True)
class Resource:
    """A variable or a table, by the number of its object or the name of its node.

    Attributes
    ----------
    kind : str
        "variable", "reference" (a TensorFlow 1 variable, read by whoever takes it) or "table".
    key : int or str
        Number in the object graph, or the name of a node of the main graph.
    """

    kind: str
    key: int | str


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant from outside the graph being made."""

    name: str
    array: Array
    dtype: TfType


Binding = TfRef | Resource | Constant
Results = list[Binding] | str  # bindings, or the name of a copied node that has all of them


class Storage(Protocol):
    """Where variables, tables and captured values come from."""

    def captures(self, function: str) -> list[Binding | None]:
        """Return what the last arguments of a function are bound to; None: by its caller."""

    def variable(self, resource: Resource) -> Constant:
        """Return a variable's value."""

    def table_bodies(self) -> list[tuple[SourceBody, list[Binding | None]]]:
        """Return the bodies that fill tables, and what their arguments are bound to."""

    def saved_table(self, resource: Resource) -> TfTable | None:
        """Return a table whose contents are stored, not computed."""


class GraphBuilder:
    """The nodes of one graph being made."""

    def __init__(self, functions: Mapping[str, TfGraph], label: str) -> None:
        self._functions = functions
        self._label = label
        self._nodes: dict[str, TfNode] = {}
        self._inputs: list[TfInput] = []
        self._constants: dict[object, TfRef] = {}
        self._resources: dict[str, Resource] = {}

    def placeholder(self, argument: TfInput) -> TfRef:
        """Add an input."""
        name = self._fresh(argument.name)
        self._inputs.append(replace(argument, name=name))
        return self._add(
            TfNode(name, "Placeholder", (), {"dtype": argument.dtype, "shape": argument.shape})
        )

    def copy(self, node: TfNode) -> TfRef:
        """Add a node, under another name where its own is taken."""
        return self._add(replace(node, name=self._fresh(node.name)))

    def constant(self, constant: Constant, key: object = None) -> TfRef:
        """Return the node of a constant; the same one for the same array or `key`."""
        found = id(constant.array) if key is None else key
        if found not in self._constants:
            attributes = {"dtype": constant.dtype, "value": constant.array}
            self._constants[found] = self.copy(TfNode(constant.name, "Const", (), attributes))
            if isinstance(key, Resource):
                self._resources[self._constants[found].node] = key
        return self._constants[found]

    def node(self, ref: TfRef) -> TfNode:
        """Return the node that a reference names."""
        return self._nodes[ref.node]

    def constant_of(self, binding: Binding) -> Constant | None:
        """Return the value of a binding when it is a constant."""
        if isinstance(binding, Constant):
            return binding
        if isinstance(binding, Resource):
            return None
        node = self.node(binding)
        while node.op == "Identity" and node.inputs:
            node = self.node(node.inputs[0])
        if node.op != "Const":
            return None
        return Constant(node.name, node.attributes["value"], node.attributes["dtype"])

    def finish(self, outputs: Sequence[TfOutput]) -> tuple[TfGraph, list[Resource]]:
        """Return the graph of what `outputs` need, and the variables that it reads."""
        needed = {argument.name for argument in self._inputs}
        needed |= {output.ref.node for output in outputs}
        kept = []
        for node in reversed(self._nodes.values()):
            if node.name in needed:
                needed.update(ref.node for ref in node.inputs)
                kept.append(node)
        read = [self._resources[node.name] for node in kept if node.name in self._resources]
        nodes = tuple(reversed(kept))
        graph = TfGraph(nodes, tuple(self._inputs), tuple(outputs), self._functions, self._label)
        return graph, read

    def _fresh(self, name: str) -> str:
        """Return `name`, numbered where it is taken."""
        attempt, candidate = 0, name
        while candidate in self._nodes:
            attempt += 1
            candidate = f"{name}_{attempt}"
        return candidate

    def _add(self, node: TfNode) -> TfRef:
        self._nodes[node.name] = node
        return TfRef(node.name)


@dataclass(frozen=True, eq=False)
class Frame:
    """Where nodes are being visited: the graph being made and the call around.

    Attributes
    ----------
    builder : GraphBuilder
    prefix : str
        In front of the names of nodes.
    bound : dict of str to object
        Attributes that the call gives.
    depth : int
        Calls around.
    values : dict of str to Results
        What the arguments and the nodes visited so far are bound to.
    """

    builder: GraphBuilder
    prefix: str = ""
    bound: Mapping[str, Any] = field(default_factory=dict)
    depth: int = 0
    values: dict[str, Results] = field(default_factory=dict)

    def value(self, port: Port) -> Binding:
        """Return what a port is bound to."""
        results = self.values[port[0]]
        if isinstance(results, str):
            return TfRef(results, port[1])
        if port[1] >= len(results):
            raise ModelError(f"the node {port[0]} has no output {port[1]}")
        return results[port[1]]


Handler = Callable[["Freezer", Frame, SourceNode, list[Binding]], Results]
HANDLERS: dict[str, Handler] = {}
_OPERANDS: dict[str, int] = {}  # how many an operation with a handler has at least


def handles(*ops: str, operands: int = 0) -> Callable[[Handler], Handler]:
    """Register what to do with operations, which have so many operands, instead of copying them."""

    def register(function: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(ops, function))
        _OPERANDS.update(dict.fromkeys(ops, operands))
        return function

    return register


class Freezer:
    """Freezes the main graph of a model and the functions that its control flow names.

    Attributes
    ----------
    library : SourceLibrary
    storage : Storage
    functions : dict of str to TfGraph
        Frozen bodies of control flow.
    written : dict of Resource to str
        Variables that the graph writes, and the name of a node that does.
    tables : dict of Resource to TfTable
        Tables filled so far.
    """

    def __init__(self, library: SourceLibrary, storage: Storage) -> None:
        self.library = library
        self.storage = storage
        self.functions: dict[str, TfGraph] = {}
        self.written: dict[Resource, str] = {}
        self.tables: dict[Resource, TfTable] = {}
        self._read: dict[Resource, None] = {}
        self._visited = 0
        self._tables_filled = False

    def graph(self, body: SourceBody) -> TfGraph:
        """Return the main graph, frozen; raise ModelError where it cannot be."""
        graph = self.body_graph(body, [None] * len(body.arguments), {}, 0)
        both = [resource for resource in self._read if resource in self.written]
        if both:
            names = [self._name(resource) for resource in both]
            raise UnsupportedTypeError(
                f"the model changes variables that its outputs depend on: {', '.join(names)} "
                f"(written by {self.written[both[0]]})",
                where=body.name,
                fix="save the model for inference: without training, and with its state (of a "
                "stateful RNN, a counter) as inputs and outputs",
            )
        notes = tuple(
            f"{writer} was dropped: no output needs it" for writer in self.written.values()
        )
        return replace(graph, notes=notes)

    def _name(self, resource: Resource) -> str:
        return "a table" if resource.kind == "table" else self.storage.variable(resource).name

    def body_graph(
        self,
        body: SourceBody,
        given: Sequence[Binding | None],
        bound: Mapping[str, Any],
        depth: int,
    ) -> TfGraph:
        """Return a body as a graph of its own; arguments that are given are no inputs of it."""
        builder = GraphBuilder(self.functions, body.name)
        frame = Frame(builder, "", bound, depth)
        arguments: list[Binding] = []
        for argument, binding in zip(body.arguments, given, strict=True):
            arguments.append(builder.placeholder(argument) if binding is None else binding)
        results = self.visit(body, arguments, frame)
        outputs = []
        for (name, port), result in zip(body.results, results, strict=True):
            source = f"{port[0]}:{port[1]}"
            outputs.append(TfOutput(name, self.as_ref(result, frame), None, source))
        graph, read = builder.finish(outputs)
        self._read.update(dict.fromkeys(read))
        return graph

    def visit(self, body: SourceBody, arguments: Sequence[Binding], frame: Frame) -> list[Binding]:
        """Copy the nodes of `body` into the frame's graph; return what its results are bound to."""
        if frame.depth > MAX_CALL_DEPTH:
            raise ModelError("functions call each other without end", where=body.name)
        for argument, binding in zip(body.arguments, arguments, strict=True):
            frame.values[argument.name] = [binding]
        for node in body.ordered():
            self._visited += 1
            if self._visited > MAX_NODES:
                raise ModelError(f"the graph has more than {MAX_NODES} nodes", where=body.name)
            operands = [_operand(body, port, frame) for port in node.inputs]
            if len(operands) < _OPERANDS.get(node.op, 0):
                raise ModelError("operands are missing", where=f"node {node.name} ({node.op})")
            frame.values[node.name] = self._handler(node)(self, frame, node, operands)
        return [_operand(body, port, frame) for _, port in body.results]

    def _handler(self, node: SourceNode) -> Handler:
        if node.op in HANDLERS:
            return HANDLERS[node.op]
        return _call_by_name if self.library.has_function(node.op) else _copy

    def as_ref(self, binding: Binding, frame: Frame) -> TfRef:
        """Return a binding as a reference into the frame's graph."""
        if isinstance(binding, TfRef):
            return binding
        if isinstance(binding, Constant):
            return frame.builder.constant(binding)
        if binding.kind == "reference":
            return self.read(binding, frame)
        op = "VarHandleOp" if binding.kind == "variable" else "HashTableV2"
        name = str(binding.key) if isinstance(binding.key, str) else f"{binding.kind}_{binding.key}"
        return frame.builder.copy(TfNode(name, op, (), {"dtype": "resource"}))

    def read(self, resource: Resource, frame: Frame) -> TfRef:
        """Return the value of a variable as a node of the frame's graph."""
        return frame.builder.constant(self.storage.variable(resource), resource)

    def call(
        self, function: TfFunction, operands: Sequence[Binding], frame: Frame, prefix: str
    ) -> list[Binding]:
        """Inline a function; return what its results are bound to."""
        body = self.library.function(function.name)
        arguments = list(operands)
        if len(arguments) != len(body.arguments):
            raise ModelError(
                f"{len(arguments)} arguments are given to the function {body.name}, which takes "
                f"{len(body.arguments)}",
                where=self.library.label,
            )
        captures = self.storage.captures(body.name)
        first = len(arguments) - len(captures)
        for position, capture in enumerate(captures, first):
            if capture is not None and position >= 0:
                arguments[position] = capture
        bound = attributes_of(function.attributes, frame.bound, body.name)
        inner = Frame(frame.builder, prefix, bound, frame.depth + 1)
        return self.visit(body, arguments, inner)

    def table(self, resource: Resource) -> TfTable | None:
        """Return the contents of a table that is read; None when they are not constant."""
        self._read[resource] = None
        if not self._tables_filled:
            self._tables_filled = True
            for body, given in self.storage.table_bodies():
                self.body_graph(body, given, {}, 0)
        return self.tables.get(resource) or self.storage.saved_table(resource)


def attributes_of(
    attributes: Mapping[str, Any], bound: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Return attributes with those filled in that the call around gives."""
    result = {}
    for name, value in attributes.items():
        if isinstance(value, Bound):
            if value.name not in bound:
                raise ModelError(f"the attribute {value.name!r} is not bound", where=where)
            value = bound[value.name]
        result[name] = value
    return result


def call_prefix(frame: Frame, node: SourceNode) -> str:
    """Return the prefix of names inside a call: calls without a name of their own add nothing."""
    head, slash, last = node.name.rpartition("/")
    if _ANONYMOUS.fullmatch(last):
        return frame.prefix + head + slash
    return f"{frame.prefix}{node.name}/"


def _operand(body: SourceBody, port: Port, frame: Frame) -> Binding:
    if port in body.fed:
        return frame.value((body.fed[port], 0))
    return frame.value(port)


def _copy(freezer: Freezer, frame: Frame, node: SourceNode, operands: list[Binding]) -> Results:
    inputs = tuple(freezer.as_ref(operand, frame) for operand in operands)
    attributes = attributes_of(node.attributes, frame.bound, f"node {node.name} ({node.op})")
    copied = TfNode(frame.prefix + node.name, node.op, inputs, attributes, node.device)
    return frame.builder.copy(copied).node


def _call_by_name(
    freezer: Freezer, frame: Frame, node: SourceNode, operands: list[Binding]
) -> Results:
    function = TfFunction(node.op, node.attributes)
    return freezer.call(function, operands, frame, call_prefix(frame, node))


@handles("PartitionedCall", "StatefulPartitionedCall", "TPUPartitionedCall", "RemoteCall")
def _call(freezer: Freezer, frame: Frame, node: SourceNode, operands: list[Binding]) -> Results:
    function = node.attributes.get("f")
    if not isinstance(function, TfFunction):
        raise ModelError("the call names no function", where=f"node {node.name} ({node.op})")
    return freezer.call(function, operands, frame, call_prefix(frame, node))


@handles("Const")
def _constant(freezer: Freezer, frame: Frame, node: SourceNode, _: list[Binding]) -> Results:
    if not isinstance(node.attributes.get("value"), np.ndarray):
        raise ModelError("the constant has no value", where=f"node {node.name} (Const)")
    return _copy(freezer, frame, node, [])


@handles("PlaceholderWithDefault", operands=1)
def _default(freezer: Freezer, frame: Frame, node: SourceNode, operands: list[Binding]) -> Results:
    return operands[:1]


@handles("Identity", "IdentityN", "StopGradient", "EnsureShape", operands=1)
def _identity(freezer: Freezer, frame: Frame, node: SourceNode, operands: list[Binding]) -> Results:
    if any(isinstance(operand, Resource) for operand in operands):
        return operands
    return _copy(freezer, frame, node, operands)
