"""Loop over time of activation(x W + h R + b) => RNN."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.passes.cell_expressions import Activation
from planish.passes.recurrence import activation_attributes, recurrence_of, replace_loop


class RecogniseRnn(Rule):
    """A simple recurrent layer, however its cell is written."""

    name = "Loop over t: h = f(x[t] W + h R + b) => RNN(x, W, R, b, h)"
    label = "RNN"
    roots = ("Loop",)
    stage = "recurrent"
    example = """
    graph example(%x: f32[5,2,3], %h: f32[2,2]) {
      @steps: i64[] = [5]
      %last, %all = Loop(@steps, _, %h) {body=graph body(%i: i64[], %go: bool[], %h0: f32[2,2]) {
        @w: f32[3,2] = [0.1, 0.2, 0.3, 0.4, -0.5, 0.6]
        @r: f32[2,2] = [0.1, 0.2, -0.3, 0.4]
        @b: f32[2] = [0.5, -0.25]
        %still = Identity(%go)
        %step = Gather(%x, %i) {axis=0}
        %1 = MatMul(%step, @w)
        %2 = MatMul(%h0, @r)
        %3 = Add(%1, %2)
        %4 = Add(%3, @b)
        %new = Tanh(%4)
        %copy = Identity(%new)
        return %still, %new, %copy
      }}
      return %last, %all
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        found = recurrence_of(node, graph, 1)
        if found is None:
            return False
        (state,) = found.states
        new = found.result(0)
        if not isinstance(new, Activation):
            return False
        gate = found.parts(new.argument, found.reader.read(state))
        if gate is None or any(found.reader.read(value) is not new for value in found.stacked):
            return False
        w, r, bias = gate
        weights = (w.T, r.T, np.concatenate([bias, np.zeros_like(bias)]))
        return replace_loop(found, graph, "RNN", weights, activation_attributes([new]))
