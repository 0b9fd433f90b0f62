"""Applies rewrite rules to a graph until none of them fires.

The driver sweeps over the nodes in execution order. On each node it tries the rules whose root is
the node's operator, in the order of the rules' file names, and removes what a match leaves unread.
A sweep costs time linear in the nodes; sweeps end when one changes nothing, three or four in
practice, because a forward sweep lets one rewrite feed the next.
"""

from __future__ import annotations

from collections.abc import Iterable

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, is_read, remove_dead
from planish.passes.graph_pass import GraphPass

SWEEPS = 24  # a bound, so that two rules that undo each other cannot hang a build
FIRES_PER_NODE = 32  # likewise for one node


class ApplyRules(GraphPass):
    """Rewrites by the given rules until nothing changes; counts how often each fired."""

    name = "apply_rules"

    def __init__(self, rules: Iterable[type[Rule]]) -> None:
        super().__init__()
        self._by_root: dict[str, list[type[Rule]]] = {}
        for rule in rules:
            for root in rule.roots:
                self._by_root.setdefault(root, []).append(rule)

    def run(self, graph: Graph) -> bool:
        """Sweep until a whole sweep changes nothing."""
        modified = False
        for _ in range(SWEEPS):
            if not self._sweep(graph):
                break
            modified = True
        return modified

    def _sweep(self, graph: Graph) -> bool:
        changed = False
        for node in graph:
            for _ in range(FIRES_PER_NODE):
                if not self._fire(node, graph):
                    break
                changed = True
        return changed

    def _fire(self, node: Node, graph: Graph) -> bool:
        """Apply the first rule that matches at `node`; a node that is gone matches nothing."""
        if node.graph is not graph or not is_read(node, graph):
            return False
        for rule in self._by_root.get(node.op, ()):
            before = [value.producer for value in node.present_inputs]
            if not rule.rewrite(node, graph):
                continue
            self.count(rule.label)
            remove_dead(node, graph)
            for producer in before:
                if producer is not None:
                    remove_dead(producer, graph)
            return True
        return False
