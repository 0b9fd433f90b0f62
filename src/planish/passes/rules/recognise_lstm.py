"""Loop over time of an LSTM cell => LSTM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule
from planish.passes.cell_expressions import Activation, Expression, Product, Sum
from planish.passes.recurrence import (
    Recurrence,
    activation_attributes,
    is_vector,
    recurrence_of,
    replace_loop,
)


@dataclass(frozen=True)
class _Cell:
    """The gates of c' = forget * c + enter * candidate and h' = leave * squash(c')."""

    enter: Activation
    leave: Activation
    forget: Activation
    candidate: Activation
    squash: Activation


class RecogniseLstm(Rule):
    """A long short-term memory, whatever the order of its gates and the spelling of its cell."""

    name = (
        "Loop over t: c = f * c + i * g, h = o * tanh(c), gates = x[t] W + h R + b "
        "=> LSTM(x, W, R, b, h, c)"
    )
    label = "LSTM"
    roots = ("Loop",)
    stage = "recurrent"
    example = """
    graph example(%x: f32[5,2,3], %h: f32[2,1], %c: f32[2,1]) {
      @steps: i64[] = [5]
      %h5, %c5, %all = Loop(@steps, _, %h, %c) {body=graph b(
        %n: i64[], %go: bool[], %h0: f32[2,1], %c0: f32[2,1]
      ) {
        @w: f32[3,4] = [0.1, 0.2, 0.3, 0.4, -0.5, 0.6, 0.7, -0.8, 0.9, 0.1, -0.2, 0.3]
        @r: f32[1,4] = [0.1, -0.2, 0.3, 0.4]
        @b: f32[4] = [0.5, -0.5, 0.25, 0.125]
        %still = Identity(%go)
        %step = Gather(%x, %n) {axis=0}
        %1 = MatMul(%step, @w)
        %2 = MatMul(%h0, @r)
        %3 = Add(%1, %2)
        %4 = Add(%3, @b)
        %i, %f, %g, %o = Split(%4) {axis=1, num_outputs=4}
        %enter = Sigmoid(%i)
        %forget = Sigmoid(%f)
        %candidate = Tanh(%g)
        %leave = Sigmoid(%o)
        %kept = Mul(%forget, %c0)
        %added = Mul(%enter, %candidate)
        %memory = Add(%kept, %added)
        %squashed = Tanh(%memory)
        %new = Mul(%leave, %squashed)
        %copy = Identity(%new)
        return %still, %new, %memory, %copy
      }}
      return %h5, %c5, %all
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        found = recurrence_of(node, graph, 2)
        if found is None:
            return False
        for hidden, memory in ((0, 1), (1, 0)):
            cell = _cell(found, hidden, memory)
            if cell is not None:
                return _replace(found, graph, cell, hidden)
        return False


def _replace(found: Recurrence, graph: Graph, cell: _Cell, hidden: int) -> bool:
    state = found.reader.read(found.states[hidden])
    gates = [
        found.parts(gate.argument, state)
        for gate in (cell.enter, cell.leave, cell.forget, cell.candidate)
    ]
    known = [gate for gate in gates if gate is not None]
    new = found.result(hidden)
    if len(known) < 4 or any(found.reader.read(value) is not new for value in found.stacked):
        return False
    bias = np.concatenate([bias for _, _, bias in known])
    weights = (
        np.concatenate([w.T for w, _, _ in known]),
        np.concatenate([r.T for _, r, _ in known]),
        np.concatenate([bias, np.zeros_like(bias)]),
    )
    attributes = activation_attributes([cell.enter, cell.candidate, cell.squash])
    return replace_loop(found, graph, "LSTM", weights, attributes, (hidden, 1 - hidden))


def _cell(found: Recurrence, hidden: int, memory: int) -> _Cell | None:
    """Return the gates where the results of the body are those of an LSTM."""
    h, c = found.result(hidden), found.result(memory)
    if not isinstance(h, Product) or not isinstance(c, Sum) or len(c.parts) != 2:
        return None
    leave, squash = _output_gates(h, c)
    for kept, added in (c.parts, c.parts[::-1]):
        forget = _forget_gate(kept, found.states[memory])
        if forget is None or leave is None or squash is None:
            continue
        for enter, candidate in _pairs(added):
            if enter.kind == forget.kind == leave.kind:
                return _Cell(enter, leave, forget, candidate, squash)
    return None


def _output_gates(h: Product, c: Expression) -> tuple[Activation | None, Activation | None]:
    for leave, squash in _pairs(h):
        if squash.argument is c:
            return leave, squash
    return None, None


def _forget_gate(kept: Expression, memory: Value) -> Activation | None:
    if not isinstance(kept, Product) or len(kept.factors) != 2:
        return None
    for gate, state in (kept.factors, kept.factors[::-1]):
        if isinstance(gate, Activation) and is_vector(state, memory):
            return gate
    return None


def _pairs(product: Expression) -> Iterator[tuple[Activation, Activation]]:
    """Yield both orders of a product of two activations."""
    if not isinstance(product, Product) or len(product.factors) != 2:
        return
    for a, b in (product.factors, product.factors[::-1]):
        if isinstance(a, Activation) and isinstance(b, Activation):
            yield a, b
