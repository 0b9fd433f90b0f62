"""Loops that run over the steps of a sequence, and their replacement by a recurrent layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import discard, replace_everywhere
from planish.ir.shape import Dim
from planish.ops.content import contents
from planish.passes.building import emit, emit_many, integers
from planish.passes.cell_expressions import Activation, Affine, CellReader, Expression, Vector
from planish.passes.native_loops import is_counted

Array = np.ndarray[Any, Any]


@dataclass
class Recurrence:
    """A Loop whose every iteration takes one step of a sequence.

    Attributes
    ----------
    node : Node
        The Loop.
    reader : CellReader
        Expressions of the body's values.
    states : list of Value
        The body's states, each [batch, units].
    sequence : Value
        Where the steps come from.
    axis : int
        The axis of time in `sequence`.
    backwards : bool
        Whether the last step comes first.
    element : Value
        The step of an iteration, [batch, features].
    """

    node: Node
    reader: CellReader
    states: list[Value]
    sequence: Value
    axis: int
    backwards: bool
    element: Value

    def result(self, index: int) -> Expression:
        """Return the expression of state `index` after an iteration."""
        return self.reader.read(self.node.body.outputs[1 + index])

    @property
    def stacked(self) -> list[Value]:
        """Return the body's values that the loop stacks."""
        return self.node.body.outputs[1 + len(self.states) :]

    @property
    def units(self) -> int | None:
        """Return the number of units where it is known and the same for all states."""
        widths = {state.known_shape[-1] for state in self.states}
        (width, *others) = widths
        return width if not others and isinstance(width, int) else None

    def parts(self, affine: Expression, state: Expression) -> tuple[Array, Array, Array] | None:
        """Return (W [in,units], R [units,units], bias) of a gate over the element and a state."""
        if not isinstance(affine, Affine):
            return None
        element = self.reader.read(self.element)
        if not set(affine.terms) <= {element, state}:
            return None
        features, width = self.element.known_shape[-1], len(affine.bias)
        if not isinstance(features, int) or width != self.units:
            return None
        dtype = affine.bias.dtype
        w = affine.terms.get(element, np.zeros((features, width), dtype))
        r = affine.terms.get(state, np.zeros((width, width), dtype))
        return w, r, affine.bias


def recurrence_of(node: Node, graph: Graph, states: int) -> Recurrence | None:
    """Return a Loop as a recurrence with so many states, None where it is none."""
    body = node.body
    count = contents(node.input(0))
    carried = body.inputs[2:]
    if count is None or not is_counted(node) or len(carried) != states:
        return None
    if any(value.shape is None or value.rank != 2 for value in carried):
        return None
    if any(value is None for value in node.inputs[2:]) or (
        body.inputs[1].uses and not _only_going(node)
    ):
        return None
    steps = [inner for inner in body if is_step(inner, body)]
    if len(steps) != 1:
        return None
    step = steps[0]
    sequence, index = step.present_inputs
    axis = int(step.attributes["axis"]) % sequence.rank
    extent = sequence.known_shape[axis]
    direction = direction_of(index, body, count[0])
    if sequence.rank != 3 or axis == 2 or extent != count[0] or direction is None:
        return None
    if not _reads_nothing_else(body, index):
        return None
    return Recurrence(
        node, CellReader(body), list(carried), sequence, axis, direction < 0, step.output
    )


