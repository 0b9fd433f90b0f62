"""Transpose(y) + r => Transpose(y + Transpose'(r)) behind an anchor."""

from __future__ import annotations

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule, private_producer
from planish.passes.anchors import has_private_anchor
from planish.passes.building import emit, finish, transpose
from planish.passes.matching import permutation


class SumOfTransposed(Rule):
    """A residual is added before the transpose, where it can be the anchor's epilogue.

    Networks that work channels-last (ConvNeXt) transpose every block's result back before they add
    it. With the sum in front, the transposes of neighbouring blocks meet and cancel.
    """

    name = "Transpose(anchor(x)) + r => Transpose(anchor(x) + inverse(r)), also products"
    label = "view motion"
    roots = ("Add", "Mul")
    example = """
    graph example(%x: f32[1,2,3,4], %r: f32[1,5,2,3]) {
      @w: f32[4,5]
      %1 = MatMul(%x, @w)
      %2 = Transpose(%1) {perm=[0,3,1,2]}
      %3 = Add(%2, %r)
      return %3
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        left, right = node.inputs
        for moved, other in ((left, right), (right, left)):
            if moved is not None and other is not None and _moves(node, graph, moved, other):
                return True
        return False


def _moves(node: Node, graph: Graph, moved: Value, other: Value) -> bool:
    view = private_producer(moved, graph, "Transpose")
    order = None if view is None else permutation(view)
    y = None if view is None else view.inputs[0]
    if view is None or order is None or y is None or other.shape is None:
        return False
    if other.is_constant or other.shape != moved.shape or not has_private_anchor(y, graph):
        return False
    # a second operand that an anchor computes for this sum alone takes it as its own epilogue
    behind = private_producer(other, graph, "Transpose")
    source = other if behind is None else behind.inputs[0]
    if source is None or has_private_anchor(source, graph):
        return False
    inverse = tuple(order.index(axis) for axis in range(len(order)))
    summed = emit(graph, node, node.op, [y, transpose(graph, node, other, inverse)])
    result = emit(graph, node, "Transpose", [summed], {"perm": order}, matched=[view])
    return finish(node, graph, result)
