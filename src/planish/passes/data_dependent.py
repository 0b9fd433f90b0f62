"""Values whose extents only the data decides (NonZero, NonMaxSuppression, ...), and strings.

They have no place in an arena whose addresses are decided at build time. Everything that touches
them, and what lies between, becomes one Region that runs as a whole, by the numpy reference: in
real models the tail behind the network. What comes before it keeps its kernels.
"""

from __future__ import annotations

from planish.ir.dtypes import STRING
from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import symbols_of
from planish.passes.opaque import wrap_nodes

KIND = "DataDependent"


def wrap_data_dependent(graph: Graph) -> int:
    """Wrap what depends on unknown extents in an outermost graph; return how many operators."""
    known = frozenset(graph.ranges)
    touching = {node for node in graph if _touches(node, known)}
    if not touching:
        return 0
    below = _closure(list(graph), touching)
    above = _closure_upwards(list(graph), touching)
    chosen = [node for node in graph if node in touching or (node in below and node in above)]
    wrap_nodes(graph, chosen, KIND)
    return len(chosen)


def is_unknown(value: Value, known: frozenset[str]) -> bool:
    """Whether the size of `value` is not a function of the inputs' shapes."""
    if value.is_constant:
        return False
    if value.dtype is STRING or value.shape is None:
        return True
    return any(symbols_of(dim) - known for dim in value.shape)


def _touches(node: Node, known: frozenset[str]) -> bool:
    if any(is_unknown(value, known) for value in (*node.present_inputs, *node.outputs)):
        return True
    if node.op in ("Region", "Loop", "Scan"):
        return False  # runs as a whole anyway; only what comes out of it counts
    return any(_touches(inner, known) for subgraph in node.subgraphs for inner in subgraph)


def _closure(order: list[Node], start: set[Node]) -> set[Node]:
    """Return the nodes that depend on one of `start`."""
    found: set[Node] = set()
    late = {output for node in start for output in node.outputs}
    for node in order:
        if late.intersection(_reads(node)):
            found.add(node)
            late.update(node.outputs)
    return found


def _closure_upwards(order: list[Node], start: set[Node]) -> set[Node]:
    """Return the nodes that one of `start` depends on."""
    found: set[Node] = set()
    needed = {value for node in start for value in _reads(node)}
    for node in reversed(order):
        if needed.intersection(node.outputs):
            found.add(node)
            needed.update(_reads(node))
    return found


def _reads(node: Node) -> list[Value]:
    """Return what `node` reads, by itself and inside its subgraphs."""
    values = list(node.present_inputs)
    if node.op == "Region":
        return values
    for subgraph in node.subgraphs:
        values += subgraph.outputs
        for inner in subgraph:
            values += _reads(inner)
    return values
