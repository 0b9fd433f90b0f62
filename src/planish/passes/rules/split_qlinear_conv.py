"""QLinearConv(x, w, b) => QuantizeLinear(Conv(DequantizeLinear(x), DequantizeLinear(w), b))."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.building import emit, finish
from planish.passes.dequantized import has_known_parameters, quantized, real


class SplitQLinearConv(Rule):
    """A quantized convolution is one of dequantized tensors; its bias has the sums' scale."""

    name = "QLinearConv(x, w) => QuantizeLinear(Conv(DequantizeLinear(x), DequantizeLinear(w)))"
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
        if x.shape is None or weight.shape is None or not has_known_parameters(node.inputs[1:3]):
            return False
        operands = [
            real(graph, node, x, x_scale, x_zero, axis=1),
            real(graph, node, weight, w_scale, w_zero, axis=0),
        ]
        bias = node.input(8)
        if bias is not None:
            step = emit(graph, node, "Mul", [x_scale, w_scale])
            operands.append(real(graph, node, bias, step, None, axis=0))
        total = emit(graph, node, "Conv", operands, node.attributes)
        return finish(node, graph, quantized(graph, node, total, y_scale, y_zero))
