"""Conv(x, w) => Conv(x, w without the taps that only ever see padding)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.ops.convolution import window_of, without_dead_taps
from planish.passes.building import emit, finish


class DropDeadTaps(Rule):
    """Taps at a filter's rims that lie in the padding at every position contribute nothing.

    Dilated pyramids (DeepLab) have dilations wider than their maps: of such a 3x3 filter only the
    centre is left, and with it the wide padding goes away.
    """

    name = "Conv(x, w) => Conv(x, w without the taps that only see padding)"
    label = "dead taps"
    roots = ("Conv",)
    example = """
    graph example(%x: f32[1,3,5,8]) {
      @w: f32[2,3,3,3]
      %1 = Conv(%x, @w) {kernel_shape=[3,3], dilations=[6,6], pads=[6,6,6,6]}
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, weight = node.present_inputs[:2]
        if weight.constant is None or x.shape is None or node.output.shape is None:
            return False
        window = window_of(node)
        if window.padding.static is None:
            return False
        trimmed, kept = without_dead_taps(window, x.shape[2:], node.output.shape[2:])
        pads = (*trimmed.padding.begin, *trimmed.padding.end)
        if trimmed.kernel == window.kernel or any(
            not isinstance(pad, int) or pad < 0 for pad in pads
        ):
            return False
        smaller = graph.constant(weight.array[(slice(None), slice(None), *kept)].copy())
        attributes = {
            **node.attributes,
            "auto_pad": "NOTSET",
            "kernel_shape": trimmed.kernel,
            "pads": pads,
        }
        inputs = [x, smaller, *node.inputs[2:]]
        return finish(node, graph, emit(graph, node, "Conv", inputs, attributes))
