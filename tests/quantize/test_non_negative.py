"""Signs are read off the operators, and only where they are sure."""

from __future__ import annotations

import pytest

from planish.quantize.non_negative import is_non_negative
from tests.passes.checks import parse

CASES = {
    "relu": ("Relu(%x)", True),
    "plain": ("Tanh(%x)", False),
    "clip": ("Clip(%x, @zero, @six)", True),
    "clip_below_zero": ("Clip(%x, @minus)", False),
    "clip_from_above": ("Clip(%x, _, @six)", False),
    "max": ("Max(%x, @zero)", True),
    "sum": ("Add(%r, @six)", True),
    "sum_with_negative": ("Add(%r, @minus)", False),
    "sum_with_any": ("Add(%r, %x)", False),
    "moved": ("Transpose(%r)", True),
    "joined": ("Concat(%r, %r) {axis=1}", True),
    "joined_with_any": ("Concat(%r, %x) {axis=1}", False),
    "padded": ("Pad(%r, @p)", True),
    "padded_with_negative": ("Pad(%r, @p, @minus)", False),
    "pooled": ("MaxPool(%r) {kernel_shape=[2,2]}", True),
    "linear": ('Resize(%r, _, @s) {mode="linear"}', True),
    "cubic": ('Resize(%r, _, @s) {mode="cubic"}', False),
}


@pytest.mark.parametrize(("expression", "expected"), CASES.values(), ids=CASES)
def test_signs(expression: str, expected: bool) -> None:
    graph = parse(f"""
    graph signs(%x: f32[1,2,4,4]) {{
      @zero: f32[] = [0.0]
      @six: f32[] = [6.0]
      @minus: f32[] = [-1.0]
      @p: i64[8] = [0,0,1,1,0,0,1,1]
      @s: f32[4] = [1.0,1.0,2.0,2.0]
      %r = Relu(%x)
      %y = {expression}
      return %y
    }}""")
    assert is_non_negative(graph.outputs[0]) is expected


def test_long_chains_are_given_up() -> None:
    lines = "\n".join(f"%v{k + 1} = Identity(%v{k})" for k in range(100))
    graph = parse(f"graph chain(%x: f32[2]) {{\n%v0 = Relu(%x)\n{lines}\nreturn %v100\n}}")
    assert not is_non_negative(graph.outputs[0])
