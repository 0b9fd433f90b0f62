"""Conv(x + t, w, b) => Conv(x, w, b + sum(w * t)) without padding."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, private_producer, split_constant
from planish.ops.convolution import resolve_padding
from planish.passes.building import channel_vector, constant, emit, finish


class ShiftedInputIntoLinear(Rule):
    """A constant shift per input channel becomes part of the bias where no zeros are padded."""

    name = "Conv(x + t, w, b) => Conv(x, w, b + sum(w * t)), (x + t) @ w => x @ w + t @ w"
    label = "bias folding"
    roots = ("Conv", "MatMul")
    example = """
    graph example(%x: f32[1,4,5]) {
      @w: f32[6,2,3]
      @b: f32[6]
      @t: f32[4,1]
      %1 = Add(%x, @t)
      %2 = Conv(%1, @w, @b) {kernel_shape=[3], group=2}
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        shifting = private_producer(node.inputs[0], graph, "Add")
        pair = None if shifting is None else split_constant(shifting)
        weights, bias = node.inputs[1], node.input(2)
        if pair is None or shifting is None or weights is None or not weights.is_constant:
            return False
        if pair[0].shape is None or pair[0].shape != shifting.output.shape:
            return False
        axis = pair[0].rank - 1 if node.op == "MatMul" else 1
        channels = pair[0].known_shape[axis]
        if not isinstance(channels, int) or weights.array.ndim < 2 or node.output.shape is None:
            return False
        shift = channel_vector(pair[1], pair[0].rank, axis, channels)
        if shift is None or (bias is not None and not bias.is_constant) or _pads(node):
            return False
        wide = weights.array.astype(np.float64)
        if node.op == "MatMul":
            if wide.ndim != 2:
                return False
            product = emit(graph, node, "MatMul", [pair[0], weights], matched=[shifting])
            moved = constant(graph, shift @ wide, weights)
            return finish(node, graph, emit(graph, node, "Add", [product, moved]))
        group = int(node.attributes["group"])
        sums = wide.reshape(group, -1, *wide.shape[1:]).sum(axis=tuple(range(3, wide.ndim + 1)))
        total = np.einsum("goi,gi->go", sums, shift.reshape(group, -1)).reshape(-1)
        if bias is not None:
            total = total + bias.array
        inputs = [pair[0], weights, constant(graph, total, weights)]
        result = emit(graph, node, "Conv", inputs, node.attributes, matched=[shifting])
        return finish(node, graph, result)


def _pads(node: Node) -> bool:
    if node.op == "MatMul":
        return False
    return not resolve_padding(node).is_zero
