"""What rules ask about a graph: how a value is spelled, whether a node may pass its input on."""

from __future__ import annotations

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import private_producer, scalar_of, split_constant
from planish.ir.shape import Dim, Expression, Shape, product


def may_forward(node: Node, value: Value, graph: Graph) -> bool:
    """Whether readers of `node` may read its operand `value` instead.

    An output of a graph stays a value that a node of this graph computes: otherwise a graph input,
    a constant, or an outer value would become an output, which has no memory of its own to be
    written to.
    """
    if not any(graph.is_output(output) for output in node.outputs):
        return True
    inside = value.producer is not None and value.producer.graph is graph
    return inside and not graph.is_output(value)


def permutation(node: Node) -> tuple[int, ...] | None:
    """Return the axis order of a Transpose, or None when the rank is unknown."""
    order = node.attributes["perm"]
    if order:
        return tuple(int(axis) for axis in order)
    x = node.inputs[0]
    return None if x is None or x.shape is None else tuple(reversed(range(x.rank)))


def reshape_target(source: Shape, target: Shape) -> tuple[int, ...] | None:
    """Return a constant shape operand that reshapes `source` to `target`, if there is one.

    A symbolic extent can be copied from the same position (0) or, once, be inferred (-1).
    """
    if any(isinstance(dim, int) and dim == 0 for dim in (*source, *target)):
        return None  # an empty tensor: 0 would mean something else
    copied = [
        position < len(source) and source[position] == dim for position, dim in enumerate(target)
    ]
    numbers: list[int] = []
    for dim, same in zip(target, copied, strict=True):
        if isinstance(dim, int):
            numbers.append(dim)
        elif same:
            numbers.append(0)
        else:
            numbers.append(-1)
    if numbers.count(-1) > 1:
        return None
    if -1 in numbers and not _infers(source, target, numbers.index(-1)):
        return None
    return tuple(numbers)


def _infers(source: Shape, target: Shape, position: int) -> bool:
    """Whether the extent at `position` follows from the number of elements."""
    rest: Dim = product((*target[:position], *target[position + 1 :]))
    wanted = target[position]
    return product(source) == rest * wanted and (isinstance(wanted, Expression))


def strip_scale(value: Value, graph: Graph) -> tuple[Value, float]:
    """Return (base, factor) such that value = base * factor, through Neg, Mul, Div by scalars."""
    factor = 1.0
    while True:
        node = private_producer(value, graph, "Mul", "Div", "Neg")
        if node is None:
            return value, factor
        step = _scale_step(node)
        if step is None:
            return value, factor
        value, factor = step[0], factor * step[1]


def _scale_step(node: Node) -> tuple[Value, float] | None:
    if node.op == "Neg":
        return None if node.inputs[0] is None else (node.inputs[0], -1.0)
    if node.op == "Div":
        divisor, x = scalar_of(node.inputs[1]), node.inputs[0]
        return None if divisor is None or divisor == 0 or x is None else (x, 1.0 / divisor)
    pair = split_constant(node)
    if pair is None or pair[0].shape != node.output.shape:
        return None
    factor = scalar_of(pair[1])
    return None if factor is None else (pair[0], factor)


def factors(value: Value, graph: Graph, stop: Value | None = None) -> tuple[list[Value], float]:
    """Return (variables, number) such that value is their product.

    Multiplications and divisions by scalars are followed through values that nothing else reads;
    `value` itself may have any readers. `stop` is never taken apart.
    """
    variables: list[Value] = []
    number = 1.0
    pending = [value]
    first = True
    while pending:
        each = pending.pop()
        node = each.producer if first else private_producer(each, graph, "Mul", "Div")
        first = False
        scalar = scalar_of(each)
        if scalar is not None:
            number *= scalar
            continue
        if each is stop or node is None or node.op not in ("Mul", "Div"):
            variables.append(each)
            continue
        left, right = node.inputs[0], node.inputs[1]
        if left is None or right is None:
            variables.append(each)
            continue
        if node.op == "Mul":
            pending += [right, left]
            continue
        divisor = scalar_of(right)
        if divisor is None or divisor == 0:
            variables.append(each)
            continue
        number /= divisor
        pending.append(left)
    return variables, number


def close(a: float, b: float, relative: float = 1e-4) -> bool:
    """Whether two numbers agree within the digits that models are written with."""
    return abs(a - b) <= relative * max(abs(a), abs(b))
