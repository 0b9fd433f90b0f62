"""log(1 + exp(x)) => Softplus(x)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, is_scalar, private_producer, split_constant
from planish.passes.building import emit, finish


class RecogniseSoftplus(Rule):
    """The operator does not overflow for large x as the spelled-out form does."""

    name = "log(1 + exp(x)) => Softplus(x)"
    label = "Softplus"
    roots = ("Log",)
    stage = "recognise"
    example = """
    graph example(%x: f32[2,3]) {
      @one: f32[] = 1.0
      %1 = Exp(%x)
      %2 = Add(%1, @one)
      %3 = Log(%2)
      return %3
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        add = private_producer(node.inputs[0], graph, "Add")
        pair = None if add is None else split_constant(add)
        if pair is None or not is_scalar(pair[1], 1.0):
            return False
        exp = private_producer(pair[0], graph, "Exp")
        if exp is None:
            return False
        return finish(node, graph, emit(graph, node, "Softplus", [exp.inputs[0]], matched=[exp]))
