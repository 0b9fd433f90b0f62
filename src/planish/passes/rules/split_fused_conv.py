"""FusedConv(x, w, b, z) => activation(Conv(x, w, b) + z)."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule
from planish.passes.building import constant, emit, finish

WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


class SplitFusedConv(Rule):
    """ONNX Runtime's fused convolution becomes primitives, which fusion puts together again."""

    name = "FusedConv(x, w, b, z) => activation(Conv(x, w, b) + z)"
    label = "canonical form"
    roots = ("com.microsoft.FusedConv",)
    example = """
    graph example(%x: f32[1,3,4,4], %z: f32[1,2,4,4]) {
      @w: f32[2,3,3,3]
      @b: f32[2]
      %1 = com.microsoft.FusedConv(%x, @w, @b, %z) {kernel_shape=[3,3], pads=[1,1,1,1],
        activation="Clip", activation_params=[0.0,0.5]}
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        attributes = {key: node.attributes[key] for key in WINDOW}
        result = emit(graph, node, "Conv", node.inputs[:3], attributes)
        addend = node.input(3)
        if addend is not None:
            result = emit(graph, node, "Add", [result, addend])
        return finish(node, graph, _activated(graph, node, result))


def _activated(graph: Graph, node: Node, x: Value) -> Value:
    kind = str(node.attributes["activation"])
    parameters = [float(number) for number in node.attributes["activation_params"]]
    if not kind:
        return x
    if kind == "Clip":
        bounds = [constant(graph, np.array(number), x) for number in parameters]
        return emit(graph, node, "Clip", [x, *bounds])
    names = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}.get(kind, ())
    return emit(graph, node, kind, [x], dict(zip(names, parameters, strict=False)))
