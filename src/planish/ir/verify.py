"""Checks of the invariants that ir/graph.py lists; run between passes, in linear time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice

from planish.errors import GraphError
from planish.ir.declarations import DECLARED, REQUIRED
from planish.ir.graph import Graph, Node, Value
from planish.ir.text import node_text

CONTEXT = 10  # nodes printed around a broken one


def verify(graph: Graph) -> None:
    """Check every invariant of `graph` and of the graphs inside it.

    Raises
    ------
    GraphError
        Naming the broken invariant and the node, with ten nodes of context.
    """
    _Verifier().check(graph, (), isolated=True)


class _Verifier:
    """One check; `_visible` holds the values that the node at hand may read."""

    def __init__(self) -> None:
        self._graphs: set[Graph] = set()
        self._seen: set[Node] = set()
        self._uses: dict[Value, set[tuple[Node, int]]] = {}

    def check(self, graph: Graph, outer: tuple[set[Value], ...], isolated: bool) -> None:
        if graph in self._graphs:
            raise GraphError("a graph occurs twice", where=f"graph {graph.name}")
        self._graphs.add(graph)
        defined: set[Value] = set()
        scopes = (defined,) if isolated else (defined, *outer)
        names: set[str] = set()
        count = 0
        for value in graph.inputs:
            if value.producer is not None or value.constant is not None:
                self._fail(graph, None, f"input %{value.name} has a second origin")
            self._define(graph, None, value, defined, names)
        for node in graph:
            count += 1
            self._check_node(graph, node, scopes)
            for value in node.outputs:
                self._define(graph, node, value, defined, names)
        if count != len(graph):
            self._fail(graph, None, f"the graph counts {len(graph)} nodes and holds {count}")
        self._check_outputs(graph, scopes)
        self._check_uses(graph, defined)

    def _check_node(self, graph: Graph, node: Node, scopes: tuple[set[Value], ...]) -> None:
        if node in self._seen:
            self._fail(graph, node, "the node occurs twice")
        self._seen.add(node)
        if node.graph is not graph:
            self._fail(graph, node, "the node says that it is in another graph")
        for index, value in enumerate(node.inputs):
            if value is not None:
                self._check_read(graph, node, index, value, scopes)
        for value in node.outputs:
            if value.producer is not node or value.constant is not None:
                self._fail(graph, node, f"output %{value.name} has another origin")
        self._check_attributes(graph, node)
        for subgraph in node.subgraphs:
            self.check(subgraph, scopes, isolated=node.op == "Region")
        if node.op == "Region":
            self._check_region(graph, node)

    def _check_read(
        self, graph: Graph, node: Node, index: int, value: Value, scopes: tuple[set[Value], ...]
    ) -> None:
        if (node, index) not in value.uses:
            self._fail(graph, node, f"%{value.name} does not list this node as its user")
        self._uses.setdefault(value, set()).add((node, index))
        self._check_visible(graph, node, value, scopes)

    def _check_visible(
        self, graph: Graph, node: Node | None, value: Value, scopes: tuple[set[Value], ...]
    ) -> None:
        if value.constant is not None:
            if value.producer is not None:
                self._fail(graph, node, f"constant @{value.name} has a producer")
            return
        if any(value in scope for scope in scopes):
            return
        if value.producer is None:
            self._fail(graph, node, f"%{value.name} has no origin that is visible here")
        self._fail(graph, node, f"%{value.name} is read before it is computed")

    def _check_attributes(self, graph: Graph, node: Node) -> None:
        if node.op not in DECLARED:
            self._fail(graph, node, f"operator {node.op} is unknown")
        declared = DECLARED[node.op]
        unknown = [key for key in node.attributes if key not in declared]
        if unknown:
            self._fail(graph, node, f"{node.op} does not declare {', '.join(unknown)}")
        missing = [key for key in declared if node.attributes.get(key, REQUIRED) is REQUIRED]
        if missing:
            self._fail(graph, node, f"{node.op} lacks the attribute(s) {', '.join(missing)}")
        lists = [key for key, value in node.attributes.items() if isinstance(value, list)]
        if lists:
            self._fail(graph, node, f"attribute(s) {', '.join(lists)} are lists, not tuples")

    def _check_region(self, graph: Graph, node: Node) -> None:
        body = node.body
        if len(node.inputs) != len(body.inputs) or len(node.outputs) != len(body.outputs):
            self._fail(graph, node, "the body's inputs or outputs do not match the region's")
        for value in node.inputs:
            if value is None or value.constant is not None:
                self._fail(graph, node, "a region's operands are present and not constant")

    def _check_outputs(self, graph: Graph, scopes: tuple[set[Value], ...]) -> None:
        for value in graph.outputs:
            self._check_visible(graph, None, value, scopes)
        for kind, values, names in (
            ("input", graph.inputs, graph.input_names),
            ("output", graph.outputs, graph.output_names),
        ):
            if len(values) != len(names):
                message = f"{len(values)} {kind}s have {len(names)} public names"
                self._fail(graph, None, message)
            if len(set(names)) != len(names):
                self._fail(graph, None, f"public {kind} names repeat: {', '.join(names)}")

    def _check_uses(self, graph: Graph, defined: Iterable[Value]) -> None:
        """Check that use lists hold nothing but reads that were found."""
        for value in defined:
            found = self._uses.pop(value, set())
            for node, index in value.uses:
                if (node, index) not in found:
                    message = f"%{value.name} lists a user that does not read it: {node}"
                    self._fail(graph, value.producer, message)

    def _define(
        self, graph: Graph, node: Node | None, value: Value, defined: set[Value], names: set[str]
    ) -> None:
        if value in defined:
            self._fail(graph, node, f"%{value.name} is defined twice")
        if value.name in names:
            self._fail(graph, node, f"the name %{value.name} is used twice")
        defined.add(value)
        names.add(value.name)

    def _fail(self, graph: Graph, node: Node | None, message: str) -> None:
        place = f"graph {graph.name}" if node is None else f"graph {graph.name}, {node}"
        raise GraphError(message, where=f"{place}\n{_context(graph, node)}")


def _context(graph: Graph, broken: Node | None) -> str:
    """Return the text of the nodes around `broken` (the last ones where there is none)."""
    before: deque[Node] = deque(maxlen=CONTEXT // 2 if broken else CONTEXT)
    nodes = iter(graph)
    for node in nodes:
        if node is broken:
            after = [node, *islice(nodes, CONTEXT - CONTEXT // 2 - 1)]
            return "\n".join(_line(n, broken) for n in (*before, *after))
        before.append(node)
    return "\n".join(_line(n, broken) for n in before)


def _line(node: Node, broken: Node | None) -> str:
    return f"  {'>' if node is broken else ' '} {node_text(node)}  # {node.source}"
