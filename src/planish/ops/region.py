"""The Region operator: a fused group of nodes whose meaning is its body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from planish.errors import GraphError
from planish.ir.dtypes import F32
from planish.ir.graph import Graph, Node
from planish.ir.shape import Dim
from planish.ops.op import (
    REQUIRED,
    Array,
    Attributes,
    Cost,
    Inferred,
    Inputs,
    Op,
    Sample,
    SubgraphRunner,
    bytes_of,
    op_of,
)


class Region(Op):
    """A fused region: `body` applied to the inputs.

    `kind` is the anchor's operator name or "pointwise". Inputs correspond one to one to
    `body.inputs`, outputs to `body.outputs`; constants are read inside the body.
    """

    name = "Region"
    attributes: ClassVar[Mapping[str, Any]] = {"kind": REQUIRED, "body": REQUIRED}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the types of the body's outputs (`infer_node` has typed the body before)."""
        if len(node.inputs) != len(node.body.inputs):
            raise GraphError(
                f"a region has {len(node.inputs)} inputs, its body {len(node.body.inputs)}",
                where=str(node),
            )
        return [Inferred(out.dtype, out.shape, out.content) for out in node.body.outputs]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Refuse: a region can only be evaluated with a runner for its body."""
        raise GraphError("a region is evaluated by running its body", fix="call Region.evaluate")

    @classmethod
    def evaluate(cls, node: Node, inputs: Inputs, run: SubgraphRunner) -> list[Array]:
        """Run the body."""
        return run(node.body, [array for array in inputs if array is not None])

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return one region that adds a constant and clips at zero."""
        body = Graph("region")
        x = body.add_input("x", F32, (2, 3))
        total = body.new_value(F32, (2, 3))
        body.append(Node("Add", [x, body.constant(np.array(0.5, np.float32))], [total]))
        result = body.new_value(F32, (2, 3))
        body.append(Node("Relu", [total], [result]))
        body.add_output(result)
        values = np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)
        return [Sample((values,), {"kind": "pointwise", "body": body})]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Return the arithmetic of the body's nodes; only operands and constants move."""
        operations: Dim = 0
        for inner in node.body:
            operations = operations + op_of(inner).cost(inner).operations
        moved = bytes_of(node)
        for value in node.body.constants():
            moved = moved + value.array.nbytes
        return Cost(operations, moved)


SCATTERS = frozenset({"ScatterElements", "ScatterND"})


def works_in_place(node: Node, index: int) -> bool:
    """Whether a Region's result may take the memory of operand `index`, laid out alike.

    Pointwise kernels read every element before they write the one at its address; a scatter into
    its first operand leaves alone what it does not write.
    """
    kind = node.attributes["kind"]
    if len(node.outputs) != 1:
        return False
    if kind in SCATTERS:
        anchor = next(iter(node.body))
        return len(node.body) == 1 and index == 0 and anchor.inputs[0] is node.body.inputs[0]
    return bool(kind == "pointwise")
