"""The branches of an If: which one is taken, and what stands in for one that cannot be built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from planish.errors import ShapeError
from planish.ir.declarations import DECLARED
from planish.ir.graph import Graph, Node, Value
from planish.ir.source import Source
from planish.ops.content import contents

CONDITION_DEPTH = 4  # operators that a message shows of how a condition is computed


def taken_branch(proto: onnx.NodeProto, values: Sequence[Value | None]) -> onnx.GraphProto | None:
    """Return the branch that an If takes when its condition is known from shapes or constants."""
    if proto.op_type != "If" or proto.domain not in ("", "ai.onnx") or not values:
        return None
    known = contents(values[0])
    if known is None or len(known) != 1 or not isinstance(known[0], int):
        return None
    wanted = "then_branch" if known[0] else "else_branch"
    return next((a.g for a in proto.attribute if a.name == wanted), None)


def refuse_branches(
    attributes: Mapping[str, Any],
    refused: Mapping[Graph, ShapeError],
    condition: Value | None,
    source: Source,
) -> list[str]:
    """Fill the empty branches of an If that cannot run with the shapes at hand with a Refuse.

    Such a branch is a mistake only when it is taken, which the data decides: the engine then
    raises InputError with the reason.

    Parameters
    ----------
    attributes : dict
        The If's, both branches among them.
    refused : dict
        Empty branch to what is wrong with it.
    condition : Value or None
        What decides between the branches.
    source : Source
        The user's node.

    Returns
    -------
    list of str
        A note for the user for every branch.

    Raises
    ------
    ShapeError
        When no branch can run.
    """
    notes = []
    for name, branch in attributes.items():
        if branch not in refused:
            continue
        others = [g for key, g in attributes.items() if key != name and isinstance(g, Graph)]
        error = refused[branch]
        if len(others) != 1 or others[0] in refused:
            raise error
        taken = "true" if name == "then_branch" else "false"
        reason = (
            f"{name} of {source} is taken where {_describe(condition)} is {taken}, "
            f"and it does not fit the shapes that this engine was built for: {error.what}"
        )
        inner = (error.where or "").rpartition("# ")[2]  # a node's text ends with its source
        where = f"node {source} (If)" + (f", node {inner}" if inner else "")
        _refuse(branch, others[0], {"message": reason, "where": where}, source)
        notes.append(f"{reason}; inputs that take it are refused")
    return notes


def _refuse(branch: Graph, other: Graph, attributes: Mapping[str, Any], source: Source) -> None:
    """Give `branch` one Refuse with outputs like those of the `other` branch."""
    outputs = [branch.new_value(value.dtype, value.shape, value.name) for value in other.outputs]
    refusal = {**DECLARED["planish.Refuse"], **attributes}
    branch.append(Node("planish.Refuse", [], outputs, refusal, source))
    for value in outputs:
        branch.add_output(value)


def _describe(value: Value | None, depth: int = CONDITION_DEPTH) -> str:
    """Return how `value` is computed: "Equal(sr, 16000)"."""
    if value is None:
        return "?"
    if value.constant is not None and value.array.size == 1:
        return str(value.array.reshape(-1)[0])
    node = value.producer
    if node is None or depth == 0:
        return value.name
    return f"{node.op}({', '.join(_describe(each, depth - 1) for each in node.inputs)})"
