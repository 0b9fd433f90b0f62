"""x * HardSigmoid(x) => HardSwish(x)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, private_producer
from planish.passes.building import emit, finish
from planish.passes.matching import close, factors
from planish.passes.rules.recognise_hard_sigmoid import shifted_relu6


class RecogniseHardSwish(Rule):
    """With the gate as an operator, or spelled x * clip(x + 3, 0, 6) / 6 in any order."""

    name = "x * HardSigmoid(x, 1/6, 1/2) => HardSwish(x), x * clip(x + 3, 0, 6) / 6 => HardSwish(x)"
    label = "HardSwish"
    roots = ("Mul", "Div")
    stage = "recognise"
    example = """
    graph example(%x: f32[2,3]) {
      @three: f32[] = 3.0
      @zero: f32[] = 0.0
      @six: f32[] = 6.0
      %1 = Add(%x, @three)
      %2 = Clip(%1, @zero, @six)
      %3 = Mul(%x, %2)
      %4 = Div(%3, @six)
      return %4
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        variables, number = factors(node.output, graph)
        if len(variables) != 2:
            return False
        for x, gate in (variables, variables[::-1]):
            if close(number, 1 / 6) and shifted_relu6(gate, graph) is x:
                return finish(node, graph, emit(graph, node, "HardSwish", [x]))
            sigmoid = private_producer(gate, graph, "HardSigmoid")
            if sigmoid is None or sigmoid.inputs[0] is not x or not close(number, 1.0):
                continue
            if close(sigmoid.attributes["alpha"], 1 / 6) and close(sigmoid.attributes["beta"], 0.5):
                return finish(node, graph, emit(graph, node, "HardSwish", [x], matched=[sigmoid]))
        return False
