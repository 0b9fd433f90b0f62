"""Computes at build time what depends on constants only."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import static_shape
from planish.ops.interpreter import run_node
from planish.ops.op import OPS
from planish.passes.compressed import may_be_compressed
from planish.passes.graph_pass import GraphPass
from planish.passes.quantized import keeps_weight

GROWTH = 8  # a folded result may be this many times larger than what it was computed from,
FREE = 1 << 20  # or this many bytes, whichever is more


def may_be_weights(node: Node) -> bool:
    """Whether a DequantizeLinear of constants may stay one up to the kernels."""
    return keeps_weight(node) or may_be_compressed(node)


class FoldConstants(GraphPass):
    """Runs the operator's reference on constant operands, in execution order.

    Results that would blow the model up (Expand, Tile, ConstantOfShape of something large) stay
    computations, and so do random generators and nodes with subgraphs. A DequantizeLinear whose
    constant may become the weights of a quantized product, or compressed weights, is kept.

    Parameters
    ----------
    keeps : callable, optional
        Whether a node stays that could be folded.
    """

    name = "fold_constants"

    def __init__(self, keeps: Callable[[Node], bool] = may_be_weights) -> None:
        super().__init__()
        self.keeps = keeps

    def run(self, graph: Graph) -> bool:
        """Sweep once; a folded node's readers are folded in the same sweep."""
        modified = False
        for node in graph:
            if not _is_foldable(node, graph) or self.keeps(node):
                continue
            modified |= self._fold(node, graph)
        return modified

    def _fold(self, node: Node, graph: Graph) -> bool:
        inputs = [None if value is None else value.array for value in node.inputs]
        with np.errstate(all="ignore"):
            results = run_node(node, inputs)
        read = [output for output in node.outputs if output.uses]
        limit = _size_limit(node)
        if any(array.nbytes > limit for array in results if isinstance(array, np.ndarray)):
            return False
        for output, array in zip(node.outputs, results, strict=False):
            if output not in read:
                continue
            if not isinstance(array, np.ndarray):
                return False
            folded = graph.constant(array.astype(output.dtype.numpy, copy=False), output.name)
            folded.content = output.content
            graph.replace_value(output, folded)
        graph.remove(node)
        self.count("constant folding")
        return True


def _is_foldable(node: Node, graph: Graph) -> bool:
    operator = OPS.get(node.op)
    if operator is None or not operator.pure or node.op == "Region" or node.subgraphs:
        return False
    if not all(value.is_constant for value in node.present_inputs):
        return False
    # a graph's output stays a computed value: it needs memory that something writes
    if any(graph.is_output(output) for output in node.outputs):
        return False
    limit = _size_limit(node)
    return all(_bytes(output) <= limit for output in node.outputs)


def _size_limit(node: Node) -> int:
    operands = sum(value.array.nbytes for value in node.present_inputs)
    return max(GROWTH * operands, FREE)


def _bytes(value: Value) -> int:
    shape = None if value.shape is None else static_shape(value.shape)
    return 0 if shape is None else math.prod(shape) * value.dtype.itemsize
