"""Multiplies all steps of a sequence by a matrix at once, in front of the loop over its steps.

MatMul(x[t], W) in a loop that runs over every t becomes (x W)[t]: one large product instead of
many small ones. Recurrent cells that are no LSTM, GRU or RNN (masked ones, for instance) keep the
recurrent half of their work only.
"""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ops.content import contents
from planish.passes.building import emit
from planish.passes.graph_pass import GraphPass
from planish.passes.native_loops import is_counted, is_native_loop
from planish.passes.recurrence import direction_of, is_step


class HoistProjections(GraphPass):
    """Moves products of a loop's elements with constant matrices out of the loop."""

    name = "hoist_projections"

    def run(self, graph: Graph) -> bool:
        """Go over the loops of one graph."""
        modified = False
        for node in graph:
            if node.op != "Loop" or is_native_loop(node) or not is_counted(node):
                continue
            for inner in list(node.body):
                if inner.op == "MatMul" and _is_projection(inner, node):
                    _hoist(inner, node, graph)
                    self.count("projections of all steps")
                    modified = True
        return modified


def _is_projection(product: Node, loop: Node) -> bool:
    element, matrix = product.present_inputs
    step, count = element.producer, contents(loop.input(0))
    if step is None or step.graph is not loop.body or matrix.constant is None or matrix.rank != 2:
        return False
    if count is None or not is_step(step, loop.body):
        return False
    source, index = step.present_inputs
    axis = int(step.attributes["axis"]) % source.rank
    whole = axis < 2 and source.known_shape[axis] == count[0]
    return whole and direction_of(index, loop.body, count[0]) is not None


def _hoist(product: Node, loop: Node, graph: Graph) -> None:
    element, matrix = product.present_inputs
    step = element.producer
    if step is None:
        return
    source, index = step.present_inputs
    every = emit(graph, loop, "MatMul", [source, matrix])
    part = emit(loop.body, product, "Gather", [every, index], {"axis": step.attributes["axis"]})
    loop.body.replace_value(product.output, part)
    loop.body.remove(product)
