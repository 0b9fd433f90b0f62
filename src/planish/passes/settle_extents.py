"""Finds symbols that the model itself fixes, and puts the number in their place.

Exporters leave an axis symbolic although a later Reshape to constant sizes admits one extent only:
`Reshape(x: [N,64,1024], [1,64,32,32])` runs for N = 1 and fails for everything else. Knowing it
makes everything that depends on the symbol static.
"""

from __future__ import annotations

from planish.errors import GraphError
from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import Dim, is_static, product, substitute
from planish.ops.infer import infer_graph
from planish.passes.extents import plain_symbol
from planish.passes.graph_pass import GraphPass, graphs_of


class SettleExtents(GraphPass):
    """Replaces a symbol of the graph inputs by the only extent that the model admits."""

    name = "settle_extents"

    def run(self, graph: Graph) -> bool:
        """Look at every Reshape of the outermost graph; infer all types anew when one settles."""
        if not graph.ranges:
            return False  # a subgraph: it need not run, so it fixes nothing
        settled: dict[str, int] = {}
        for node in graph:
            found = _fixed_symbol(node)
            if found is not None and found[0] in graph.ranges:
                settled.setdefault(*found)
        for name, extent in settled.items():
            _check_range(graph, name, extent)
            del graph.ranges[name]
            self.count("extents that the model fixes")
        if settled:
            _substitute(graph, settled)
        return bool(settled)


def _fixed_symbol(node: Node) -> tuple[str, int] | None:
    """Return (symbol, extent) where a Reshape's constant sizes leave one choice."""
    if node.op != "Reshape" or node.inputs[0] is None or node.inputs[0].shape is None:
        return None
    shape = node.inputs[1]
    target = node.output.shape
    if shape is None or shape.constant is None or target is None:
        return None
    numbers = shape.array.reshape(-1).tolist()
    if any(number <= 0 for number in numbers):
        return None
    symbols = [dim for dim in node.inputs[0].shape if not is_static(dim)]
    if len(symbols) != 1:
        return None
    name = plain_symbol(symbols[0])
    rest = product(dim for dim in node.inputs[0].shape if is_static(dim))
    total = product(numbers)
    if name is None or not isinstance(rest, int) or not isinstance(total, int) or rest == 0:
        return None
    return (name, total // rest) if total % rest == 0 else None


def _check_range(graph: Graph, name: str, extent: int) -> None:
    low, _, high = graph.ranges[name]
    if not low <= extent <= high:
        raise GraphError(
            f"the model runs only with {name} = {extent} (a Reshape has constant sizes), "
            f"but the profile asks for {low} to {high}",
            where=f"graph {graph.name}",
            fix=f"give a profile with {name} = {extent}, or export with a dynamic Reshape",
        )


def _substitute(graph: Graph, settled: dict[str, int]) -> None:
    bindings: dict[str, Dim] = dict(settled)
    for each in graphs_of(graph):
        for value in each.inputs:
            _settle(value, bindings)
    infer_graph(graph)


def _settle(value: Value, bindings: dict[str, Dim]) -> None:
    if value.shape is not None:
        value.shape = tuple(substitute(dim, bindings) for dim in value.shape)
    if value.content is not None:
        value.content = tuple(substitute(dim, bindings) for dim in value.content)
