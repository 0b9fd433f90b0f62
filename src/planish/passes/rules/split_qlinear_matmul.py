"""QLinearMatMul(a, b) => QuantizeLinear(MatMul(DequantizeLinear(a), DequantizeLinear(b)))."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.building import emit, finish
from planish.passes.dequantized import has_known_parameters, quantized, real


class SplitQLinearMatMul(Rule):
    """A quantized matrix product is one of dequantized matrices."""

    name = "QLinearMatMul(a, b) => QuantizeLinear(MatMul(DequantizeLinear(a), DequantizeLinear(b)))"
    label = "canonical form"
    roots = ("QLinearMatMul",)
    example = """
    graph example(%a: u8[4,3]) {
      @as: f32[] = [0.02]
      @az: u8[] = [120]
      @b: i8[3,2] = [1, -2, 3, 4, 5, -6]
      @bs: f32[2] = [0.01, 0.3]
      @bz: i8[2] = [0, 1]
      @ys: f32[] = [0.05]
      @yz: u8[] = [100]
      %1 = QLinearMatMul(%a, @as, @az, @b, @bs, @bz, @ys, @yz)
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = node.present_inputs[:8]
        parameters = [a_scale, a_zero, b_scale, b_zero]
        if a.shape is None or b.shape is None or not has_known_parameters(parameters):
            return False
        left = real(graph, node, a, a_scale, a_zero, axis=-2)
        right = real(graph, node, b, b_scale, b_zero, axis=-1)
        total = emit(graph, node, "MatMul", [left, right])
        return finish(node, graph, quantized(graph, node, total, y_scale, y_zero))
