"""Infers types again where earlier passes made them known better.

When an If is inlined, or a branch is simplified, ranks and extents become known that were not at
import. They travel on from there, forward, to every reader.
"""

from __future__ import annotations

from planish.ir.dtypes import DType
from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import Shape
from planish.ops.infer import infer_node
from planish.passes.graph_pass import GraphPass

Type = tuple[DType, Shape | None]


class RefineTypes(GraphPass):
    """Infers nodes with subgraphs, nodes of unknown rank, and what reads a changed type."""

    name = "refine_types"

    def run(self, graph: Graph) -> bool:
        """Go forward once; follow changes only."""
        changed: set[Value] = set()
        for node in graph:
            if node.op == "Region" or not _needs_inference(node, changed):
                continue
            before = [_type(output) for output in node.outputs]
            infer_node(node)
            pairs = zip(node.outputs, before, strict=True)
            changed.update(output for output, old in pairs if _type(output) != old)
        if changed:
            self.count("refined types", len(changed))
        return bool(changed)


def _needs_inference(node: Node, changed: set[Value]) -> bool:
    if node.subgraphs or any(output.shape is None for output in node.outputs):
        return True
    return any(value in changed for value in node.present_inputs)


def _type(value: Value) -> Type:
    return value.dtype, value.shape
