"""Whether an anchor computes a value for one reader, so that this reader can be its epilogue."""

from __future__ import annotations

from planish.ir.graph import Graph, Value
from planish.ops.op import OPS

VIEWS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")
STEPS = 8  # pointwise ops and views to look through


def has_private_anchor(value: Value, graph: Graph, through_views: bool = False) -> bool:
    """Whether an anchor, perhaps with pointwise ops behind it, computes `value` for one reader.

    Parameters
    ----------
    through_views : bool
        Whether views may stand between the anchor and `value`.
    """
    for _ in range(STEPS):
        if len(value.uses) != 1 or graph.is_output(value):
            return False
        node = value.producer
        if node is None or node.graph is not graph or len(node.outputs) != 1:
            return False
        if node.op in VIEWS and through_views and node.inputs[0] is not None:
            value = node.inputs[0]
            continue
        if OPS[node.op].view or node.subgraphs:
            return False
        if not OPS[node.op].pointwise:
            return True
        tensors = [each for each in node.present_inputs if each.shape == value.shape]
        if len(tensors) != 1:
            return len(tensors) > 1
        value = tensors[0]
    return False
