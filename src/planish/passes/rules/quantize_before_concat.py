"""QuantizeLinear(Concat(a, b)) => Concat(QuantizeLinear(a), QuantizeLinear(b))."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, private_producer
from planish.passes.building import emit, finish
from planish.passes.quantized import is_single


class QuantizeBeforeConcat(Rule):
    """Each operand is stored as integers, in its place, by what computes it."""

    name = "QuantizeLinear(Concat(a, ...), s, z) => Concat(QuantizeLinear(a, s, z), ...)"
    label = "quantization motion"
    roots = ("QuantizeLinear",)
    example = """
    graph example(%a: f32[2,3], %b: f32[2,4]) {
      @s: f32[] = [0.02]
      @z: i8[] = [3]
      %1 = Concat(%a, %b) {axis=1}
      %2 = QuantizeLinear(%1, @s, @z)
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        concat = private_producer(node.inputs[0], graph, "Concat")
        if concat is None or not all(is_single(value) for value in node.inputs[1:]):
            return False
        parts = [
            emit(graph, node, node.op, [value, *node.inputs[1:]], node.attributes)
            for value in concat.inputs
        ]
        joined = emit(graph, node, "Concat", parts, concat.attributes, [concat])
        return finish(node, graph, joined)
