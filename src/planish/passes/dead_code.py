"""Removes nodes whose results nothing reads."""

from __future__ import annotations

from planish.ir.graph import Graph
from planish.ir.rewrite import discard
from planish.passes.graph_pass import GraphPass


class DeadCode(GraphPass):
    """One sweep from the end: a node is dead when none of its outputs is read or returned.

    Subgraphs are swept where they stand: what only their dead nodes read is dead, too.
    """

    name = "dead_code"

    def run(self, graph: Graph) -> bool:
        """Remove dead nodes of `graph`, last first, so that chains go in one sweep."""
        removed = _sweep(graph)
        if removed:
            self.count("dead nodes", removed)
        return removed > 0


def _sweep(graph: Graph) -> int:
    kept = set(graph.outputs)
    removed = 0
    for node in reversed(graph):
        if any(output.uses or output in kept for output in node.outputs):
            removed += sum(map(_sweep, node.subgraphs)) if node.op != "Region" else 0
            continue
        discard(node, graph)
        removed += 1
    return removed
