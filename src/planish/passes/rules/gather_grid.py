"""GatherND(x, grid of all indices) => Reshape(x)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule, integers_of, is_scalar, producer_in
from planish.ir.shape import Dim
from planish.passes.building import emit, finish, integers
from planish.passes.matching import reshape_target

VIEWS = ("Unsqueeze", "Reshape", "Expand", "Squeeze", "Flatten")


class GatherGrid(Rule):
    """Transformers index a [batch, sequence] mask with the grid of all its positions.

    The indices are a Concat of one Range per axis of x, each broadcast along the others' axes. If
    the ranges cover x and lie along increasing axes of the result, the result is x with axes of
    extent 1 between.
    """

    name = "GatherND(x, [Range(n0), Range(n1), ..]) => Reshape(x)"
    label = "view recognition"
    roots = ("GatherND",)
    example = """
    graph example(%x: f32[2,3]) {
      @zero: i64[] = [0]
      @one: i64[] = [1]
      @two: i64[] = [2]
      @three: i64[] = [3]
      @s0: i64[4] = [2, 1, 1, 1]
      @s1: i64[4] = [1, 1, 1, 3]
      @grid: i64[4] = [2, 1, 1, 3]
      @last: i64[1] = [-1]
      %r0 = Range(@zero, @two, @one)
      %r1 = Range(@zero, @three, @one)
      %a = Reshape(%r0, @s0)
      %b = Reshape(%r1, @s1)
      %c = Expand(%a, @grid)
      %d = Expand(%b, @grid)
      %e = Unsqueeze(%c, @last)
      %f = Unsqueeze(%d, @last)
      %g = Concat(%e, %f) {axis=-1}
      %1 = GatherND(%x, %g)
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, grid = node.inputs[0], producer_in(node.inputs[1], graph, "Concat")
        if x is None or x.shape is None or grid is None or node.attributes["batch_dims"]:
            return False
        if len(grid.inputs) != x.rank or grid.attributes["axis"] not in (-1, grid.output.rank - 1):
            return False
        axes = [
            _iota(value, extent) for value, extent in zip(grid.inputs, x.known_shape, strict=True)
        ]
        found = [axis for axis in axes if axis is not None]
        if len(found) < len(axes) or found != sorted(set(found)) or node.output.shape is None:
            return False
        # every axis of the result either walks along one axis of x or has extent 1
        rest = [d for axis, d in enumerate(node.output.known_shape) if axis not in found]
        if any(dim != 1 for dim in rest):
            return False
        target = reshape_target(x.known_shape, node.output.known_shape)
        if target is not None:
            shape = integers(graph, *target, stem=node.output.name)
            return finish(node, graph, emit(graph, node, "Reshape", [x, shape]))
        missing = [axis for axis in range(node.output.rank) if axis not in found]
        return finish(node, graph, emit(graph, node, "Unsqueeze", [x, integers(graph, *missing)]))


def _iota(value: Value | None, extent: Dim) -> int | None:
    """Return the axis along which `value` is 0, 1, .., extent - 1 and otherwise constant."""
    trail: list[Value] = []
    while value is not None:
        if value.is_constant:
            return _constant_iota(value, extent, trail)
        node = value.producer
        if node is None:
            return None
        trail.append(value)
        if node.op == "Range":
            return _range_iota(node, extent, trail)
        if node.op not in VIEWS:
            return None
        value = node.inputs[0]
    return None


def _range_iota(node: Node, extent: Dim, trail: list[Value]) -> int | None:
    start, _, step = node.inputs
    if not is_scalar(start, 0.0) or not is_scalar(step, 1.0):
        return None
    return _follow(trail, extent)


def _constant_iota(value: Value, extent: Dim, trail: list[Value]) -> int | None:
    numbers = integers_of(value)
    shape = value.known_shape
    if numbers is None or not isinstance(extent, int) or numbers != tuple(range(extent)):
        return None
    return _follow([*trail, value], extent) if extent in shape else None


def _follow(trail: list[Value], extent: Dim) -> int | None:
    """Return the axis of trail[0] along which the range at the end of `trail` runs.

    Between the range and the grid there are only reshapes that insert axes of extent 1, and
    expansions of those: the range's axis is the one with its extent, all others were 1 before.
    """
    axis: int | None = None
    for value in reversed(trail):
        shape = value.known_shape
        if value.producer is not None and value.producer.op == "Expand":
            source = value.producer.inputs[0]
            if axis is None or source is None or source.shape is None:
                return None
            axis += len(shape) - source.rank
            continue
        places = [position for position, dim in enumerate(shape) if dim != 1]
        if axis is not None and len(places) > 1:
            # only an axis in front or behind may have been added to an expanded tensor
            axis = _shifted(value, axis)
        elif len(places) == 1:
            axis = places[0]
        elif not places:
            axis = axis if axis is not None else (0 if shape else None)
        else:
            return None
        if axis is None or axis >= len(shape) or shape[axis] != extent:
            return None
    return axis


def _shifted(value: Value, axis: int) -> int | None:
    node = value.producer
    source = None if node is None else node.inputs[0]
    if source is None or source.shape is None or value.shape is None:
        return None
    if value.shape == (*source.shape, 1):
        return axis
    return axis + 1 if value.shape == (1, *source.shape) else None
