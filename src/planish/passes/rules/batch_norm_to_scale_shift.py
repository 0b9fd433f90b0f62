"""BatchNormalization(x) => x * s + t."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, private_producer
from planish.passes.building import constant, emit, finish
from planish.passes.linear import LINEAR, batch_norm_vectors


class BatchNormToScaleShift(Rule):
    """A batch norm that no producer can take is a scale and a shift, which fuse like any other."""

    name = "BatchNormalization(x) => x * s + t"
    label = "BatchNorm as scale and shift"
    roots = ("BatchNormalization",)
    example = """
    graph example(%x: f32[2,2,3]) {
      @scale: f32[2] = [0.5, -2.0]
      @bias: f32[2]
      @mean: f32[2]
      @var: f32[2] = [0.25, 4.0]
      %1 = BatchNormalization(%x, @scale, @bias, @mean, @var)
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, vectors = node.inputs[0], batch_norm_vectors(node)
        if x is None or x.shape is None or vectors is None or len(node.outputs) != 1:
            return False
        if private_producer(x, graph, *LINEAR) is not None and node.output.rank > 2:
            return False  # batch_norm_into_producer had its turn and refused for a reason
        shape = (-1, *(1,) * (x.rank - 2))
        scale, shift = (constant(graph, vector.reshape(shape), x) for vector in vectors)
        scaled = emit(graph, node, "Mul", [x, scale])
        return finish(node, graph, emit(graph, node, "Add", [scaled, shift]))
