"""Reshape(Pad(x)) => Pad(Reshape(x)) where the reshape inserts or drops axes of extent 1."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, integers_of, private_producer, sole_reader
from planish.ir.shape import Dim, Shape
from planish.passes.building import emit, finish, integers
from planish.passes.matching import reshape_target

WINDOWS = ("Conv", "MaxPool", "AveragePool")


class PadBehindView(Rule):
    """TensorFlow pads a signal, then gives it a height of one: the pad moves next to the window.

    There `pad_into_window` takes it.
    """

    name = "Conv(Reshape(Pad(x, p)), w) => Conv(Pad(Reshape(x), p'), w)"
    label = "view motion"
    roots = ("Reshape", "Unsqueeze", "Squeeze")
    example = """
    graph example(%x: f32[1,3,6]) {
      @p: i64[6] = [0, 0, 1, 0, 0, 2]
      @axis: i64[1] = [2]
      @w: f32[2,3,1,3]
      %1 = Pad(%x, @p)
      %2 = Unsqueeze(%1, @axis)
      %3 = Conv(%2, @w) {kernel_shape=[1,3]}
      return %3
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        pad, reader = (
            private_producer(node.inputs[0], graph, "Pad"),
            sole_reader(node.output, graph),
        )
        if pad is None or reader is None or reader.op not in WINDOWS:
            return False
        x, pads = pad.inputs[0], integers_of(pad.input(1))
        if x is None or x.shape is None or pads is None or pad.input(3) is not None:
            return False
        if pad.attributes["mode"] != "constant" or node.output.shape is None or min(pads) < 0:
            return False
        places = _places(pad.output.known_shape, node.output.shape)
        rank, before, after = node.output.rank, pads[: x.rank], pads[x.rank :]
        padded = [axis for axis in range(x.rank) if before[axis] or after[axis]]
        if places is None or any(axis not in places for axis in padded):
            return False
        inner: list[Dim] = list(node.output.known_shape)
        moved = [0] * (2 * rank)
        for axis in padded:
            place = places[axis]
            inner[place] = x.known_shape[axis]
            moved[place], moved[rank + place] = before[axis], after[axis]
        target = reshape_target(x.known_shape, tuple(inner))
        if target is None:
            return False
        viewed = emit(graph, node, "Reshape", [x, integers(graph, *target)])
        inputs = [viewed, integers(graph, *moved), *pad.inputs[2:]]
        return finish(node, graph, emit(graph, node, "Pad", inputs, pad.attributes, [pad]))


def _places(a: Shape, b: Shape) -> dict[int, int] | None:
    """Return the axis of `b` for each axis of `a` above extent 1, None if they do not agree."""
    left = [axis for axis, dim in enumerate(a) if dim != 1]
    right = [axis for axis, dim in enumerate(b) if dim != 1]
    if [a[axis] for axis in left] != [b[axis] for axis in right]:
        return None
    return dict(zip(left, right, strict=True))
