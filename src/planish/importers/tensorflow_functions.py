"""Handlers of functional control flow: While, If, Case; see `tensorflow_freeze`.

The bodies become graphs of their own. Operands that are resources, and constants that go into a
branch or that a loop only hands through, are bound inside the body and are no operands any more:
so a recurrent cell's weights are constants where they are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
from planish.importers.tensorflow_graph import TfFunction, TfGraph, TfNode, TfRef
from planish.importers.tensorflow_source import SourceBody, SourceNode

LISTS_OF_OPERANDS = {"While": ("T", "output_shapes"), "If": ("Tin",), "Case": ("Tin",)}


@handles("While", "StatelessWhile")
def _while(freezer: Freezer, frame: Frame, node: SourceNode, operands: list[Binding]) -> Results:
    where = f"node {frame.prefix}{node.name} ({node.op})"
    attributes = attributes_of(node.attributes, frame.bound, where)
    functions = [_function(attributes, name, where) for name in ("cond", "body")]
    body = freezer.library.function(functions[1].name)
    if len(body.arguments) != len(operands) or len(body.results) != len(operands):
        raise ModelError("the loop's body takes or returns another number of values", where=where)
    given = [
        _inner(operand, frame) if _handed_through(freezer, body, position) else None
        for position, operand in enumerate(operands)
    ]
    for operand, binding in zip(operands, given, strict=True):
        if isinstance(operand, Resource) and binding is None:
            raise ModelError("a loop changes which variable it works on", where=where)
    kept = [position for position, binding in enumerate(given) if binding is None]
    attributes["cond"] = _frozen(freezer, functions[0], given, frame, None)
    attributes["body"] = _frozen(freezer, functions[1], given, frame, kept)
    name = _emit(freezer, frame, node, attributes, operands, kept)
    results: list[Binding] = list(operands)
    for index, position in enumerate(kept):
        results[position] = TfRef(name, index)
    return results


@handles("If", "StatelessIf", "Case", "StatelessCase", operands=1)
def _branches(freezer: Freezer, frame: Frame, node: SourceNode, operands: list[Binding]) -> Results:
    where = f"node {frame.prefix}{node.name} ({node.op})"
    attributes = attributes_of(node.attributes, frame.bound, where)
    given = [_inner(operand, frame) for operand in operands[1:]]
    for name in ("then_branch", "else_branch"):
        if name in attributes:
            function = _function(attributes, name, where)
            attributes[name] = _frozen(freezer, function, given, frame, None)
    if "branches" in attributes:
        attributes["branches"] = [
            _frozen(freezer, function, given, frame, None) for function in attributes["branches"]
        ]
    kept = [position for position, binding in enumerate(given) if binding is None]
    return _emit(freezer, frame, node, attributes, operands, kept)


def _emit(
    freezer: Freezer,
    frame: Frame,
    node: SourceNode,
    attributes: dict[str, Any],
    operands: Sequence[Binding],
    kept: Sequence[int],
) -> str:
    """Copy the node with the operands that are kept; return its name."""
    kind = node.op.removeprefix("Stateless")
    first = 0 if kind == "While" else 1
    for name in LISTS_OF_OPERANDS[kind]:
        entries = attributes.get(name) or []
        if len(entries) == len(operands) - first:
            attributes[name] = [entries[position] for position in kept]
    chosen = [*operands[:first], *(operands[first + position] for position in kept)]
    inputs = tuple(freezer.as_ref(operand, frame) for operand in chosen)
    copied = TfNode(frame.prefix + node.name, node.op, inputs, attributes, node.device)
    return frame.builder.copy(copied).node


def _function(attributes: dict[str, Any], name: str, where: str) -> TfFunction:
    function = attributes.get(name)
    if not isinstance(function, TfFunction):
        raise ModelError(f"the attribute {name} names no function", where=where)
    return function


def _frozen(
    freezer: Freezer,
    function: TfFunction,
    given: Sequence[Binding | None],
    frame: Frame,
    kept: Sequence[int] | None,
) -> TfFunction:
    """Freeze a body with some arguments bound; return its name in the frozen model.

    `kept` says which of its results stay; None for all.
    """
    body = freezer.library.function(function.name)
    if len(body.arguments) != len(given):
        raise ModelError(f"the function {body.name} takes another number of values")
    if kept is not None:
        results = tuple(body.results[position] for position in kept)
        body = SourceBody(body.name, body.arguments, results, body.nodes, body.effects, body.fed)
    bound = attributes_of(function.attributes, frame.bound, body.name)
    captures = freezer.storage.captures(body.name)
    captured = [None] * (len(given) - len(captures)) + list(captures)
    merged = [
        outer if outer is None or inner is None else inner
        for outer, inner in zip(given, captured, strict=True)
    ]
    graph = freezer.body_graph(body, merged, bound, frame.depth + 1)
    return TfFunction(_added(freezer.functions, function.name, graph))


def _added(functions: dict[str, TfGraph], name: str, graph: TfGraph) -> str:
    """Add a frozen body under a new name; return it."""
    attempt, candidate = 0, name
    while candidate in functions:
        attempt += 1
        candidate = f"{name}_{attempt}"
    functions[candidate] = graph
    return candidate


def _inner(operand: Binding, frame: Frame) -> Resource | Constant | None:
    """Return what an operand is bound to inside a body; None when it has to be handed over."""
    if isinstance(operand, Resource):
        return operand
    return frame.builder.constant_of(operand)


def _handed_through(freezer: Freezer, body: SourceBody, position: int) -> bool:
    """Return whether a loop's body returns an argument as it is."""
    port = body.results[position][1]
    for _ in range(len(body.nodes) + 1):
        argument = body.arguments[position].name
        if port == (argument, 0) or body.fed.get(port) == argument:
            return True
        node = body.nodes.get(port[0])
        if node is None or node.op != "Identity" or not node.inputs:
            return False
        port = node.inputs[0]
    return False
