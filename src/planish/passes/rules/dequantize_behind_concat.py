"""Concat(DequantizeLinear(a, s), DequantizeLinear(b, s)) => DequantizeLinear(Concat(a, b), s)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.building import emit, finish
from planish.passes.quantized import dequantize_of, is_single, same_parameters


class DequantizeBehindConcat(Rule):
    """Integers of one scale are joined as integers."""

    name = "Concat(DequantizeLinear(a, s, z), ...) => DequantizeLinear(Concat(a, ...), s, z)"
    label = "quantization motion"
    roots = ("Concat",)
    example = """
    graph example(%a: i8[2,3], %b: i8[2,4]) {
      @s: f32[] = [0.02]
      @z: i8[] = [3]
      %1 = DequantizeLinear(%a, @s, @z)
      %2 = DequantizeLinear(%b, @s, @z)
      %3 = Concat(%1, %2) {axis=1}
      return %3
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        found = [dequantize_of(value) for value in node.inputs]
        operands = [each for each in found if each is not None]
        if not operands or len(operands) < len(found):
            return False
        first = operands[0]
        if not all(is_single(value) for value in first.inputs[1:]):
            return False
        for other in operands[1:]:
            if not same_parameters(first, other):
                return False
            if other.present_inputs[0].dtype is not first.present_inputs[0].dtype:
                return False
        integers = [each.inputs[0] for each in operands]
        joined = emit(graph, node, "Concat", integers, node.attributes)
        inputs = [joined, *first.inputs[1:]]
        result = emit(graph, node, first.op, inputs, first.attributes, operands)
        return finish(node, graph, result)
