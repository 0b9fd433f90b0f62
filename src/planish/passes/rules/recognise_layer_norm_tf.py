"""x * (r * g) + (b - mean(x) * (r * g)) => LayerNormalization(x, g, b)."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule, producer_in, split_constant
from planish.ir.shape import static_shape
from planish.passes.building import constant, emit, finish
from planish.passes.moments import centred, inverse_root, last_axes, mean_square


class RecogniseLayerNormTf(Rule):
    """TensorFlow's batch_normalization arithmetic, which Keras uses for layer norms."""

    name = "x * (r * g) + (b - mean(x) * (r * g)) => LayerNormalization(x, g, b), r = 1 / sqrt(var)"
    label = "LayerNorm"
    roots = ("Add",)
    stage = "recognise"
    example = """
    graph example(%x: f32[2,3,8]) {
      @axis: i64[1] = [-1]
      @epsilon: f32[] = 0.00001
      @g: f32[8]
      @b: f32[8]
      %mean = ReduceMean(%x, @axis)
      %d = Sub(%x, %mean)
      %square = Mul(%d, %d)
      %var = ReduceMean(%square, @axis)
      %1 = Add(%var, @epsilon)
      %2 = Sqrt(%1)
      %3 = Reciprocal(%2)
      %4 = Mul(%3, @g)
      %5 = Mul(%x, %4)
      %6 = Mul(%mean, %4)
      %7 = Sub(@b, %6)
      %8 = Add(%5, %7)
      return %8
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        left, right = node.inputs
        for scaled, shift in ((left, right), (right, left)):
            first, second = producer_in(scaled, graph, "Mul"), _shift(shift, graph)
            if first is None or second is None:
                continue
            if _rewrite(node, graph, first, *second):
                return True
        return False


def _shift(
    value: Value | None, graph: Graph
) -> tuple[Value | None, tuple[Value | None, ...]] | None:
    """Return (b, (m, f)) where value = b - m * f: as such, or as -m * f + b; b may be missing."""
    node = producer_in(value, graph, "Sub", "Add", "Mul")
    if node is None:
        return None
    if node.op == "Sub":
        moved, bias = producer_in(node.inputs[1], graph, "Mul"), node.inputs[0]
        return None if moved is None else (bias, moved.inputs)
    bias = None
    if node.op == "Add":
        pair = split_constant(node)
        moved = None if pair is None else producer_in(pair[0], graph, "Mul")
        if pair is None or moved is None:
            return None
        bias, node = pair[1], moved
    for minus, factor in (node.inputs, node.inputs[::-1]):
        negative = producer_in(minus, graph, "Neg")
        if negative is not None:
            return bias, (negative.inputs[0], factor)
    return None


def _rewrite(
    node: Node, graph: Graph, scaled: Node, bias: Value | None, moved: tuple[Value | None, ...]
) -> bool:
    if bias is not None and not bias.is_constant:
        return False
    for x, factor in (scaled.inputs, scaled.inputs[::-1]):
        if x is None or factor is None or factor not in moved:
            continue
        mean_value = next((v for v in moved if v is not factor), None)
        mean = producer_in(mean_value, graph, "ReduceMean")
        gain = _gain(factor, graph, x)
        if mean is None or mean.inputs[0] is not x or gain is None:
            continue
        axis, scale, epsilon = gain
        extents = static_shape(x.known_shape[axis:])
        if last_axes(mean) != axis or extents is None:
            continue
        gain_vector = _spread(graph, scale, extents, x)
        shift = None if bias is None else _spread(graph, bias, extents, x)
        if gain_vector is None or (bias is not None and shift is None):
            continue
        attributes = {"axis": axis - x.rank, "epsilon": epsilon}
        result = emit(graph, node, "LayerNormalization", [x, gain_vector, shift], attributes)
        return finish(node, graph, result)
    return False


def _gain(factor: Value, graph: Graph, x: Value) -> tuple[int, Value | None, float] | None:
    """Return (axis, scale, epsilon) where factor = scale / sqrt(var(x) + epsilon)."""
    product = producer_in(factor, graph, "Mul")
    candidates: list[tuple[Value | None, Value | None]] = [(factor, None)]
    if product is not None:
        candidates += [
            (product.inputs[0], product.inputs[1]),
            (product.inputs[1], product.inputs[0]),
        ]
    for inverse, scale in candidates:
        root = inverse_root(inverse, graph)
        found = None if root is None else mean_square(root.inputs[0], graph)
        centre = None if found is None else centred(found.base, graph)
        if found is None or centre != (x, found.axis):
            continue
        if scale is None or scale.is_constant:
            return found.axis, scale, found.epsilon
    return None


def _spread(graph: Graph, value: Value | None, extents: tuple[int, ...], x: Value) -> Value | None:
    if value is None:
        return constant(graph, np.ones(extents), x)
    shape = value.array.shape
    while len(shape) > len(extents) and shape[0] == 1:
        shape = shape[1:]
    if len(shape) > len(extents):
        return None
    array = np.broadcast_to(value.array.reshape(shape), extents)
    return constant(graph, array, value)
