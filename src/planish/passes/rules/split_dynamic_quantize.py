"""DynamicQuantizeLinear(x) => QuantizeLinear(x, range / 255, -lowest / scale)."""

from __future__ import annotations

import numpy as np

from planish.ir.dtypes import F32
from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule
from planish.passes.building import emit


class SplitDynamicQuantize(Rule):
    """Reductions find the range; pointwise operators make of it a scale and a zero point."""

    name = "DynamicQuantizeLinear(x) => QuantizeLinear(x, range / 255, -lowest / scale)"
    label = "canonical form"
    roots = ("DynamicQuantizeLinear",)
    example = """
    graph example(%x: f32[4,3]) {
      %1, %2, %3 = DynamicQuantizeLinear(%x)
      return %1, %2, %3
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x = node.present_inputs[0]
        if x.shape is None or x.dtype is not F32:
            return False

        def number(value: float) -> Value:
            return graph.constant(np.array(value, np.float32))

        def extreme(op: str, bound: str) -> Value:
            found = emit(graph, node, op, [x], {"keepdims": 0})
            return emit(graph, node, bound, [found, number(0)])

        low, high = extreme("ReduceMin", "Min"), extreme("ReduceMax", "Max")
        width = emit(graph, node, "Sub", [high, low])
        scale = emit(graph, node, "Div", [width, number(255)])
        is_wide = emit(graph, node, "Greater", [scale, number(0)])
        scale = emit(graph, node, "Where", [is_wide, scale, number(1)])
        one, none = number(1), graph.constant(np.zeros((), np.uint8))
        position = emit(graph, node, "Div", [emit(graph, node, "Neg", [low]), scale])
        zero = emit(graph, node, "QuantizeLinear", [position, one, none])
        quantized = emit(graph, node, "QuantizeLinear", [x, scale, zero])
        for output, result in zip(node.outputs, (quantized, scale, zero), strict=False):
            graph.replace_value(output, result)
        return True
