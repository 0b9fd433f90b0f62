"""If and Case become If; where the condition is known, the branch that is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from planish.importers.savedmodel_rules.tensor_lists import (
    NeedsTensor,
    TensorList,
    elements_of,
    forget,
    with_elements,
)
from planish.importers.tensorflow_builder import Builder, Operand, rule
from planish.importers.tensorflow_graph import TfNode
from planish.ir.dtypes import BOOL
from planish.ir.graph import Graph, Value
from planish.ops.content import contents

Branch = Callable[[Builder], list[Operand]]


def as_condition(value: Operand, builder: Builder) -> Value:
    """Return a condition as a boolean: TensorFlow takes numbers (not 0) as well."""
    if not isinstance(value, Value):
        builder.refuse("the condition is no tensor")
    if value.shape not in ((), None):
        builder.refuse("the condition is no scalar")
    return builder.cast(value, BOOL)


@rule("If", "StatelessIf")
def if_else(node: TfNode, builder: Builder) -> list[Operand]:
    """Take a branch now where the condition is known, else keep both."""
    condition = as_condition(builder.operands[0], builder)
    names = (node.attributes["then_branch"].name, node.attributes["else_branch"].name)
    return _choose(builder, condition, *(_branch(name, builder.operands[1:]) for name in names))


@rule("Case", "StatelessCase")
def case(node: TfNode, builder: Builder) -> list[Operand]:
    """Compare with one number after the other; the last branch takes all that is left."""
    names = [function.name for function in node.attributes["branches"]]
    return _switch(builder, builder.input(0), names, builder.operands[1:], 0)


def _switch(
    builder: Builder, index: Value, names: Sequence[str], operands: Sequence[Operand], first: int
) -> list[Operand]:
    if first == len(names) - 1:
        return builder.inline(names[first], operands)
    known = contents(index)
    if known is not None and isinstance(known[0], int):
        last = len(names) - 1
        chosen = known[0] if 0 <= known[0] < last else last
        return builder.inline(names[chosen], operands)
    here = builder.emit("Equal", index, builder.scalar(first, index))

    def others(inner: Builder) -> list[Operand]:
        return _switch(inner, index, names, operands, first + 1)

    return _choose(builder, here, _branch(names[first], operands), others)


def _branch(name: str, operands: Sequence[Operand]) -> Branch:
    return lambda inner: inner.inline(name, operands)


def _choose(builder: Builder, condition: Value, then: Branch, otherwise: Branch) -> list[Operand]:
    """Return what one of two branches gives."""
    known = contents(condition)
    if known is not None and isinstance(known[0], int):
        return (then if known[0] else otherwise)(builder)
    graphs = (Graph("then"), Graph("else"))
    inner = [builder.inside(graph) for graph in graphs]
    merged: list[int] = []
    try:
        pairs = list(zip(then(inner[0]), otherwise(inner[1]), strict=True))
        for index, pair in enumerate(pairs):
            if pair[0] is pair[1]:
                continue
            merged.append(index)
            for branch, graph, result in zip(inner, graphs, pair, strict=True):
                graph.add_output(_as_tensor(branch, result), graph.fresh_name("output"))
    except NeedsTensor:  # a loop around the branches tries again
        for graph in graphs:
            forget(graph)
        raise
    branches = {"then_branch": graphs[0], "else_branch": graphs[1]}
    outputs = builder.emit_many("If", len(merged), condition, **branches) if merged else ()
    results: list[Operand] = [a for a, _ in pairs]
    for index, value in zip(merged, outputs, strict=True):
        given = results[index]
        is_list = isinstance(given, TensorList)
        results[index] = with_elements(builder, given, value) if is_list else value
    return results


def _as_tensor(builder: Builder, result: Operand) -> Value:
    """Return a branch's result as a tensor."""
    if isinstance(result, TensorList):
        return elements_of(builder, result)
    if not isinstance(result, Value):
        builder.refuse(f"the branches give a {type(result).__name__}, not a tensor")
    return result