def replace_loop(
    found: Recurrence,
    graph: Graph,
    op: str,
    weights: tuple[Array, Array, Array],
    attributes: Mapping[str, Any],
    order: Sequence[int] = (0,),
) -> bool:
    """Replace the loop by a recurrent layer with W [G*H,I], R [G*H,H] and B [2*G*H].

    `order` are the loop's states in the layer's order. Stacked values are the first of them after
    each step (the caller has made sure of it).
    """
    node = found.node
    x = found.sequence
    if found.axis == 1:
        x = emit(graph, node, "Transpose", [x], {"perm": (1, 0, 2)})
    if found.backwards:
        ends = [integers(graph, number) for number in (-1, -(1 << 62), 0, -1)]
        x = emit(graph, node, "Slice", [x, *ends])
    constants = [graph.constant(np.ascontiguousarray(each)[None]) for each in weights]
    states = [_initial(graph, node, node.inputs[2 + place]) for place in order]
    operands = [x, *constants, None, *states]
    hidden = int(weights[1].shape[-1])
    results = emit_many(
        graph, node, op, operands, 1 + len(states), {**attributes, "hidden_size": hidden}
    )
    lasts = [emit(graph, node, "Squeeze", [value, integers(graph, 0)]) for value in results[1:]]
    every = emit(graph, node, "Squeeze", [results[0], integers(graph, 1)])
    ordered = [lasts[order.index(place)] for place in range(len(order))]
    outputs = [*ordered, *[every] * len(found.stacked)]
    if any(
        old.shape != new.shape or old.dtype is not new.dtype
        for old, new in zip(node.outputs, outputs, strict=True)
    ):
        return False
    taken: set[Value] = set()
    for old, new in zip(node.outputs, outputs, strict=True):
        if graph.is_output(old) and new in taken:
            new = emit(graph, node, "Identity", [new])
        if graph.is_output(old):
            taken.add(new)
        replace_everywhere(graph, old, new)
    discard(node, graph)
    return True


def activation_attributes(used: Sequence[Activation]) -> dict[str, Any]:
    """Return the attributes that name activations, in order."""
    alphas = [each.parameters[0] for each in used if each.parameters]
    betas = [each.parameters[1] for each in used if len(each.parameters) > 1]
    attributes: dict[str, Any] = {"activations": tuple(each.name for each in used)}
    if alphas:
        attributes["activation_alpha"] = tuple(alphas)
    if betas:
        attributes["activation_beta"] = tuple(betas)
    return attributes


def is_vector(expression: Expression, value: Value) -> bool:
    """Whether an expression is just `value`."""
    return isinstance(expression, Vector) and expression.value is value


def _initial(graph: Graph, node: Node, value: Value | None) -> Value | None:
    """Return an initial state with the axis of directions; None for zeros."""
    if value is None or _is_zero(value):
        return None
    return emit(graph, node, "Unsqueeze", [value, integers(graph, 0)])


def _is_zero(value: Value) -> bool:
    if value.constant is not None:
        return not value.array.any()
    node = value.producer
    if node is None:
        return False
    if node.op == "Expand":
        (source,) = node.present_inputs[:1]
        return source.constant is not None and not source.array.any()
    if node.op != "ConstantOfShape":
        return False
    filler = node.attributes["value"]
    return filler is None or not np.asarray(filler).any()


def _only_going(node: Node) -> bool:
    """Whether the condition is only handed on."""
    return all(user.op == "Identity" for user in node.body.inputs[1].users)


def is_step(inner: Node, body: Graph) -> bool:
    """Whether a node takes an element, by the iteration, of something from outside."""
    if inner.op != "Gather":
        return False
    source, index = inner.present_inputs
    outside = source.producer is None or source.producer.graph is not body
    rank = source.shape is not None and source.rank == 3
    return (
        outside
        and source not in body.inputs
        and rank
        and index.shape == ()
        and (not index.is_constant)
    )


def direction_of(index: Value, body: Graph, count: Dim) -> int | None:
    """Return 1 where `index` is the number of the iteration, -1 where it counts down to 0."""
    value = _plain(index)
    if value is body.inputs[0]:
        return 1
    node = value.producer
    if node is None or node.op != "Sub":
        return None
    first, second = node.present_inputs
    start = contents(first)
    down = _plain(second) is body.inputs[0] and start is not None and start[0] == count - 1
    return -1 if down else None


def _plain(value: Value) -> Value:
    while value.producer is not None and value.producer.op in ("Identity", "Cast"):
        (value,) = value.producer.present_inputs[:1]
    return value


def _reads_nothing_else(body: Graph, index: Value) -> bool:
    """Whether the number of the iteration only says which element is read."""
    pending = list(body.inputs[0].users)
    while pending:
        node = pending.pop()
        if node.op == "Gather" and node.inputs[1] is index:
            continue
        if node.op not in ("Cast", "Identity", "Sub"):
            return False
        if any(body.is_output(output) for output in node.outputs):
            return False
        pending += [user for output in node.outputs for user in output.users]
    return True
