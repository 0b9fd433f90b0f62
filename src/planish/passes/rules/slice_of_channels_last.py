"""Slice(channels_last(x)) => channels_last(Slice(x)), Split likewise."""

from __future__ import annotations

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule, integers_of, same_type
from planish.passes.building import emit, emit_many, finish, integers, transpose
from planish.passes.channels import shown_channels_last, to_channels_last


class SliceOfChannelsLast(Rule):
    """Cutting an image moves past a transpose: the same cut of the axes in front of it."""

    name = "Slice(channels_last(x)) => channels_last(Slice(x)), Split likewise"
    label = "view motion"
    roots = ("Slice", "Split")
    example = """
    graph example(%x: f32[1,3,4,5]) {
      @w: f32[2,3,1,1]
      @from: i64[2] = [1, 0]
      @to: i64[2] = [4, 3]
      @axes: i64[2] = [1, -2]
      %1 = Conv(%x, @w) {kernel_shape=[1,1]}
      %2 = Transpose(%1) {perm=[0,2,3,1]}
      %3 = Slice(%2, @from, @to, @axes)
      return %3
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x = shown_channels_last(node.inputs[0], graph)
        if x is None:
            return False
        return _split(node, graph, x) if node.op == "Split" else _slice(node, graph, x)


def _slice(node: Node, graph: Graph, x: Value) -> bool:
    order = to_channels_last(x.rank)
    axes = integers_of(node.input(3)) if node.input(3) is not None else tuple(range(x.rank))
    if axes is None or len(axes) > x.rank:
        return False
    if node.input(3) is None and node.inputs[1] is not None:
        axes = axes[: _length(node.inputs[1])]
    moved = integers(graph, *(order[axis % x.rank] for axis in axes))
    inputs = [x, *node.inputs[1:3], moved, node.input(4)]
    cut = emit(graph, node, "Slice", inputs)
    return finish(node, graph, transpose(graph, node, cut, order))


def _length(vector: Value) -> int:
    extent = vector.known_shape[0]
    return extent if isinstance(extent, int) else 0


def _split(node: Node, graph: Graph, x: Value) -> bool:
    order = to_channels_last(x.rank)
    attributes = {**node.attributes, "axis": order[int(node.attributes["axis"]) % x.rank]}
    inputs = [x, *node.inputs[1:]]
    parts = emit_many(graph, node, "Split", inputs, len(node.outputs), attributes)
    shown = [transpose(graph, node, part, order) for part in parts]
    if not all(same_type(a, b) for a, b in zip(shown, node.outputs, strict=True)):
        return False
    for old, new in zip(node.outputs, shown, strict=True):
        graph.replace_value(old, new)
    return True
