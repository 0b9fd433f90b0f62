"""QLinearAdd(a, b) => QuantizeLinear(DequantizeLinear(a) + DequantizeLinear(b)), and others."""

from __future__ import annotations

from planish.ir.graph import OPSET, Graph, Node, Value
from planish.ir.rewrite import Rule
from planish.passes.building import emit, finish, transpose
from planish.passes.dequantized import has_known_parameters, quantized, real

PREFIX = "com.microsoft.QLinear"
# operator: number of tensors (each with scale and zero point) in front of the output's parameters
TENSORS = {
    "Add": 2, "Mul": 2, "Sigmoid": 1, "LeakyRelu": 1, "Softmax": 1, "AveragePool": 1,
    "GlobalAveragePool": 1,
}  # fmt: skip
AXIS_ALONE = 13  # the opset from which on Softmax normalises along one axis

Operands = tuple[Value | None, ...]


class SplitQLinearOp(Rule):
    """ONNX Runtime's quantized pointwise operators, pools and concat."""

    name = "QLinearAdd(a, b) => QuantizeLinear(DequantizeLinear(a) + DequantizeLinear(b))"
    label = "canonical form"
    roots = (*(PREFIX + op for op in TENSORS), PREFIX + "Concat")
    example = """
    graph example(%a: u8[2,3], %b: u8[2,3]) {
      @as: f32[] = [0.02]
      @az: u8[] = [120]
      @bs: f32[] = [0.03]
      @bz: u8[] = [4]
      @ys: f32[] = [0.05]
      @yz: u8[] = [100]
      %1 = com.microsoft.QLinearAdd(%a, @as, @az, %b, @bs, @bz, @ys, @yz)
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        op = node.op.removeprefix(PREFIX)
        attributes = dict(node.attributes)
        last = bool(attributes.pop("channels_last", 0))
        if attributes.pop("opset", OPSET) < AXIS_ALONE:
            return False
        triples, (y_scale, y_zero) = _operands(node, op)
        if y_scale is None or not has_known_parameters([y_scale, y_zero]):
            return False
        tensors: list[Value | None] = []
        for x, scale, zero in triples:
            if x is None or x.shape is None or scale is None:
                return False
            tensor = real(graph, node, x, scale, zero)
            tensors.append(_turned(graph, node, tensor, -1, 1) if last else tensor)
        result = emit(graph, node, op, tensors, attributes)
        if last:
            result = _turned(graph, node, result, 1, -1)
        return finish(node, graph, quantized(graph, node, result, y_scale, y_zero))


def _operands(node: Node, op: str) -> tuple[list[Operands], Operands]:
    """Return the triples (tensor, scale, zero point), and the output's scale and zero point."""
    inputs = (*node.inputs, None, None)
    if op == "Concat":
        count = (len(node.inputs) - 2) // 3
        return [inputs[3 * i + 2 : 3 * i + 5] for i in range(count)], inputs[:2]
    count = TENSORS[op]
    return [inputs[3 * i : 3 * i + 3] for i in range(count)], inputs[3 * count : 3 * count + 2]


def _turned(graph: Graph, node: Node, x: Value, old: int, new: int) -> Value:
    """Return `x` with the axis at place `old` moved to `new`."""
    order = list(range(x.rank))
    axis = order.pop(old)
    order.insert(new % x.rank, axis)
    return transpose(graph, node, x, order)
