"""Reshape(DequantizeLinear(x)) => DequantizeLinear(Reshape(x)), and other moves of elements."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, remove_dead
from planish.ir.shape import Shape, product
from planish.passes.building import emit, same_types
from planish.passes.matching import permutation
from planish.passes.moving import integer_move, is_move
from planish.passes.quantized import MOVING, RESHAPING, dequantize_of, is_single

ENLARGING = ("Expand", "Tile")


class DequantizeBehindMove(Rule):
    """Integers are moved, in a quarter of the memory, and dequantized where they are computed with.

    The maximum of integers is the maximum of what they stand for, so a max pool is such a move.
    """

    name = "move(DequantizeLinear(x, s, z)) => DequantizeLinear(move(x), s, z)"
    label = "quantization motion"
    roots = tuple(sorted(MOVING - {"Concat", *ENLARGING}))
    example = """
    graph example(%x: i8[1,2,4,4]) {
      @s: f32[2] = [0.02, 0.5]
      @z: i8[2] = [3, -1]
      %1 = DequantizeLinear(%x, @s, @z) {axis=1}
      %2 = Transpose(%1) {perm=[0,2,3,1]}
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        before = dequantize_of(node.inputs[0])
        if before is None or not is_move(node) or before.attributes["block_size"]:
            return False
        axis = _axis_behind(node, before)
        if axis is None:
            return False
        moved = integer_move(graph, node, before, exactly=True)
        if moved is None:
            return False
        attributes = {**before.attributes, "axis": axis}
        results = [
            emit(graph, node, before.op, [each, *before.inputs[1:]], attributes, [before])
            for each in moved
        ]
        if not same_types(results, node.outputs):
            for each in results:
                if each.producer is not None:
                    remove_dead(each.producer, graph)
            return False
        for old, new in zip(node.outputs, results, strict=True):
            graph.replace_value(old, new)
        return True


def _axis_behind(node: Node, before: Node) -> int | None:
    """Return the axis of the scales behind the move, or None where they do not lie along one."""
    x = before.present_inputs[0]
    if all(is_single(value) for value in before.inputs[1:]):
        return int(before.attributes["axis"])
    if node.op not in RESHAPING or x.shape is None or node.output.shape is None:
        return None
    axis = int(before.attributes["axis"]) % x.rank
    if node.op == "Transpose":
        order = permutation(node)
        return None if order is None else order.index(axis)
    return _same_axis(x.shape, axis, node.output.shape)


def _same_axis(old: Shape, axis: int, new: Shape) -> int | None:
    """Return the axis of `new` that holds what `axis` of `old` holds."""
    before = product(old[:axis])
    for index, extent in enumerate(new):
        if extent == old[axis] and product(new[:index]) == before:
            return index
    return None
