"""Reshape(Reshape(x)) => Reshape(x)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, producer_in
from planish.passes.building import emit, finish, integers
from planish.passes.matching import reshape_target

RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")


class MergeReshapes(Rule):
    """Operators that only regroup axes merge: the last one decides the shape."""

    name = "r2(r1(x)) => Reshape(x), r in {Reshape, Squeeze, Unsqueeze, Flatten}"
    label = "view merging"
    roots = RESHAPES
    example = """
    graph example(%x: f32[2,3,4]) {
      @shape: i64[2] = [6, 4]
      @axes: i64[1] = [0]
      %1 = Reshape(%x, @shape)
      %2 = Unsqueeze(%1, @axes)
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        inner = producer_in(node.inputs[0], graph, *RESHAPES)
        if inner is None or inner.inputs[0] is None or inner.inputs[0].shape is None:
            return False
        x = inner.inputs[0]
        if node.output.shape is None:
            return False
        target = reshape_target(x.known_shape, node.output.known_shape)
        shape = None if target is None else integers(graph, *target, stem=node.output.name)
        if shape is None and node.op == "Reshape" and not _copies_extents(node):
            shape = node.inputs[1]
        if shape is None:
            return False
        merged = emit(graph, node, "Reshape", [x, shape], matched=[inner])
        return finish(node, graph, merged)


def _copies_extents(node: Node) -> bool:
    """Whether a 0 in the shape may copy an extent of the input, which merging would change."""
    shape = node.inputs[1]
    if shape is None:
        return True
    if shape.constant is not None:
        return bool((shape.array == 0).any())
    content = shape.content
    return content is None or any(isinstance(dim, int) and dim == 0 for dim in content)
