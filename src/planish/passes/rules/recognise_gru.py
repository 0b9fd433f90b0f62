"""Loop over time of a GRU cell => GRU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule
from planish.passes.cell_expressions import (
    Activation,
    Affine,
    Complement,
    Difference,
    Expression,
    Product,
    Sum,
)
from planish.passes.recurrence import (
    Array,
    Recurrence,
    activation_attributes,
    is_vector,
    recurrence_of,
    replace_loop,
)


@dataclass(frozen=True)
class _Cell:
    """h' = update * h + (1 - update) * candidate, or with `swapped` the other way round."""

    update: Activation
    candidate: Activation
    swapped: bool


class RecogniseGru(Rule):
    """A gated recurrent unit, its reset gate before or after the recurrent product."""

    name = (
        "Loop over t: h = z * h + (1 - z) * tanh(x[t] W + b + r * (h R + d)) => GRU(x, W, R, b, h)"
    )
    label = "GRU"
    roots = ("Loop",)
    stage = "recurrent"
    example = """
    graph example(%x: f32[5,2,3], %h: f32[2,1]) {
      @steps: i64[] = [5]
      %last, %all = Loop(@steps, _, %h) {body=graph body(%n: i64[], %going: bool[], %h0: f32[2,1]) {
        @w: f32[3,3] = [0.1, 0.2, 0.3, 0.4, -0.5, 0.6, 0.7, -0.8, 0.9]
        @r: f32[1,3] = [0.1, -0.2, 0.3]
        @b: f32[3] = [0.5, -0.5, 0.25]
        @d: f32[3] = [-0.5, 0.75, 0.5]
        @one: f32[] = 1.0
        %still = Identity(%going)
        %step = Gather(%x, %n) {axis=0}
        %1 = MatMul(%step, @w)
        %2 = Add(%1, @b)
        %xz, %xr, %xh = Split(%2) {axis=1, num_outputs=3}
        %3 = MatMul(%h0, @r)
        %4 = Add(%3, @d)
        %hz, %hr, %hh = Split(%4) {axis=1, num_outputs=3}
        %5 = Add(%xz, %hz)
        %z = Sigmoid(%5)
        %6 = Add(%xr, %hr)
        %reset = Sigmoid(%6)
        %7 = Mul(%reset, %hh)
        %8 = Add(%xh, %7)
        %candidate = Tanh(%8)
        %9 = Mul(%z, %h0)
        %10 = Sub(@one, %z)
        %11 = Mul(%10, %candidate)
        %new = Add(%9, %11)
        %copy = Identity(%new)
        return %still, %new, %copy
      }}
      return %last, %all
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        found = recurrence_of(node, graph, 1)
        cell = None if found is None else _cell(found.result(0), found.states[0])
        if found is None or cell is None:
            return False
        new = found.result(0)
        if any(found.reader.read(value) is not new for value in found.stacked):
            return False
        candidate = _candidate(found, cell.candidate.argument)
        update = cell.update.argument
        if cell.swapped and isinstance(update, Affine) and cell.update.name == "Sigmoid":
            update = update.scaled(-1)  # 1 - sigmoid(a) = sigmoid(-a)
        elif cell.swapped:
            return False
        z = found.parts(update, found.reader.read(found.states[0]))
        if z is None or candidate is None or candidate.reset.kind != cell.update.kind:
            return False
        return _replace(found, graph, z, candidate, cell)


@dataclass(frozen=True)
class _Candidate:
    """The candidate's own gate, its recurrent bias, and the reset gate."""

    gate: tuple[Array, Array, Array]
    recurrent_bias: Array
    reset: Activation
    linear: bool


