"""BatchNormalization(Conv(x, w, b)) => Conv(x, w', b')."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, private_producer
from planish.passes.building import finish
from planish.passes.linear import LINEAR, batch_norm_vectors, scale_and_shift


class BatchNormIntoProducer(Rule):
    """A batch norm behind a convolution or matmul disappears into its weights and bias."""

    name = "BatchNormalization(Conv(x, w, b)) => Conv(x, w * s, b * s + t)"
    label = "BatchNorm folding"
    roots = ("BatchNormalization",)
    example = """
    graph example(%x: f32[1,3,4,4]) {
      @w: f32[2,3,3,3]
      @scale: f32[2] = [0.5, -2.0]
      @bias: f32[2]
      @mean: f32[2]
      @var: f32[2] = [0.25, 4.0]
      %1 = Conv(%x, @w) {kernel_shape=[3,3], pads=[1,1,1,1]}
      %2 = BatchNormalization(%1, @scale, @bias, @mean, @var)
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        linear = private_producer(node.inputs[0], graph, *LINEAR)
        vectors = batch_norm_vectors(node)
        if linear is None or vectors is None or len(node.outputs) != 1:
            return False
        if linear.op == "MatMul" and linear.output.rank != 2:
            return False  # the channel axis of the norm is not the matmul's
        scaled = scale_and_shift(graph, node, linear, *vectors)
        return scaled is not None and finish(node, graph, scaled)
