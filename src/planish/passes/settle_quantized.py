"""Brings quantized tensors to where they are read, as the last step before fusion.

- Every reader of a DequantizeLinear gets one of its own. It then fuses into each of them, so that
  the tensor between two regions is the integer one.
- A DequantizeLinear of a constant is computed now, unless it makes the weights of a quantized
  product, which stay integers.
"""

from __future__ import annotations

from planish.ir.graph import Graph, Node, Value
from planish.passes.fold_constants import FoldConstants
from planish.passes.graph_pass import GraphPass
from planish.passes.quantized import DEQUANTIZE, is_constant_dequantize, is_kept_weight


class SettleQuantized(GraphPass):
    """Gives every reader its own DequantizeLinear, and folds what stays no weight."""

    name = "settle_quantized"

    def run(self, graph: Graph) -> bool:
        """Copy, then fold: weights may have a reader that multiplies floats."""
        modified = False
        for node in graph:
            if node.op == DEQUANTIZE and not _is_folded(node):
                modified |= self._spread(node, graph)
        fold = FoldConstants(keeps=lambda node: not _is_folded(node))
        return fold.run(graph) or modified

    def _spread(self, node: Node, graph: Graph) -> bool:
        """Give each but the first of the readers of `node` a copy of it."""
        value = node.output
        readers = [user for user in value.users if user.graph is graph]
        kept = 0 if graph.is_output(value) or len(readers) < len(value.users) else 1
        for reader in readers[kept:]:
            copy = _copy(node, graph)
            for index, operand in enumerate(reader.inputs):
                if operand is value:
                    reader.replace_input(index, copy)
            self.count("dequantized for each reader")
        return len(readers) > kept


def _is_folded(node: Node) -> bool:
    return is_constant_dequantize(node) and not is_kept_weight(node)


def _copy(node: Node, graph: Graph) -> Value:
    old = node.output
    result = graph.new_value(old.dtype, old.shape, old.name)
    copy = Node(DEQUANTIZE, node.inputs, [result], node.attributes, node.source)
    graph.insert_after(node, copy)
    return result
