"""QLinearConv(x, w) => QuantizeLinear(Conv(x - x_zero, w - w_zero, b) * scale)."""

from __future__ import annotations

from planish.ir.dtypes import F32
from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.building import emit, finish
from planish.passes.integer_products import all_constant, is_plain, requantized, shifted


class SplitQLinearConv(Rule):
    """A quantized convolution becomes a convolution of whole numbers, requantized behind it."""

    name = "QLinearConv(x, w) => QuantizeLinear(Conv(x - x_zero, w - w_zero, b) * scale)"
    label = "canonical form"
    roots = ("QLinearConv",)
    example = """
    graph example(%x: u8[1,3,4,4]) {
      @xs: f32[] = [0.02]
      @xz: u8[] = [120]
      @w: i8[2,3,1,1] = [1, -2, 3, 4, 5, -6]
      @ws: f32[2] = [0.01, 0.3]
      @wz: i8[2] = [0, 1]
      @ys: f32[] = [0.05]
      @yz: u8[] = [100]
      @b: i32[2] = [30, -40]
      %1 = QLinearConv(%x, @xs, @xz, @w, @ws, @wz, @ys, @yz, @b) {pads=[1,1,1,1]}
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, x_scale, x_zero, weight, w_scale, w_zero, y_scale, y_zero = node.present_inputs[:8]
        parameters = [x_scale, x_zero, w_scale, w_zero, y_scale, y_zero]
        if x.shape is None or weight.shape is None or not all_constant(parameters):
            return False
        if not is_plain(x_zero) or not is_plain(w_zero):
            return False
        left = shifted(graph, node, x, x_zero, 1)
        right = shifted(graph, node, weight, w_zero, 0)
        operands = [left, right]
        bias = node.input(8)
        if bias is not None:
            operands.append(emit(graph, node, "Cast", [bias], {"to": F32}))
        total = emit(graph, node, "Conv", operands, node.attributes)
        scale = x_scale.array.reshape(()) * w_scale.array.reshape(-1) / y_scale.array.reshape(())
        return finish(node, graph, requantized(graph, node, total, scale, y_zero, 1))
