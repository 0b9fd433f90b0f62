"""QuantizeLinear(Reshape(x)) => Reshape(QuantizeLinear(x)), and other moves of elements."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, private_producer
from planish.passes.building import emit, finish
from planish.passes.moving import integer_move, is_move
from planish.passes.quantized import is_single

# one element in, one or more elements out: quantizing before is never more work
MOVES = (
    "DepthToSpace", "Expand", "Flatten", "Identity", "Pad", "Reshape", "Resize", "SpaceToDepth",
    "Squeeze", "Tile", "Transpose", "Unsqueeze", "MaxPool",
)  # fmt: skip


class QuantizeBeforeMove(Rule):
    """What computes a tensor stores it as integers, which are then moved."""

    name = "QuantizeLinear(move(x), s, z) => move(QuantizeLinear(x, s, z))"
    label = "quantization motion"
    roots = ("QuantizeLinear",)
    example = """
    graph example(%x: f32[1,2,4,4]) {
      @s: f32[] = [0.02]
      @z: u8[] = [120]
      %1 = Sigmoid(%x)
      %2 = MaxPool(%1) {kernel_shape=[2,2]}
      %3 = QuantizeLinear(%2, @s, @z)
      return %3
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        move = private_producer(node.inputs[0], graph, *MOVES)
        if move is None or not is_move(move) or node.attributes["block_size"]:
            return False
        x = move.inputs[0]
        if x is None or x.producer is None or x.producer.graph is not graph:
            return False
        if x.producer.op == "DequantizeLinear" or len(x.uses) != 1 or graph.is_output(x):
            return False
        if not all(is_single(value) for value in node.inputs[1:]):
            return False
        integers = emit(graph, move, node.op, [x, *node.inputs[1:]], node.attributes, [node])
        if integers.producer is None:
            return False
        moved = integer_move(graph, move, integers.producer, exactly=False, before=node)
        if moved is None:
            graph.remove(integers.producer)
            return False
        return finish(node, graph, moved[0])
