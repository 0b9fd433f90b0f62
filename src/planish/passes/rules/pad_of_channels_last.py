"""Pad(channels_last(x), p) => channels_last(Pad(x, p'))."""

from __future__ import annotations

from collections.abc import Sequence

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule, integers_of, producer_in, sole_reader
from planish.passes.building import emit, finish, integers, transpose
from planish.passes.channels import (
    WINDOWS,
    shown_channels_last,
    to_channels_first,
    to_channels_last,
)
from planish.passes.matching import permutation


class PadOfChannelsLast(Rule):
    """Padding moves past a transpose, next to the window that can take it in."""

    name = (
        "Pad(channels_last(x), p) => channels_last(Pad(x, p')); "
        "Conv(channels_first(Pad(x, p))) => Conv(Pad(channels_first(x), p'))"
    )
    label = "view motion"
    roots = ("Pad", "Transpose")
    example = """
    graph example(%x: f32[1,3,4,5]) {
      @w: f32[2,3,1,1]
      @p: i64[8] = [0, 1, 2, 0, 0, 0, 1, 0]
      %1 = Conv(%x, @w) {kernel_shape=[1,1]}
      %2 = Transpose(%1) {perm=[0,2,3,1]}
      %3 = Pad(%2, @p)
      return %3
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        return _behind(node, graph) if node.op == "Transpose" else _in_front(node, graph)


def _in_front(pad: Node, graph: Graph) -> bool:
    x = shown_channels_last(pad.inputs[0], graph)
    if x is None:
        return False
    order = to_channels_first(x.rank)  # axis i of x is axis order[i] of what is padded
    padded = _padded(pad, graph, pad, x, order)
    if padded is None:
        return False
    return finish(pad, graph, transpose(graph, pad, padded, to_channels_last(x.rank)))


def _behind(node: Node, graph: Graph) -> bool:
    """Move a pad that only a window's operand needs behind the transpose in front of it."""
    pad, order = producer_in(node.inputs[0], graph, "Pad"), permutation(node)
    x = None if pad is None else pad.inputs[0]
    if pad is None or x is None or x.shape is None or x.rank not in (4, 5):
        return False
    reader = sole_reader(node.output, graph)
    if order != to_channels_first(x.rank) or reader is None or reader.op not in WINDOWS:
        return False
    if sole_reader(pad.output, graph) is None:
        return False
    padded = _padded(pad, graph, node, transpose(graph, node, x, order), order)
    return padded is not None and finish(node, graph, padded)


def _padded(pad: Node, graph: Graph, before: Node, x: Value, order: Sequence[int]) -> Value | None:
    """Return `x`, whose axis i is axis order[i] of the padded tensor, padded alike."""
    pads, rank = integers_of(pad.input(1)), x.rank
    if pads is None or pad.input(3) is not None or len(pads) != 2 * rank:
        return None
    turned = (*(pads[axis] for axis in order), *(pads[rank + axis] for axis in order))
    inputs = [x, integers(graph, *turned), pad.input(2)]
    return emit(graph, before, "Pad", inputs, pad.attributes, [pad])
