"""BiasGelu(x, b) => Gelu(x + b), and ONNX Runtime's other spellings."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.building import emit, finish

FORMS = {"com.microsoft.Gelu": "none", "com.microsoft.BiasGelu": "none",
         "com.microsoft.FastGelu": "tanh"}  # fmt: skip
QUICK = "com.microsoft.QuickGelu"


class SplitFusedGelu(Rule):
    """Contrib activations become ONNX's own."""

    name = "BiasGelu(x, b) => Gelu(x + b), FastGelu(x, b) => Gelu(x + b, tanh), QuickGelu => Swish"
    label = "canonical form"
    roots = (*FORMS, QUICK)
    example = """
    graph example(%x: f32[2,3,4]) {
      @b: f32[4]
      %1 = com.microsoft.FastGelu(%x, @b)
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, bias = node.inputs[0], node.input(1)
        if x is None:
            return False
        if bias is not None:
            x = emit(graph, node, "Add", [x, bias])
        if node.op == QUICK:
            return finish(node, graph, emit(graph, node, "Swish", [x], dict(node.attributes)))
        attributes = {"approximate": FORMS[node.op]}
        return finish(node, graph, emit(graph, node, "Gelu", [x], attributes))
