"""SkipLayerNormalization(x, s, g, b) => LayerNormalization(x + s, g, b)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule
from planish.passes.building import emit, finish

SKIP = {
    "com.microsoft.SkipLayerNormalization": "LayerNormalization",
    "com.microsoft.SkipSimplifiedLayerNormalization": "RMSNormalization",
}
PLAIN = "SimplifiedLayerNormalization"


class SplitSkipNorm(Rule):
    """Contrib norms become ONNX's own; a sum that is an output too stays a sum."""

    name = "SkipLayerNormalization(x, s, g, b, c) => LayerNormalization(x + s + c, g, b)"
    label = "canonical form"
    roots = (*SKIP, PLAIN)
    example = """
    graph example(%x: f32[2,3,8], %s: f32[2,3,8]) {
      @g: f32[8]
      @b: f32[8]
      @c: f32[8]
      %1 = com.microsoft.SkipLayerNormalization(%x, %s, @g, @b, @c)
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, first = node.inputs[0], node.outputs[0]
        middle = node.outputs[1:3]
        if x is None or any(output.uses or graph.is_output(output) for output in middle):
            return False
        if node.op == PLAIN:
            if len(node.outputs) != 1:
                return False
            attributes = {key: node.attributes[key] for key in ("axis", "epsilon")}
            inputs = [x, node.inputs[1]]
            return finish(node, graph, emit(graph, node, "RMSNormalization", inputs, attributes))
        total = _sum(graph, node, x)
        layer = node.op == "com.microsoft.SkipLayerNormalization"
        inputs = [total, node.inputs[2], node.input(3) if layer else None]
        attributes = {"axis": -1, "epsilon": node.attributes["epsilon"]}
        normal = emit(graph, node, SKIP[node.op], inputs, attributes)
        graph.replace_value(first, normal)
        if len(node.outputs) == 4:
            graph.replace_value(node.outputs[3], total)
        return True


def _sum(graph: Graph, node: Node, x: Value) -> Value:
    total = emit(graph, node, "Add", [x, node.inputs[1]])
    bias = node.input(4 if node.op == "com.microsoft.SkipLayerNormalization" else 3)
    return total if bias is None else emit(graph, node, "Add", [total, bias])
