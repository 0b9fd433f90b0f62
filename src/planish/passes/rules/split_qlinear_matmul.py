"""QLinearMatMul(a, b) => QuantizeLinear(MatMul(a - a_zero, b - b_zero) * scale)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.building import emit, finish
from planish.passes.integer_products import all_constant, is_plain, requantized, shifted


class SplitQLinearMatMul(Rule):
    """A quantized matrix product becomes a product of whole numbers, requantized behind it."""

    name = "QLinearMatMul(a, b) => QuantizeLinear(MatMul(a - a_zero, b - b_zero) * scale)"
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
        parameters = [a_scale, a_zero, b_scale, b_zero, y_scale, y_zero]
        if a.shape is None or b.shape is None or not all_constant(parameters):
            return False
        if a_scale.array.size > 1 or a_zero.array.size > 1 or b_scale.array.ndim > 1:
            return False  # one for each row, or for each of several matrices
        if not is_plain(b_zero):
            return False
        left = shifted(graph, node, a, a_zero, -1)
        right = shifted(graph, node, b, b_zero, -1)
        total = emit(graph, node, "MatMul", [left, right])
        scale = a_scale.array.reshape(()) * b_scale.array.reshape(-1) / y_scale.array.reshape(())
        return finish(node, graph, requantized(graph, node, total, scale, y_zero, -1))
