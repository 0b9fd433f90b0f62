"""Conv(Pad(x, p, 0), w) => Conv(x, w, pads + p), and pooling likewise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule, integers_of, private_producer, producer_in
from planish.ops.convolution import resolve_padding
from planish.passes.building import emit, finish

NEVER_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softplus", "Abs", "Exp", "Softmax")


class PadIntoWindow(Rule):
    """Explicit constant padding of spatial axes becomes the window's own.

    Zeros for a convolution; zeros for an average pool, which then counts its padding; minus
    infinity for a max pool, or zeros where the padded tensor is never negative.
    """

    name = "Conv(Pad(x, p), w) => Conv(x, w, pads + p), MaxPool and AveragePool likewise"
    label = "padding folding"
    roots = ("Conv", "MaxPool", "AveragePool")
    example = """
    graph example(%x: f32[1,3,4,4]) {
      @p: i64[8] = [0, 0, 1, 0, 0, 0, 1, 2]
      @w: f32[2,3,3,3]
      %1 = Pad(%x, @p)
      %2 = Conv(%1, @w) {kernel_shape=[3,3], strides=[2,2]}
      return %2
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        pad = private_producer(node.inputs[0], graph, "Pad")
        if pad is None or len(node.outputs) != 1 or node.attributes.get("ceil_mode"):
            return False
        x, amounts = pad.inputs[0], _amounts(pad)
        if x is None or amounts is None or not _is_neutral(node, pad, x, graph, amounts):
            return False
        own = resolve_padding(node)
        before = [a + b for a, b in zip(own.begin, amounts[0][2:], strict=True)]
        after = [a + b for a, b in zip(own.end, amounts[1][2:], strict=True)]
        if not all(isinstance(amount, int) and amount >= 0 for amount in (*before, *after)):
            return False
        attributes = {**node.attributes, "auto_pad": "NOTSET", "pads": (*before, *after)}
        if node.op == "AveragePool":
            attributes["count_include_pad"] = 1  # the explicit zeros were counted
        inputs = [x, *node.inputs[1:]]
        return finish(node, graph, emit(graph, node, node.op, inputs, attributes, matched=[pad]))


def _amounts(pad: Node) -> tuple[Sequence[int], Sequence[int]] | None:
    """Return elements added before and after every axis, if the batch and channels get none."""
    pads, axes, x = integers_of(pad.input(1)), pad.input(3), pad.inputs[0]
    if pads is None or x is None or x.shape is None or pad.attributes["mode"] != "constant":
        return None
    rank = x.rank
    listed = tuple(range(rank)) if axes is None else integers_of(axes)
    if listed is None or rank < 3:
        return None
    before, after = [0] * rank, [0] * rank
    for position, axis in enumerate(listed):
        before[axis % rank] = pads[position]
        after[axis % rank] = pads[position + len(listed)]
    if any(before[:2]) or any(after[:2]) or min(*before, *after) < 0:
        return None
    return before, after


def _is_neutral(
    node: Node, pad: Node, x: Value, graph: Graph, amounts: tuple[Sequence[int], Sequence[int]]
) -> bool:
    """Whether what `pad` adds is what the window's own padding means."""
    given = pad.input(2)
    if given is not None and not given.is_constant:
        return False
    fill = 0.0 if given is None else float(np.asarray(given.array, np.float64).reshape(-1)[0])
    if node.op == "Conv":
        return fill == 0
    if node.op == "AveragePool":
        own = resolve_padding(node)
        return fill == 0 and (bool(node.attributes["count_include_pad"]) or own.is_zero)
    if not _every_window_touches_data(node, amounts):
        return False
    if fill == -np.inf or fill <= np.finfo(np.float32).min:
        return True
    return fill == 0 and producer_in(x, graph, *NEVER_NEGATIVE) is not None


def _every_window_touches_data(node: Node, amounts: tuple[Sequence[int], Sequence[int]]) -> bool:
    """Whether no window of a max pool lies in the padding alone (its maximum is undefined)."""
    kernel = node.attributes["kernel_shape"]
    own = resolve_padding(node)
    pairs = zip(kernel, own.begin, own.end, amounts[0][2:], amounts[1][2:], strict=True)
    return all(
        isinstance(b, int) and isinstance(a, int) and b + pb < taps and a + pa < taps
        for taps, b, a, pb, pa in pairs
    )
