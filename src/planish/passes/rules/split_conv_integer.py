"""ConvInteger(x, w) => Cast(Conv(DequantizeLinear(x), DequantizeLinear(w)))."""

from __future__ import annotations

from planish.ir.dtypes import I32
from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.building import emit, finish
from planish.passes.dequantized import real, unscaled


class SplitConvInteger(Rule):
    """An integer convolution is a quantized one whose scales are one."""

    name = "ConvInteger(x, w) => Cast(Conv(DequantizeLinear(x, 1), DequantizeLinear(w, 1)))"
    label = "canonical form"
    roots = ("ConvInteger",)
    example = """
    graph example(%x: u8[1,3,4,4], %xz: u8[]) {
      @w: i8[2,3,1,1] = [1, -2, 3, 4, 5, -6]
      @wz: i8[2] = [0, 1]
      %1 = ConvInteger(%x, @w, %xz, @wz) {pads=[1,1,1,1]}
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, weight = node.present_inputs[:2]
        if x.shape is None or weight.shape is None:
            return False
        left = real(graph, node, x, *unscaled(graph, node.input(2)), axis=1)
        right = real(graph, node, weight, *unscaled(graph, node.input(3)), axis=0)
        total = emit(graph, node, "Conv", [left, right], node.attributes)
        return finish(node, graph, emit(graph, node, "Cast", [total], {"to": I32}))
