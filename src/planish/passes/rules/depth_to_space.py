"""DepthToSpace(x) => Reshape(Transpose(Reshape(x)))."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.ir.shape import Shape
from planish.passes.building import emit, finish, integers, reshape, transpose
from planish.passes.matching import reshape_target


class DepthToSpace(Rule):
    """Pixel shuffles are views around one transpose, in both directions."""

    name = "DepthToSpace(x) => Reshape(Transpose(Reshape(x))), SpaceToDepth likewise"
    label = "canonical form"
    roots = ("DepthToSpace", "SpaceToDepth")
    example = """
    graph example(%x: f32[1,8,2,3]) {
      %1 = DepthToSpace(%x) {blocksize=2, mode="CRD"}
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, block = node.inputs[0], int(node.attributes["blocksize"])
        if x is None or x.shape is None or node.output.shape is None:
            return False
        n, c, h, w = x.known_shape
        split: Shape
        if node.op == "SpaceToDepth":
            split = (n, c, h // block, block, w // block, block)
            order = (0, 3, 5, 1, 2, 4)
            if node.attributes["mode"] == "CRD":
                order = (0, 1, 3, 5, 2, 4)
        elif node.attributes["mode"] == "CRD":
            split, order = (n, c // block**2, block, block, h, w), (0, 1, 4, 2, 5, 3)
        else:
            split, order = (n, block, block, c // block**2, h, w), (0, 3, 4, 1, 5, 2)
        first = reshape_target(x.known_shape, split)
        last = reshape_target(tuple(split[axis] for axis in order), node.output.known_shape)
        if first is None or last is None:
            return False
        moved = transpose(graph, node, reshape(graph, node, x, first), order)
        shape = integers(graph, *last, stem=node.output.name)
        return finish(node, graph, emit(graph, node, "Reshape", [moved, shape]))
