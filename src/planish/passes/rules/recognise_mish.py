"""x * tanh(Softplus(x)) => Mish(x)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, private_producer
from planish.passes.building import emit, finish


class RecogniseMish(Rule):
    """Softplus spelled out has become an operator before (or in the next sweep)."""

    name = "x * tanh(Softplus(x)) => Mish(x)"
    label = "Mish"
    roots = ("Mul",)
    stage = "recognise"
    example = """
    graph example(%x: f32[2,3]) {
      %1 = Softplus(%x)
      %2 = Tanh(%1)
      %3 = Mul(%2, %x)
      return %3
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        left, right = node.inputs
        for x, gate in ((left, right), (right, left)):
            tanh = private_producer(gate, graph, "Tanh")
            softplus = None if tanh is None else private_producer(tanh.inputs[0], graph, "Softplus")
            if x is None or softplus is None or softplus.inputs[0] is not x:
                continue
            return finish(node, graph, emit(graph, node, "Mish", [x], matched=[softplus]))
        return False
