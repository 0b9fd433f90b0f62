"""GatherND(x, grid of all indices) => Reshape(x)."""

from __future__ import annotations

from dataclasses import dataclass

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule, integers_of, is_scalar, producer_in
from planish.ir.shape import Dim
from planish.passes.building import emit, finish, integers
from planish.passes.extents import extents_before
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
        walks = [_iota(value) for value in grid.inputs]
        found = [walk for walk in walks if walk is not None]
        axes = [walk.axis for walk in found]
        if len(found) < len(walks) or axes != sorted(set(axes)) or node.output.shape is None:
            return False
        # every axis of the result either walks along one axis of x or has extent 1
        rest = [d for axis, d in enumerate(node.output.known_shape) if axis not in axes]
        if any(dim != 1 for dim in rest):
            return False
        covered = _covered(node, graph, x, found)
        shape = extents_before(graph, node, node.output.known_shape)
        target = reshape_target(covered.known_shape, node.output.known_shape)
        if target is not None:
            shape = integers(graph, *target, stem=node.output.name)
        if shape is None:
            return False
        return finish(node, graph, emit(graph, node, "Reshape", [covered, shape]))


@dataclass(frozen=True)
class _Walk:
    """A tensor that counts 0, 1, .., extent - 1 along `axis` and is constant along the others."""

    axis: int
    extent: Dim
    limit: Value | None


def _covered(node: Node, graph: Graph, x: Value, walks: list[_Walk]) -> Value:
    """Return the leading part of `x` that the walks cover: all of it, as far as is known."""
    for axis, (walk, extent) in enumerate(zip(walks, x.known_shape, strict=True)):
        if walk.extent == extent:
            continue
        # two symbols that are equal in every sensible run (the batch of two inputs)
        end = integers(graph, walk.extent) if isinstance(walk.extent, int) else None
        if end is None and walk.limit is not None:
            end = emit(graph, node, "Reshape", [walk.limit, integers(graph, 1)])
        x = emit(graph, node, "Slice", [x, integers(graph, 0), end, integers(graph, axis)])
    return x


def _iota(value: Value | None) -> _Walk | None:
    """Return how `value` counts, if it is made of one Range or constant by views only."""
    trail: list[Value] = []
    while value is not None:
        if value.is_constant:
            return _constant_iota(value, trail)
        node = value.producer
        if node is None:
            return None
        trail.append(value)
        if node.op == "Range":
            return _range_iota(node, trail)
        if node.op not in VIEWS:
            return None
        value = node.inputs[0]
    return None


def _range_iota(node: Node, trail: list[Value]) -> _Walk | None:
    start, limit, step = node.inputs
    if not is_scalar(start, 0.0) or not is_scalar(step, 1.0):
        return None
    extent = node.output.known_shape[0]
    axis = _follow(trail, extent)
    return None if axis is None else _Walk(axis, extent, limit)


def _constant_iota(value: Value, trail: list[Value]) -> _Walk | None:
    numbers = integers_of(value)
    if numbers is None or numbers != tuple(range(len(numbers))):
        return None
    axis = _follow([*trail, value], len(numbers))
    return None if axis is None else _Walk(axis, len(numbers), None)


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
