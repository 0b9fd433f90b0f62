"""QuantizeLinear(Relu(x), s, 0) => QuantizeLinear(x, s, 0) for u8: saturation clips."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule, private_producer, scalar_of
from planish.ops.quantize import LIMITS, quantize
from planish.passes.building import emit, finish


class DropClipBeforeQuantize(Rule):
    """Quantization saturates where the clip does, or before."""

    name = "QuantizeLinear(Clip(x, low, high), s, z) => QuantizeLinear(x, s, z)"
    label = "quantization motion"
    roots = ("QuantizeLinear",)
    example = """
    graph example(%x: f32[2,3]) {
      @s: f32[] = [0.0235]
      @z: u8[] = [0]
      @low: f32[] = [0.0]
      @high: f32[] = [6.0]
      %1 = Clip(%x, @low, @high)
      %2 = QuantizeLinear(%1, @s, @z)
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        clip = private_producer(node.inputs[0], graph, "Relu", "Clip")
        if clip is None or node.output.dtype not in LIMITS:
            return False
        bounds = _bounds(clip)
        if bounds is None:
            return False
        low, high = LIMITS[node.output.dtype]
        for bound, limit in zip(bounds, (low, high), strict=True):
            if bound is not None and _quantized(bound, node) != limit:
                return False
        inputs = [clip.inputs[0], *node.inputs[1:]]
        result = emit(graph, node, "QuantizeLinear", inputs, node.attributes, matched=[clip])
        return finish(node, graph, result)


def _bounds(clip: Node) -> tuple[float | None, float | None] | None:
    """Return the lower and the upper bound (None for no bound), or None if one is not known."""
    if clip.op == "Relu":
        return 0.0, None
    low, high = clip.input(1), clip.input(2)
    if (low is not None and scalar_of(low) is None) or (high is not None and not _known(high)):
        return None
    return scalar_of(low), scalar_of(high)


def _known(value: Value) -> bool:
    return scalar_of(value) is not None


def _quantized(bound: float, node: Node) -> int | None:
    """Return what `bound` is quantized to, or None where that is not one number."""
    scale, zero = node.inputs[1], node.input(2)
    if scale is None or scalar_of(scale) is None or scalar_of(scale) == 0:
        return None
    if zero is not None and scalar_of(zero) is None:
        return None
    offset = None if zero is None else zero.array.reshape(())
    x = np.array(bound, np.float32)
    return int(quantize(x, scale.array.reshape(()), offset, node.output.dtype))
