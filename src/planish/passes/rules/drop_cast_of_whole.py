"""Cast(Cast(product of whole numbers, i32), f32) => product of whole numbers."""

from __future__ import annotations

from planish.ir.dtypes import F32, I32
from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, is_scalar, producer_in
from planish.passes.building import finish
from planish.passes.matching import may_forward
from planish.passes.quantized import PRODUCTS, dequantize_of


class DropCastOfWhole(Rule):
    """What ConvInteger and MatMulInteger leave behind: sums that are whole numbers already."""

    name = "Cast(Cast(Conv(DequantizeLinear(x, 1), DequantizeLinear(w, 1)), i32), f32) => Conv(...)"
    label = "no-op removal"
    roots = ("Cast",)
    example = """
    graph example(%x: u8[4,3], %xz: u8[]) {
      @one: f32[] = [1.0]
      @w: i8[3,2] = [1, -2, 3, 4, 5, -6]
      %1 = DequantizeLinear(%x, @one, %xz)
      %2 = DequantizeLinear(@w, @one)
      %3 = MatMul(%1, %2)
      %4 = Cast(%3) {to=i32}
      %5 = Cast(%4) {to=f32}
      return %5
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        inner = producer_in(node.inputs[0], graph, "Cast")
        if inner is None or node.output.dtype is not F32 or inner.output.dtype is not I32:
            return False
        product = producer_in(inner.inputs[0], graph, *PRODUCTS)
        if product is None or product.input(2) is not None:
            return False
        for value in product.inputs[:2]:
            operand = dequantize_of(value)
            if operand is None or not _is_one(operand):
                return False
        if not may_forward(node, product.output, graph):
            return False
        return finish(node, graph, product.output)


def _is_one(operand: Node) -> bool:
    scale = operand.inputs[1]
    if is_scalar(scale, 1.0):
        return True
    return scale is not None and scale.is_constant and bool((scale.array == 1).all())
