"""0.5 * x * (1 + erf(x / sqrt(2))) => Gelu(x)."""

from __future__ import annotations

import math

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule, is_scalar, private_producer, split_constant
from planish.passes.building import emit, finish
from planish.passes.matching import close, factors, strip_scale


class RecogniseGelu(Rule):
    """Every association and order of the factors, and both spellings of the scale, match."""

    name = "0.5 * x * (1 + erf(x / sqrt(2))) => Gelu(x)"
    label = "GELU"
    roots = ("Mul", "Div")
    stage = "recognise"
    example = """
    graph example(%x: f32[2,3]) {
      @root: f32[] = 1.4142135
      @one: f32[] = 1.0
      @half: f32[] = 0.5
      %1 = Div(%x, @root)
      %2 = Erf(%1)
      %3 = Add(%2, @one)
      %4 = Mul(%x, %3)
      %5 = Mul(%4, @half)
      return %5
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        for gate in factors(node.output, graph)[0]:
            x = _gated(gate, graph)
            if x is None:
                continue
            rest, number = factors(node.output, graph, stop=x)
            if sorted(map(id, rest)) == sorted((id(x), id(gate))) and close(number, 0.5):
                return finish(node, graph, emit(graph, node, "Gelu", [x], {"approximate": "none"}))
        return False


def _gated(gate: Value, graph: Graph) -> Value | None:
    """Return x where gate = 1 + erf(x / sqrt(2)), or 1 - erf(-x / sqrt(2)), which is Keras's."""
    node = private_producer(gate, graph, "Add", "Sub")
    pair = None if node is None else split_constant(node)
    if node is None or pair is None or not is_scalar(pair[1], 1.0):
        return None
    if node.op == "Sub" and node.inputs[0] is not pair[1]:
        return None
    erf = private_producer(pair[0], graph, "Erf")
    if erf is None or erf.inputs[0] is None:
        return None
    x, scale = strip_scale(erf.inputs[0], graph)
    return x if close(scale, math.sqrt(0.5) * (1 if node.op == "Add" else -1)) else None
