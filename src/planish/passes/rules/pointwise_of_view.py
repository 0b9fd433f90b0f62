"""op(view(x)) => view(op(x)) for a pointwise op with one tensor operand."""

from __future__ import annotations

import math

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule, private_producer, scalar_of, split_constant
from planish.ir.shape import Shape
from planish.passes.anchors import VIEWS, has_private_anchor
from planish.passes.building import channel_vector, constant, emit, finish
from planish.passes.matching import permutation

UNARY = (
    "Abs", "Ceil", "Celu", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid",
    "HardSwish", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu",
    "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu",
)  # fmt: skip
BINARY = ("Add", "Mul")
BY_CONSTANT = ("Div", "Sub")  # with the constant on the right


class PointwiseOfView(Rule):
    """A pointwise op moves in front of a view, next to the anchor whose epilogue it can become.

    Only where an anchor computes the viewed tensor, and nothing else reads it.
    """

    name = "op(view(anchor(x))) => view(op(anchor(x))), op unary or with a constant"
    label = "view motion"
    roots = (*UNARY, *BINARY, *BY_CONSTANT)
    example = """
    graph example(%x: f32[2,3,4]) {
      @w: f32[4,6]
      @b: f32[6]
      @flat: i64[2] = [6, 6]
      %1 = MatMul(%x, @w)
      %2 = Reshape(%1, @flat)
      %3 = Add(%2, @b)
      return %3
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        operands = _operands(node)
        view = None if operands is None else private_producer(operands[0], graph, *VIEWS)
        x = None if view is None else view.inputs[0]
        if operands is None or view is None or x is None:
            return False
        # a vector may get stuck between two views, where it would be a region of its own
        movable = operands[1] is None or scalar_of(operands[1]) is not None
        if not has_private_anchor(x, graph, through_views=movable):
            return False
        if operands[0].shape is None or operands[0].shape != node.output.shape:
            return False
        number = None
        if operands[1] is not None:
            number = _in_front(graph, operands[1], x, view)
            if number is None:
                return False
        changed = {operands[0]: x, operands[1]: number}
        inputs = [changed.get(value, value) for value in node.inputs]
        moved = emit(graph, node, node.op, inputs, node.attributes)
        again = emit(graph, node, view.op, [moved, *view.inputs[1:]], view.attributes, [view])
        return finish(node, graph, again)


def _operands(node: Node) -> tuple[Value, Value | None] | None:
    """Return (tensor, constant or None)."""
    if node.op in BINARY:
        return split_constant(node)
    if node.op in BY_CONSTANT:
        pair = split_constant(node)
        return pair if pair is not None and node.inputs[1] is pair[1] else None
    x, rest = node.inputs[0], node.inputs[1:]
    if x is None or x.is_constant or any(v is not None and not v.is_constant for v in rest):
        return None
    return x, None


def _in_front(graph: Graph, number: Value, x: Value, view: Node) -> Value | None:
    """Return a constant that means in front of the view what `number` means behind it."""
    if scalar_of(number) is not None and number.rank <= 1:
        return number
    if x.shape is None or x.rank == 0 or view.output.rank == 0:
        return None
    if view.op == "Transpose":
        return _turned(graph, number, permutation(view))
    moved = _among_ones(graph, number, x.known_shape, view.output.known_shape)
    if moved is not None:
        return moved
    last = x.known_shape[-1]
    if not isinstance(last, int):
        return None
    if view.output.known_shape[-1] != last:
        return _joined(graph, number, last, view)
    if number.rank > 1:
        return None
    vector = channel_vector(number, view.output.rank, view.output.rank - 1, last)
    return None if vector is None else number


def _among_ones(graph: Graph, number: Value, before: Shape, after: Shape) -> Value | None:
    """Return a constant in front of a view that only inserts, drops or moves axes of extent 1."""
    wide_before = [axis for axis, dim in enumerate(before) if dim != 1]
    wide_after = [axis for axis, dim in enumerate(after) if dim != 1]
    if [before[axis] for axis in wide_before] != [after[axis] for axis in wide_after]:
        return None
    places = dict(zip(wide_after, wide_before, strict=True))
    skipped = len(after) - number.rank
    shape = [1] * len(before)
    for axis, extent in enumerate(number.array.shape, start=skipped):
        if extent == 1:
            continue
        if axis not in places:
            return None
        shape[places[axis]] = extent
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return constant(graph, number.array.reshape(shape), number)


def _joined(graph: Graph, number: Value, last: int, view: Node) -> Value | None:
    """Return a constant over axes that a reshape cut `last` into, as one vector.

    Keras adds the biases of attention heads so.
    """
    shape = view.output.known_shape
    for count in range(2, len(shape)):
        tail = tuple(dim for dim in shape[-count:] if isinstance(dim, int))
        if len(tail) < count or math.prod(tail) > last:
            return None
        if math.prod(tail) < last:
            continue
        own = number.array.shape
        if len(own) > count and own[:-count] != (1,) * (len(own) - count):
            return None
        array = np.broadcast_to(number.array.reshape(own[-count:]), tail)
        return constant(graph, array.reshape(-1), number)
    return None


def _turned(graph: Graph, number: Value, order: tuple[int, ...] | None) -> Value | None:
    """Return a constant with its axes put back to where `order` took them from."""
    if order is None or number.rank > len(order):
        return None
    array = number.array.reshape((1,) * (len(order) - number.rank) + number.array.shape)
    inverse = tuple(order.index(axis) for axis in range(len(order)))
    turned = array.transpose(inverse)
    while turned.ndim > 1 and turned.shape[0] == 1:
        turned = turned[0]
    return constant(graph, turned, number)
