"""Transpose(DequantizeLinear(@w, @s, @z)) => DequantizeLinear(@w', @s', @z'), scales of blocks."""

from __future__ import annotations

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule
from planish.passes.building import constant, emit, finish
from planish.passes.matching import permutation
from planish.passes.quantized import dequantize_of, is_constant_dequantize


class TransposeOfBlocks(Rule):
    """Weights of few bits, stored transposed, are turned together with their scales."""

    name = "Transpose(DequantizeLinear(@w, @s, @z)) => DequantizeLinear(@w', @s', @z')"
    label = "quantization motion"
    roots = ("Transpose",)
    example = """
    graph example(%x: f32[4,2]) {
      @w: i8[2,4] = [1, 2, 3, 4, 5, 6, 7, 8]
      @s: f32[2,2] = [0.5, 0.25, 0.125, 2.0]
      %1 = DequantizeLinear(@w, @s) {axis=1, block_size=2}
      %2 = Transpose(%1) {perm=[1,0]}
      %3 = Add(%x, %2)
      return %3
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        before, order = dequantize_of(node.inputs[0]), permutation(node)
        if before is None or order is None or not is_constant_dequantize(before):
            return False
        rank = before.output.rank
        if not before.attributes["block_size"] or len(before.output.uses) != 1:
            return False
        if any(value.rank != rank for value in before.present_inputs):
            return False

        def turned(value: Value | None) -> Value | None:
            return None if value is None else constant(graph, value.array.transpose(order), value)

        axis = order.index(int(before.attributes["axis"]) % rank)
        operands = [turned(value) for value in before.inputs]
        attributes = {**before.attributes, "axis": axis}
        return finish(node, graph, emit(graph, node, before.op, operands, attributes, [before]))
