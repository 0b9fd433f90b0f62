"""op(view(x)) => view(op(x)) for a pointwise op with one tensor operand."""

from __future__ import annotations

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule, private_producer, scalar_of, split_constant
from planish.ops.op import OPS
from planish.passes.building import channel_vector, emit, finish
from planish.passes.matching import permutation

VIEWS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")
UNARY = (
    "Abs", "Ceil", "Celu", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid",
    "HardSwish", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu",
    "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu",
)  # fmt: skip
BINARY = ("Add", "Mul")


class PointwiseOfView(Rule):
    """A pointwise op moves in front of a view, next to the anchor whose epilogue it can become.

    Only where an anchor computes the viewed tensor, and nothing else reads it.
    """

    name = "op(view(anchor(x))) => view(op(anchor(x))), op unary or with a constant"
    label = "view motion"
    roots = (*UNARY, *BINARY)
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
        if not _has_anchor(x, graph, through_views=movable):
            return False
        if operands[0].shape is None or operands[0].shape != node.output.shape:
            return False
        if operands[1] is not None and not _varies_along_kept_axis(operands[1], x, view):
            return False
        inputs = [x if value is operands[0] else value for value in node.inputs]
        if operands[1] is not None and operands[1].rank > 1:
            return False
        moved = emit(graph, node, node.op, inputs, node.attributes)
        again = emit(graph, node, view.op, [moved, *view.inputs[1:]], view.attributes, [view])
        return finish(node, graph, again)


def _operands(node: Node) -> tuple[Value, Value | None] | None:
    """Return (tensor, constant or None)."""
    if node.op in BINARY:
        return split_constant(node)
    x, rest = node.inputs[0], node.inputs[1:]
    if x is None or x.is_constant or any(v is not None and not v.is_constant for v in rest):
        return None
    return x, None


def _has_anchor(x: Value, graph: Graph, through_views: bool) -> bool:
    """Whether an anchor, perhaps with pointwise ops behind it, computes `x` for this view alone."""
    value = x
    for _ in range(8):
        if len(value.uses) != 1 or graph.is_output(value):
            return False
        node = value.producer
        if node is None or node.graph is not graph or len(node.outputs) != 1:
            return False
        if node.op in VIEWS and through_views and node.inputs[0] is not None:
            value = node.inputs[0]
            continue
        if OPS[node.op].view:
            return False
        if not OPS[node.op].pointwise:
            return True
        tensors = [each for each in node.present_inputs if each.shape == value.shape]
        if len(tensors) != 1:
            return len(tensors) > 1
        value = tensors[0]
    return False


def _varies_along_kept_axis(constant: Value, x: Value, view: Node) -> bool:
    """Whether a constant means the same in front of the view: a scalar, or along the last axis."""
    if scalar_of(constant) is not None and constant.rank <= 1:
        return True
    if x.shape is None or x.rank == 0 or view.output.rank == 0:
        return False
    last = x.known_shape[-1]
    if not isinstance(last, int) or view.output.known_shape[-1] != last:
        return False
    if view.op == "Transpose":
        order = permutation(view)
        if order is None or order[-1] != len(order) - 1:
            return False
    return channel_vector(constant, view.output.rank, view.output.rank - 1, last) is not None
