"""Moves pads and pools up to where their operand is computed, if a sum reads their result.

Of two results that are added, the later one's region takes the addition. In a residual block whose
shortcut is padded or pooled, that should be the convolution: its sums are in registers.
"""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.passes.graph_pass import GraphPass
from planish.passes.quantized import DEQUANTIZE, RESHAPING

RAISED = ("Pad", "MaxPool", "AveragePool")
VIEWS = (*RESHAPING, "Slice", DEQUANTIZE)
SUMS = ("Add", "Sum")
STEPS = 8  # views in a row that are looked through


class RaisePads(GraphPass):
    """Changes the execution order only."""

    name = "raise_pads"

    def run(self, graph: Graph) -> bool:
        """Visit the pads and pools in order."""
        order = {node: index for index, node in enumerate(graph)}
        modified = False
        for node in list(graph):
            if node.op not in RAISED or not _is_added(node) or not _depends_on_first(node):
                continue
            chain = _chain(node, graph)
            source = chain[0].present_inputs[0].producer
            if source is None or source.graph is not graph:
                continue
            if order[chain[-1]] - order[source] == len(chain):
                continue
            for each in reversed(chain):
                graph.detach(each)
                graph.insert_after(source, each)
            self.count("pads in front of a sum")
            modified = True
        return modified


def _is_added(node: Node) -> bool:
    """Whether a sum alone reads the result of `node`, perhaps dequantized."""
    users = node.outputs[0].users
    if len(users) == 1 and users[0].op == DEQUANTIZE:
        users = users[0].output.users
    return len(users) == 1 and users[0].op in SUMS


def _chain(node: Node, graph: Graph) -> list[Node]:
    """Return the views that lead to `node`, and `node`, all of which depend on one value."""
    chain = [node]
    while len(chain) < STEPS:
        producer = chain[0].present_inputs[0].producer
        if producer is None or producer.graph is not graph or not _is_view(producer):
            break
        chain.insert(0, producer)
    return chain


def _is_view(node: Node) -> bool:
    return node.op in VIEWS and _depends_on_first(node)


def _depends_on_first(node: Node) -> bool:
    return all(value.is_constant for value in node.present_inputs[1:])
