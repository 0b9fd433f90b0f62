"""op(channels_last(x), y) => channels_last(op(x, y'))."""

from __future__ import annotations

from typing import Any

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule
from planish.ops.op import OPS
from planish.passes.building import emit, finish, transpose
from planish.passes.channels import in_front, shown_channels_last, to_channels_last

QUANTIZED = ("QuantizeLinear", "DequantizeLinear")  # their other operands follow `axis`


class PointwiseOfChannelsLast(Rule):
    """TensorFlow adds, scales and activates channels-last; convolutions here work channels-first.

    The pointwise op moves in front of the transpose between the two, if its other operands are
    such images too, constants, or one number a channel (squeeze and excitation).
    """

    name = "op(channels_last(x), y) => channels_last(op(x, channels_first(y))), op pointwise"
    label = "view motion"
    roots = tuple(name for name, op in OPS.items() if op.pointwise)
    example = """
    graph example(%x: f32[1,3,4,5]) {
      @w: f32[2,3,1,1]
      @b: f32[2]
      %1 = Conv(%x, @w) {kernel_shape=[1,1]}
      %2 = Transpose(%1) {perm=[0,2,3,1]}
      %3 = Sub(@b, %2)
      return %3
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        if len(node.outputs) != 1 or node.output.shape is None:
            return False
        images = {each for each in node.present_inputs if shown_channels_last(each, graph)}
        if not any(each.shape == node.output.shape for each in images):
            return False
        rank, attributes = node.output.rank, dict(node.attributes)
        operands = _operands(node, graph, rank, attributes)
        if operands is None:
            return False
        moved = emit(graph, node, node.op, operands, attributes)
        return finish(node, graph, transpose(graph, node, moved, to_channels_last(rank)))


def _operands(
    node: Node, graph: Graph, rank: int, attributes: dict[str, Any]
) -> list[Value | None] | None:
    """Return the operands in front of the transpose; adapt what names an axis."""
    if node.op in QUANTIZED:
        first, *rest = node.inputs
        x = None if first is None else shown_channels_last(first, graph)
        if x is None or attributes["block_size"]:
            return None
        attributes["axis"] = to_channels_last(rank)[attributes["axis"] % rank]
        return [x, *rest]
    operands: list[Value | None] = []
    for value in node.inputs:
        moved = None if value is None else in_front(value, graph, node, rank)
        if value is not None and moved is None:
            return None
        operands.append(moved)
    return operands
