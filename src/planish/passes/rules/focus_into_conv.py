"""Conv(Concat(x[dy::s, dx::s], ..), w) => Conv(x, w's taps interleaved, stride s)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule, integers_of, private_producer, producer_in
from planish.ops.convolution import resolve_padding
from planish.passes.building import constant, emit, finish

SLICES = 4  # in a row that one operand may be made by


class FocusIntoConv(Rule):
    """The stem of YOLO networks moves each block of pixels into channels and convolves that.

    A convolution of the pixels themselves, with a window and a stride as many times as large, reads
    the same products; nothing has to be moved.
    """

    name = "Conv(Concat(x[dy::s, dx::s], ..), w) => Conv(x, interleaved w, s times the stride)"
    label = "slice folding"
    roots = ("Conv",)
    example = """
    graph example(%x: f32[1,1,4,6]) {
      @zero: i64[2] = [0, 0]
      @low: i64[2] = [1, 0]
      @right: i64[2] = [0, 1]
      @both: i64[2] = [1, 1]
      @end: i64[2] = [99, 99]
      @axes: i64[2] = [2, 3]
      @two: i64[2] = [2, 2]
      @w: f32[2,4,2,1]
      %1 = Slice(%x, @zero, @end, @axes, @two)
      %2 = Slice(%x, @low, @end, @axes, @two)
      %3 = Slice(%x, @right, @end, @axes, @two)
      %4 = Slice(%x, @both, @end, @axes, @two)
      %5 = Concat(%1, %2, %3, %4) {axis=1}
      %6 = Conv(%5, @w) {kernel_shape=[2,1], pads=[1,0,0,0]}
      return %6
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        weight, attributes = node.inputs[1], node.attributes
        concat = private_producer(node.inputs[0], graph, "Concat")
        if concat is None or concat.attributes["axis"] not in (1, -3):
            return False
        if weight is None or weight.constant is None or weight.rank != 4:
            return False
        if attributes["group"] != 1 or any(d != 1 for d in attributes["dilations"] or ()):
            return False
        phases = [_phase_of(value, graph) for value in concat.present_inputs]
        found = [phase for phase in phases if phase is not None]
        pads = resolve_padding(node).static
        if len(found) != len(phases) or not found or pads is None:
            return False
        first = found[0]
        if any(each.source is not first.source or each.steps != first.steps for each in found):
            return False
        pairs = list(zip(pads, first.steps, strict=True))
        larger = {
            **attributes,
            "auto_pad": "NOTSET",
            "kernel_shape": _times(weight.array.shape[2:], first.steps),
            "strides": _times(attributes["strides"] or (1, 1), first.steps),
            "pads": (*(p[0] * s for p, s in pairs), *(p[1] * s for p, s in pairs)),
        }
        weights = constant(graph, _interleaved(weight.array, found), weight)
        inputs = [first.source, weights, *node.inputs[2:]]
        return finish(node, graph, emit(graph, node, "Conv", inputs, larger, matched=[concat]))


@dataclass(frozen=True)
class _Phase:
    """Every steps[i]-th element of two spatial axes of `source`, from starts[i] on."""

    source: Value
    starts: tuple[int, int]
    steps: tuple[int, int]


def _phase_of(value: Value, graph: Graph) -> _Phase | None:
    """Follow slices of spatial axes upwards; None when the phase is not a whole one."""
    starts, steps, current = [0, 0], [1, 1], value
    for _ in range(SLICES):
        node = producer_in(current, graph, "Slice")
        if node is None or node.inputs[0] is None:
            break
        begin, axes = integers_of(node.input(1)), integers_of(node.input(3))
        if begin is None or axes is None:
            return None
        jumps = (1,) * len(axes) if node.input(4) is None else integers_of(node.input(4))
        for start, axis, step in zip(begin, axes, jumps or (0,) * len(axes), strict=True):
            if axis % 4 < 2 or step < 1 or start < 0:
                return None
            spatial = axis % 4 - 2
            starts[spatial] = start + step * starts[spatial]
            steps[spatial] *= step
        current = node.inputs[0]
    if current.rank != 4 or steps == [1, 1] or value.shape is None or current.shape is None:
        return None
    for axis in (2, 3):
        if value.shape[axis] * steps[axis - 2] != current.shape[axis]:
            return None
    if any(start >= step for start, step in zip(starts, steps, strict=True)):
        return None
    return _Phase(current, (starts[0], starts[1]), (steps[0], steps[1]))


def _times(numbers: tuple[int, ...], steps: tuple[int, int]) -> tuple[int, ...]:
    return tuple(number * step for number, step in zip(numbers, steps, strict=True))


def _interleaved(weight: np.ndarray, phases: list[_Phase]) -> np.ndarray:
    """Return the taps at the places of the pixels that they are multiplied with."""
    outputs, depth, height, width = weight.shape
    channels = depth // len(phases)
    rows, columns = phases[0].steps
    result = np.zeros((outputs, channels, height * rows, width * columns), weight.dtype)
    for index, phase in enumerate(phases):
        taps = weight[:, index * channels : (index + 1) * channels]
        result[:, :, phase.starts[0] :: rows, phase.starts[1] :: columns] += taps
    return result
