"""QuantizeLinear(DequantizeLinear(x, s, z), s, z) => x."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.building import finish
from planish.passes.matching import may_forward
from planish.passes.quantized import dequantize_of, same_parameters


class DropRequantize(Rule):
    """Dequantizing and quantizing again with the same numbers changes nothing."""

    name = "QuantizeLinear(DequantizeLinear(x, s, z), s, z) => x"
    label = "no-op removal"
    roots = ("QuantizeLinear",)
    example = """
    graph example(%x: f32[2,3]) {
      @s: f32[] = [0.02]
      @z: u8[] = [120]
      %1 = QuantizeLinear(%x, @s, @z)
      %2 = DequantizeLinear(%1, @s, @z)
      %3 = QuantizeLinear(%2, @s, @z)
      return %3
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        before = dequantize_of(node.inputs[0])
        if before is None or not same_parameters(before, node):
            return False
        x = before.present_inputs[0]
        if x.dtype is not node.output.dtype or not may_forward(node, x, graph):
            return False
        return finish(node, graph, x)
