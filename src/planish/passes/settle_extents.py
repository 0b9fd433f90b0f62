"""Finds symbols that the model itself fixes, and puts the number in their place.

Exporters leave an axis symbolic although a later Reshape to constant sizes admits one extent only:
`Reshape(x: [N,64,1024], [1,64,32,32])` runs for N = 1 and fails for everything else. Or they name
an axis anew for every input, although an addition needs M = N. Knowing it makes everything that
depends on the symbol static, or equal.
"""

from __future__ import annotations

from planish.errors import GraphError
from planish.ir.graph import Graph, Node, Value
from planish.ir.requirement import Requirement
from planish.ir.shape import Dim, is_static, product, substitute
from planish.ops.infer import infer_graph
from planish.passes.extents import plain_symbol
from planish.passes.graph_pass import GraphPass, graphs_of


class SettleExtents(GraphPass):
    """Replaces a symbol of the graph inputs by what the model requires it to be."""

    name = "settle_extents"

    def run(self, graph: Graph) -> bool:
        """Look at every Reshape of the outermost graph; infer all types anew when one settles."""
        if not graph.ranges:
            return False  # a subgraph: it need not run, so it fixes nothing
        modified = False
        while self._solve(graph):
            modified = True
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
            _substitute(graph, dict(settled))
        return modified or bool(settled)

    def _solve(self, graph: Graph) -> bool:
        """Solve one requirement of the form symbol == symbol or symbol == number."""
        order = _symbols_in_order(graph)
        for requirement in graph.requirements:
            solved = _solution(requirement, order)
            if solved is None or solved[0] not in graph.ranges:
                continue
            name, dim = solved
            if isinstance(dim, int):
                _narrow(graph, requirement, name, dim, dim)
                self.count("extents that the model fixes")
            else:
                low, _, high = graph.ranges[name]
                _narrow(graph, requirement, str(dim), low, high)
                self.count("extents that are equal")
            del graph.ranges[name]
            _substitute(graph, {name: dim})
            return True
        return False


def _symbols_in_order(graph: Graph) -> list[str]:
    """Return plain symbols in the order in which the inputs show them."""
    dims = [dim for value in graph.inputs for dim in value.shape or ()]
    return list(dict.fromkeys(name for name in map(plain_symbol, dims) if name is not None))


def _solution(requirement: Requirement, order: list[str]) -> tuple[str, Dim] | None:
    """Return (symbol, what it is) when a requirement says that plainly; earlier symbols stay."""
    left, right = plain_symbol(requirement.left), plain_symbol(requirement.right)
    if requirement.relation != "==" or requirement.in_branch:
        return None
    if left is not None and isinstance(requirement.right, int):
        return left, requirement.right
    if right is not None and isinstance(requirement.left, int):
        return right, requirement.left
    if left is None or right is None or left not in order or right not in order:
        return None
    if order.index(left) < order.index(right):
        return right, requirement.left
    return left, requirement.right


def _narrow(graph: Graph, requirement: Requirement, name: str, low: int, high: int) -> None:
    """Narrow the range of a symbol to extents from `low` to `high`; say so to the user."""
    least, optimum, most = graph.ranges[name]
    first, last = max(least, low), min(most, high)
    if first > last:
        raise GraphError(
            f"the model runs only with {requirement} (node {requirement.where}), but the profiles "
            f"ask for {name} from {least} to {most}"
            + ("" if low == high else f" and {low} to {high}"),
            where=f"graph {graph.name}",
            fix="give profiles that meet this",
        )
    if (first, last) == (least, most):
        return
    graph.ranges[name] = (first, min(max(optimum, first), last), last)
    text = f"{first}" if first == last else f"{first} to {last}"
    graph.notes.append(
        f"{name} is {text}, not {least} to {most}: node {requirement.where} needs {requirement}"
    )


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


def _substitute(graph: Graph, bindings: dict[str, Dim]) -> None:
    replaced = [requirement.substituted(bindings) for requirement in graph.requirements]
    graph.requirements = [each for each in replaced if not each.is_certain]
    for each in graphs_of(graph):
        for value in each.inputs:
            _settle(value, bindings)
    infer_graph(graph)


def _settle(value: Value, bindings: dict[str, Dim]) -> None:
    if value.shape is not None:
        value.shape = tuple(substitute(dim, bindings) for dim in value.shape)
    if value.content is not None:
        value.content = tuple(substitute(dim, bindings) for dim in value.content)
