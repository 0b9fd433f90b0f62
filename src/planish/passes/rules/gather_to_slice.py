"""Gather(x, constant consecutive indices) => Slice(x)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, integers_of
from planish.passes.building import emit, finish, integers


class GatherToSlice(Rule):
    """Selecting one index, or a run of indices, is a view."""

    name = "Gather(x, i) => Squeeze(Slice(x, i, i + 1)); Gather(x, [i, i+1, ..]) => Slice(x)"
    label = "view recognition"
    roots = ("Gather",)
    example = """
    graph example(%x: f32[4,3]) {
      @i: i64[] = [2]
      %1 = Gather(%x, @i) {axis=0}
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, indices = node.inputs[0], node.inputs[1]
        numbers = integers_of(indices)
        if x is None or x.is_constant or x.shape is None or indices is None or not numbers:
            return False
        axis = int(node.attributes["axis"]) % max(x.rank, 1)
        extent = x.known_shape[axis]
        if len(indices.known_shape) > 1 or not isinstance(extent, int):
            return False
        first = numbers[0] + extent if numbers[0] < 0 else numbers[0]
        wanted = tuple(range(first, first + len(numbers)))
        given = tuple(n + extent if n < 0 else n for n in numbers)
        if given != wanted or wanted[-1] >= extent:
            return False
        bounds = [integers(graph, n) for n in (first, first + len(numbers), axis)]
        result = emit(graph, node, "Slice", [x, *bounds])
        if indices.known_shape == ():
            result = emit(graph, node, "Squeeze", [result, integers(graph, axis)])
        return finish(node, graph, result)
