"""Writes down what the model requires of the extents that are known at run time only.

Inference takes equality of symbolic extents for granted where an operator needs it, later passes
build on that, and kernels would leave their operands if it did not hold. So this runs first, on the
nodes as the model has them; `settle_extents` then solves what it can, and the plan carries the rest
to the runtime, which checks every set of input shapes.

A branch of an If that is not taken requires nothing, but which one is taken is not known before the
inference runs. Its requirements are checked all the same: an error too many, with a clear message,
is better than memory that is read beyond its end. Only where shapes alone decide (`if N == 1:
squeeze`), the model has checked by itself what the branch needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from planish.errors import ConfigError
from planish.ir.graph import Graph, Node, Value
from planish.ir.requirement import Requirement, at_most
from planish.ops.content import bounds
from planish.ops.op import op_of
from planish.passes.graph_pass import GraphPass


class CollectRequirements(GraphPass):
    """Fills `graph.requirements`; raises ConfigError for one that no allowed extents meet."""

    name = "collect_requirements"

    def run(self, graph: Graph) -> bool:
        """Collect from an outermost graph with symbolic extents and its branches."""
        if not graph.ranges:
            return False
        found: dict[str, Requirement] = {}
        for node in graph:
            for requirement in open_requirements(node, graph):
                _check(requirement, node, graph)
                found.setdefault(str(requirement), requirement)
        for node in _nodes_in_branches(graph):
            for requirement in open_requirements(node, graph):
                found.setdefault(str(requirement), replace(requirement, in_branch=True))
        if graph.requirements == list(found.values()):
            return False
        graph.requirements = list(found.values())
        self.count("requirements of extents", len(found))
        return True


def _nodes_in_branches(graph: Graph) -> Iterator[Node]:
    """Yield the nodes in branches that data choose.

    Bodies of loops run through their references, which check what they are given, unless they
    become native: passes/native_loops.py adds what those need.
    """
    for node in graph:
        if node.op != "If" or _is_of_shapes(node.inputs[0]):
            continue
        for branch in node.subgraphs:
            yield from branch
            yield from _nodes_in_branches(branch)


def _is_of_shapes(value: Value | None) -> bool:
    """Whether `value` is computed from shapes and constants alone."""
    pending, seen = [value], set()
    while pending:
        each = pending.pop()
        if each is None or each.is_constant or each in seen:
            continue
        seen.add(each)
        node = each.producer
        if node is None or node.subgraphs:
            return False
        if node.op not in ("Shape", "Size", "planish.Extents"):
            pending += node.inputs
    return True


def open_requirements(node: Node, graph: Graph) -> list[Requirement]:
    """Return what may fail within the ranges of the symbols, and name the node."""
    found = op_of(node).requirements(node)
    for output in node.outputs:
        for dim in output.shape or ():
            found += [] if isinstance(dim, int) else at_most(0, dim)
    return [replace(each, where=str(node.source)) for each in found if _is_open(each, graph)]


def _is_open(requirement: Requirement, graph: Graph) -> bool:
    """Whether it can fail within the ranges, and the runtime knows all of its symbols."""
    if requirement.is_certain or not requirement.symbols <= graph.ranges.keys():
        return False
    low, high = bounds(requirement.left - requirement.right, graph.ranges)
    return not (high <= 0 and (requirement.relation == "<=" or low == 0))


def _check(requirement: Requirement, node: Node, graph: Graph) -> None:
    """Raise ConfigError when no extents within the ranges meet `requirement`."""
    low, high = bounds(requirement.left - requirement.right, graph.ranges)
    if low > 0 or (requirement.relation == "==" and high < 0):
        names = sorted(requirement.symbols)
        allowed = ", ".join(f"{n} in {graph.ranges[n][0]}..{graph.ranges[n][2]}" for n in names)
        raise ConfigError(
            f"{node.op} needs {requirement}, which is never true for {allowed}",
            where=f"node {node.source}",
            fix="give a profile with extents that the model can run with",
        )
