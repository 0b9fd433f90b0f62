"""Replaces an If whose condition is known by the branch that it takes."""

from __future__ import annotations

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import discard
from planish.passes.building import emit
from planish.passes.graph_pass import GraphPass


class InlineIf(GraphPass):
    """The branch's nodes move in front of the If, whose readers then read the branch's outputs.

    Also gives every output of a subgraph a node of that subgraph that computes it (an Identity
    where a branch returns a value from outside), so that later passes may treat outputs alike.
    """

    name = "inline_if"

    def run(self, graph: Graph) -> bool:
        """Inline what can be; then make the remaining subgraphs' outputs their own."""
        modified = False
        for node in graph:
            if node.op == "If" and (taken := _taken_branch(node)) is not None:
                _inline(node, graph, taken)
                self.count("inlined If")
                modified = True
                continue
            for subgraph in node.subgraphs if node.op != "Region" else ():
                modified |= own_outputs(subgraph)
        return modified


def _taken_branch(node: Node) -> Graph | None:
    condition = node.inputs[0]
    if condition is None:
        return None
    known: bool | None = None
    if condition.constant is not None:
        known = bool(condition.array.reshape(-1)[0])
    elif condition.content is not None and isinstance(condition.content[0], int):
        known = bool(condition.content[0])
    if known is None:
        return None
    branch = node.attributes["then_branch" if known else "else_branch"]
    return branch if isinstance(branch, Graph) else None


def _inline(node: Node, graph: Graph, branch: Graph) -> None:
    results = list(branch.outputs)
    branch.outputs = []
    for inner in list(branch):
        _rename(inner, graph)
        branch.detach(inner)
        graph.insert_before(node, inner)
    for output, result in zip(node.outputs, results, strict=True):
        if _needs_copy(result, graph, output):
            result = emit(graph, node, "Identity", [result])
        graph.replace_value(output, result)
    discard(node, graph)


def _rename(node: Node, graph: Graph) -> None:
    """Give the outputs of a node from a branch names that are unique in the graph around it."""
    for output in node.outputs:
        output.name = graph.fresh_name(output.name)


def _needs_copy(result: Value, graph: Graph, output: Value) -> bool:
    inside = result.producer is not None and result.producer.graph is graph
    return graph.is_output(output) and (not inside or graph.is_output(result))


def own_outputs(subgraph: Graph) -> bool:
    """Put an Identity behind outputs that `subgraph` does not compute itself, or gives twice."""
    changed = False
    seen: set[Value] = set()
    for index, value in enumerate(subgraph.outputs):
        inside = value.producer is not None and value.producer.graph is subgraph
        if inside and value not in seen:
            seen.add(value)
            continue
        copy = Value(subgraph.fresh_name(value.name), value.dtype, value.shape)
        subgraph.append(Node("Identity", [value], [copy], {}))
        subgraph.outputs[index] = copy
        seen.add(copy)
        changed = True
    return changed
