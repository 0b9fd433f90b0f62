"""x * sigmoid(a * x) => Swish(x, a)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, private_producer
from planish.passes.building import emit, finish
from planish.passes.matching import strip_scale


class RecogniseSwish(Rule):
    """SiLU, and the sigmoid form of GELU (a = 1.702)."""

    name = "x * sigmoid(a * x) => Swish(x, a)"
    label = "SiLU"
    roots = ("Mul",)
    stage = "recognise"
    example = """
    graph example(%x: f32[2,3]) {
      @a: f32[] = 1.702
      %1 = Mul(%x, @a)
      %2 = Sigmoid(%1)
      %3 = Mul(%x, %2)
      return %3
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        left, right = node.inputs
        for x, gate in ((left, right), (right, left)):
            sigmoid = private_producer(gate, graph, "Sigmoid")
            if x is None or sigmoid is None or sigmoid.inputs[0] is None:
                continue
            if sigmoid.inputs[0] is x:
                alpha = 1.0
            else:
                base, alpha = strip_scale(sigmoid.inputs[0], graph)
                if base is not x:
                    continue
            result = emit(graph, node, "Swish", [x], {"alpha": alpha}, matched=[sigmoid])
            return finish(node, graph, result)
        return False
