"""Where a rule's left side almost matches, nothing may happen."""

from __future__ import annotations

import pytest

from planish.ir.text import to_text
from planish.passes.apply_rules import ApplyRules
from planish.passes.rules import RULES
from tests.passes.checks import parse

RULE = {rule.__module__.rpartition(".")[2]: rule for rule in RULES}

REFUSALS = {
    "an output that is an input stays a value of its own": (
        "drop_identity",
        """
        graph g(%x: f32[2]) {
          %1 = Identity(%x)
          return %1
        }""",
    ),
    "a mask that is read": (
        "drop_dropout",
        """
        graph g(%x: f32[2]) {
          %1, %2 = Dropout(%x)
          %3 = Relu(%1)
          return %3, %2
        }""",
    ),
    "adding zeros that broadcast x": (
        "drop_neutral",
        """
        graph g(%x: f32[3]) {
          @zero: f32[2,3] = 0.0
          %1 = Add(%x, @zero)
          %2 = Relu(%1)
          return %2
        }""",
    ),
    "a reversed slice": (
        "drop_slice",
        """
        graph g(%x: f32[3]) {
          @start: i64[1] = [-1]
          @end: i64[1] = [-99]
          @axis: i64[1] = [0]
          @step: i64[1] = [-1]
          %1 = Slice(%x, @start, @end, @axis, @step)
          %2 = Relu(%1)
          return %2
        }""",
    ),
    "phases of a pixel grid that are shorter than the first": (
        "focus_into_conv",
        """
        graph g(%x: f32[1,1,3,2]) {
          @zero: i64[1] = [0]
          @one: i64[1] = [1]
          @end: i64[1] = [99]
          @last: i64[1] = [2]
          @axis: i64[1] = [2]
          @two: i64[1] = [2]
          @w: f32[2,2,1,1]
          %1 = Slice(%x, @zero, @last, @axis, @two)
          %2 = Slice(%x, @one, @end, @axis, @two)
          %3 = Concat(%1, %2) {axis=1}
          %4 = Conv(%3, @w)
          return %4
        }""",
    ),
    "every second pixel from behind the first two": (
        "focus_into_conv",
        """
        graph g(%x: f32[1,1,6,2]) {
          @zero: i64[1] = [0]
          @third: i64[1] = [3]
          @end: i64[1] = [99]
          @four: i64[1] = [4]
          @axis: i64[1] = [2]
          @two: i64[1] = [2]
          @w: f32[2,2,1,1]
          %1 = Slice(%x, @zero, @four, @axis, @two)
          %2 = Slice(%x, @third, @end, @axis, @two)
          %3 = Concat(%1, %2) {axis=1}
          %4 = Conv(%3, @w)
          return %4
        }""",
    ),
    "a convolution with a second reader": (
        "batch_norm_into_producer",
        """
        graph g(%x: f32[1,2,3,3]) {
          @w: f32[2,2,1,1]
          @s: f32[2] = 1.0
          %1 = Conv(%x, @w) {kernel_shape=[1,1]}
          %2 = BatchNormalization(%1, @s, @s, @s, @s)
          %3 = Add(%2, %1)
          return %3
        }""",
    ),
    "a scale that varies along the width": (
        "scale_into_linear",
        """
        graph g(%x: f32[1,2,3,3]) {
          @w: f32[2,2,1,1]
          @s: f32[3]
          %1 = Conv(%x, @w) {kernel_shape=[1,1]}
          %2 = Mul(%1, @s)
          return %2
        }""",
    ),
    "a shift in front of a padded convolution": (
        "shifted_input_into_linear",
        """
        graph g(%x: f32[1,2,3,3]) {
          @w: f32[2,2,3,3]
          @t: f32[2,1,1]
          %1 = Add(%x, @t)
          %2 = Conv(%1, @w) {kernel_shape=[3,3], pads=[1,1,1,1]}
          return %2
        }""",
    ),
    "padding of channels": (
        "pad_into_window",
        """
        graph g(%x: f32[1,2,3,3]) {
          @p: i64[8] = [0, 1, 0, 0, 0, 1, 0, 0]
          @w: f32[2,4,1,1]
          %1 = Pad(%x, @p)
          %2 = Conv(%1, @w) {kernel_shape=[1,1]}
          return %2
        }""",
    ),
    "zeros around a max pool of any numbers": (
        "pad_into_window",
        """
        graph g(%x: f32[1,2,3,3]) {
          @p: i64[8] = [0, 0, 1, 1, 0, 0, 1, 1]
          %1 = Pad(%x, @p)
          %2 = MaxPool(%1) {kernel_shape=[3,3]}
          return %2
        }""",
    ),
    "zeros around an average that does not count its own": (
        "pad_into_window",
        """
        graph g(%x: f32[1,2,3,3]) {
          @p: i64[8] = [0, 0, 1, 1, 0, 0, 1, 1]
          %1 = Pad(%x, @p)
          %2 = AveragePool(%1) {kernel_shape=[3,3], pads=[1,1,1,1]}
          return %2
        }""",
    ),
    "division by three": (
        "divide_by_constant",
        """
        graph g(%x: f32[2]) {
          @c: f32[] = 3.0
          %1 = Div(%x, @c)
          return %1
        }""",
    ),
    "a gelu with another constant": (
        "recognise_gelu",
        """
        graph g(%x: f32[2]) {
          @root: f32[] = 1.5
          @one: f32[] = 1.0
          @half: f32[] = 0.5
          %1 = Div(%x, @root)
          %2 = Erf(%1)
          %3 = Add(%2, @one)
          %4 = Mul(%x, %3)
          %5 = Mul(%4, @half)
          return %5
        }""",
    ),
    "a gelu of two tensors": (
        "recognise_gelu",
        """
        graph g(%x: f32[2], %y: f32[2]) {
          @root: f32[] = 1.4142135
          @one: f32[] = 1.0
          @half: f32[] = 0.5
          %1 = Div(%x, @root)
          %2 = Erf(%1)
          %3 = Add(%2, @one)
          %4 = Mul(%y, %3)
          %5 = Mul(%4, @half)
          return %5
        }""",
    ),
    "a sigmoid gate of something else": (
        "recognise_swish",
        """
        graph g(%x: f32[2], %y: f32[2]) {
          %1 = Sigmoid(%y)
          %2 = Mul(%x, %1)
          return %2
        }""",
    ),
    "a norm over an axis in the middle": (
        "recognise_layer_norm",
        """
        graph g(%x: f32[2,3,4]) {
          @axis: i64[1] = [1]
          @epsilon: f32[] = 0.00001
          %1 = ReduceMean(%x, @axis)
          %2 = Sub(%x, %1)
          %3 = Mul(%2, %2)
          %4 = ReduceMean(%3, @axis)
          %5 = Add(%4, @epsilon)
          %6 = Sqrt(%5)
          %7 = Div(%2, %6)
          return %7
        }""",
    ),
    "attention weights that are an output": (
        "recognise_attention",
        """
        graph g(%q: f32[1,2,3,4], %k: f32[1,2,4,3], %v: f32[1,2,3,4]) {
          %1 = MatMul(%q, %k)
          %2 = Softmax(%1)
          %3 = MatMul(%2, %v)
          return %3, %2
        }""",
    ),
    "a softmax over queries": (
        "recognise_attention",
        """
        graph g(%q: f32[1,2,3,4], %k: f32[1,2,4,3], %v: f32[1,2,3,4]) {
          %1 = MatMul(%q, %k)
          %2 = Softmax(%1) {axis=2}
          %3 = MatMul(%2, %v)
          return %3
        }""",
    ),
    "a grid that does not start at zero": (
        "gather_grid",
        """
        graph g(%x: f32[4]) {
          @one: i64[] = [1]
          @four: i64[] = [4]
          @last: i64[1] = [-1]
          %1 = Range(@one, @four, @one)
          %2 = Unsqueeze(%1, @last)
          %3 = Concat(%2) {axis=-1}
          %4 = GatherND(%x, %3)
          return %4
        }""",
    ),
    "a view of a graph input": (
        "pointwise_of_view",
        """
        graph g(%x: f32[2,3]) {
          %1 = Transpose(%x) {perm=[1,0]}
          %2 = Relu(%1)
          return %2
        }""",
    ),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_rule_refuses(reason: str) -> None:
    name, text = REFUSALS[reason]
    graph = parse(text)
    before = to_text(graph)
    assert not ApplyRules([RULE[name]]).run(graph)
    assert to_text(graph) == before