def _replace(
    found: Recurrence,
    graph: Graph,
    z: tuple[Array, Array, Array],
    candidate: _Candidate,
    cell: _Cell,
) -> bool:
    r = found.parts(candidate.reset.argument, found.reader.read(found.states[0]))
    if r is None:
        return False
    gates = (z, r, candidate.gate)
    zeros = np.zeros_like(z[2])
    weights = (
        np.concatenate([w.T for w, _, _ in gates]),
        np.concatenate([recurrence.T for _, recurrence, _ in gates]),
        np.concatenate([*(bias for _, _, bias in gates), zeros, zeros, candidate.recurrent_bias]),
    )
    attributes = {
        **activation_attributes([cell.update, cell.candidate]),
        "linear_before_reset": int(candidate.linear),
    }
    return replace_loop(found, graph, "GRU", weights, attributes)


def _cell(new: Expression, state: Value) -> _Cell | None:
    """Return the update gate and the candidate of a new state."""
    if not isinstance(new, Sum) or len(new.parts) != 2:
        return None
    for a, b in (new.parts, new.parts[::-1]):
        found = _blend(a, b, state) or _step_towards(a, b, state)
        if found is not None:
            return found
    return None


def _blend(kept: Expression, added: Expression, state: Value) -> _Cell | None:
    """Match z * h + (1 - z) * g, and (1 - z) * h + z * g."""
    if not isinstance(kept, Product) or not isinstance(added, Product):
        return None
    if len(kept.factors) != 2 or len(added.factors) != 2:
        return None
    for z, h in (kept.factors, kept.factors[::-1]):
        for rest, g in (added.factors, added.factors[::-1]):
            if not is_vector(h, state) or not isinstance(g, Activation):
                continue
            if isinstance(z, Activation) and isinstance(rest, Complement) and rest.argument is z:
                return _Cell(z, g, False)
            if isinstance(z, Complement) and z.argument is rest and isinstance(rest, Activation):
                return _Cell(rest, g, True)
    return None


def _step_towards(g: Expression, step: Expression, state: Value) -> _Cell | None:
    """Match g + z * (h - g), and h + z * (g - h)."""
    if not isinstance(step, Product) or len(step.factors) != 2:
        return None
    for z, difference in (step.factors, step.factors[::-1]):
        if not isinstance(difference, Difference) or not isinstance(z, Activation):
            continue
        if difference.right is not g:
            continue
        if is_vector(difference.left, state) and isinstance(g, Activation):
            return _Cell(z, g, False)
        if is_vector(g, state) and isinstance(difference.left, Activation):
            return _Cell(z, difference.left, True)
    return None


def _candidate(found: Recurrence, argument: Expression) -> _Candidate | None:
    state = found.reader.read(found.states[0])
    if isinstance(argument, Affine):
        return _reset_before(found, argument, state)
    if not isinstance(argument, Sum) or len(argument.parts) != 2:
        return None
    for own, product in (argument.parts, argument.parts[::-1]):
        if not isinstance(own, Affine) or not isinstance(product, Product):
            continue
        if len(product.factors) != 2:
            continue
        for reset, inner in (product.factors, product.factors[::-1]):
            parts = found.parts(own, state)
            recurrent = found.parts(inner, state)
            if not isinstance(reset, Activation) or parts is None or recurrent is None:
                continue
            if parts[1].any() or recurrent[0].any():
                continue  # each product on its own side of the reset gate
            gate = (parts[0], recurrent[1], parts[2])
            return _Candidate(gate, recurrent[2], reset, True)
    return None


def _reset_before(found: Recurrence, argument: Affine, state: Expression) -> _Candidate | None:
    """Match x W + (r * h) R + b."""
    products = [vector for vector in argument.terms if isinstance(vector, Product)]
    if len(products) != 1 or len(products[0].factors) != 2:
        return None
    for reset, h in (products[0].factors, products[0].factors[::-1]):
        if h is not state or not isinstance(reset, Activation):
            continue
        terms = {state if key is products[0] else key: m for key, m in argument.terms.items()}
        if len(terms) != len(argument.terms):
            return None  # the state takes part beside the reset state
        gate = found.parts(Affine(terms, argument.bias), state)
        if gate is not None:
            return _Candidate(gate, np.zeros_like(gate[2]), reset, False)
    return None
