"""Brings quantized tensors to where they are read, as the last step before fusion.

- Every reader of a DequantizeLinear whose region can dequantize gets one of its own. It then fuses
  into each of them, so that the tensor between two regions is the integer one.
- Where a reader wants floats from memory, what computes the tensor dequantizes it right behind
  QuantizeLinear, in front of views.
- A DequantizeLinear of a constant is computed now, unless it makes the weights of a quantized
  product, which stay integers, or weights of few bits that kernels decode (compressed.py).
"""

from __future__ import annotations

from planish.ir.dtypes import F8E4M3
from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import private_producer, producer_in, remove_dead, sole_reader
from planish.passes.building import emit
from planish.passes.compressed import is_compressed_product, keeps_compressed
from planish.passes.fold_constants import FoldConstants
from planish.passes.fuse_regions import takes_narrow
from planish.passes.graph_pass import GraphPass
from planish.passes.quantized import (
    DEQUANTIZE,
    QUANTIZE,
    RESHAPING,
    is_constant_dequantize,
    is_kept_weight,
    is_single,
)


class SettleQuantized(GraphPass):
    """Gives every reader its own DequantizeLinear, and folds what stays no weight.

    Parameters
    ----------
    decodes : bool
        Whether the device has kernels that decode compressed weights.
    small_floats : bool
        Whether it has kernels that multiply floats of eight bits.
    """

    name = "settle_quantized"

    def __init__(self, decodes: bool = True, small_floats: bool = False) -> None:
        super().__init__()
        self.decodes = decodes
        self.small_floats = small_floats

    def run(self, graph: Graph) -> bool:
        """Copy, then fold: weights may have a reader that multiplies floats."""
        modified = False
        for node in graph:
            if node.op == DEQUANTIZE and not self._is_folded(node):
                modified |= self._spread(node, graph)
        for node in graph:
            if node.op == DEQUANTIZE:
                modified |= self._raise(node, graph)
        fold = FoldConstants(keeps=lambda node: not self._is_folded(node))
        return fold.run(graph) or modified

    def _spread(self, node: Node, graph: Graph) -> bool:
        """Give each reader that dequantizes itself a copy of `node`; the others share it."""
        value = node.output
        own = [use for use in value.uses if use[0].graph is graph and self._takes_narrow(*use)]
        if len(own) == len(value.uses) and not graph.is_output(value):
            own = own[1:]
        for reader, index in own:
            reader.replace_input(index, _copy(node, graph))
            self.count("dequantized for each reader")
        return bool(own)

    def _takes_narrow(self, node: Node, index: int) -> bool:
        decodes = self.decodes and index == 1 and is_compressed_product(node)
        return decodes or takes_narrow(node, index)

    def _is_folded(self, node: Node) -> bool:
        if not is_constant_dequantize(node):
            return False
        is_multiplied = self.small_floats or node.present_inputs[0].dtype is not F8E4M3
        if is_multiplied and is_kept_weight(node):
            return False
        return not (self.decodes and keeps_compressed(node))

    def _raise(self, node: Node, graph: Graph) -> bool:
        """Move `node` in front of the views between it and its QuantizeLinear."""
        reader = sole_reader(node.output, graph)
        if reader is None or takes_narrow(reader, reader.inputs.index(node.output)):
            return False
        views, value = _views_before(node, graph)
        source = producer_in(value, graph, QUANTIZE)
        if not views or source is None or sole_reader(value, graph) is None:
            return False
        if not all(is_single(parameter) for parameter in node.inputs[1:]):
            return False
        real = emit(graph, node, DEQUANTIZE, [value, *node.inputs[1:]], node.attributes)
        for view in views:
            real = emit(graph, node, view.op, [real, *view.inputs[1:]], view.attributes, [view])
        graph.replace_value(node.output, real)
        remove_dead(node, graph)
        self.count("dequantized before views")
        return True


def _views_before(node: Node, graph: Graph) -> tuple[list[Node], Value]:
    """Return the views in front of a DequantizeLinear, first to last, and what they view."""
    views: list[Node] = []
    value = node.present_inputs[0]
    while (view := private_producer(value, graph, *RESHAPING)) is not None:
        views.insert(0, view)
        value = view.present_inputs[0]
    return views, value


def _copy(node: Node, graph: Graph) -> Value:
    old = node.output
    result = graph.new_value(old.dtype, old.shape, old.name)
    copy = Node(DEQUANTIZE, node.inputs, [result], node.attributes, node.source)
    graph.insert_after(node, copy)
    return result
