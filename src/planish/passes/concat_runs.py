"""Find concats whose operands are a run of a larger concat's: dense blocks.

In a DenseNet every layer concatenates everything before it: Concat(a, b), Concat(a, b, c), ...
All of them are prefixes of the last one, so one buffer serves the whole block.
"""

from __future__ import annotations

from planish.ir.graph import Graph, Node, Value


def find_runs(graph: Graph) -> dict[Node, tuple[Node, int]]:
    """Return, for each concat inside a larger one of `graph`, that one and the run's first operand.

    The larger concat comes later in the graph and is itself not inside another.
    """
    outermost: list[Node] = []
    places: dict[Value, list[tuple[Node, int]]] = {}  # operand -> where outermost concats read it
    found: dict[Node, tuple[Node, int]] = {}
    for node in reversed(graph):
        if node.op != "Concat":
            continue
        run = _run_of(node, places)
        if run is not None:
            found[node] = run
            continue
        outermost.append(node)
        for index, value in enumerate(node.present_inputs):
            places.setdefault(value, []).append((node, index))
    return found


def _run_of(node: Node, places: dict[Value, list[tuple[Node, int]]]) -> tuple[Node, int] | None:
    operands = node.present_inputs
    rank = node.outputs[0].rank
    axis = int(node.attributes["axis"]) % rank
    for larger, first in places.get(operands[0], []):
        candidate = larger.present_inputs[first : first + len(operands)]
        result = larger.outputs[0]
        same_axis = result.rank == rank and int(larger.attributes["axis"]) % rank == axis
        if same_axis and candidate == operands:
            return larger, first
    return None
