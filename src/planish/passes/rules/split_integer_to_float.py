"""MatMulIntegerToFloat(a, b) => MatMulInteger(a, b) * scales + bias, and with a quantized here."""

from __future__ import annotations

from planish.ir.dtypes import F32
from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule
from planish.passes.building import emit, emit_many, finish

GIVEN = "com.microsoft.MatMulIntegerToFloat"
DYNAMIC = "com.microsoft.DynamicQuantizeMatMul"


class SplitIntegerToFloat(Rule):
    """ONNX Runtime's fused dynamic quantization becomes primitives."""

    name = (
        "MatMulIntegerToFloat(a, b, sa, sb, za, zb, c) => Cast(MatMulInteger(a, b)) * sa * sb + c"
    )
    label = "canonical form"
    roots = (GIVEN, DYNAMIC)
    example = """
    graph example(%a: f32[4,3]) {
      @b: i8[3,2] = [1, -2, 3, 4, 5, -6]
      @bs: f32[2] = [0.01, 0.3]
      @bz: i8[2] = [0, 1]
      @c: f32[2] = [0.5, -1.0]
      %1 = com.microsoft.DynamicQuantizeMatMul(%a, @b, @bs, @bz, @c)
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        a: Value | None
        a_scale: Value | None
        a_zero: Value | None
        if node.op == GIVEN:
            a, b, a_scale, b_scale, a_zero, b_zero, bias = (node.input(k) for k in range(7))
        else:
            x, b, b_scale, b_zero, bias = (node.input(k) for k in range(5))
            a, a_scale, a_zero = emit_many(graph, node, "DynamicQuantizeLinear", [x], 3)
        total = emit(graph, node, "MatMulInteger", [a, b, a_zero, b_zero])
        total = emit(graph, node, "Cast", [total], {"to": F32})
        scale = emit(graph, node, "Mul", [a_scale, b_scale])
        result = emit(graph, node, "Mul", [total, scale])
        if bias is not None:
            result = emit(graph, node, "Add", [result, bias])
        return finish(node, graph, result)
