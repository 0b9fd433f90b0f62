"""Operands that do not fit are refused with the reason and the user's node."""

from __future__ import annotations

import pytest

from planish.errors import ShapeError
from planish.ops.infer import graph_from_text

REFUSED = {
    "Add broadcast": ("%y = Add(%x, %z)", "cannot be broadcast"),
    "Add types": ("%y = Add(%x, %i)", "different types"),
    "Where types": ("%y = Where(%m, %x, %i)", "selects between"),
    "Reshape size": ("%y = Reshape(%x, @a)", "cannot reshape"),
    "Reshape two rests": ("%y = Reshape(%x, @rests)", "more than one"),
    "Reshape copy": ("%y = Reshape(%x, @zeros)", "copies extent"),
    "Squeeze": ("%y = Squeeze(%x, @one)", "cannot squeeze"),
    "Unsqueeze": ("%y = Unsqueeze(%x, @twice)", "repeats an axis"),
    "Flatten": ("%y = Flatten(%x) {axis=3}", "out of range"),
    "Transpose": ("%y = Transpose(%x) {perm=[0,0]}", "no permutation"),
    "Expand": ("%y = Expand(%x, @a)", "cannot be broadcast"),
    "Concat": ("%y = Concat(%x, %z) {axis=0}", "cannot join"),
    "Concat types": ("%y = Concat(%x, %i) {axis=0}", "different types"),
    "Split": ("%y, %w = Split(%x, @five) {axis=1}", "cannot split"),
    "Pad": ("%y = Pad(%x, @one)", "pads each"),
    "Pad negative": ("%y = Pad(%x, @cut)", "negative extent"),
    "Tile": ("%y = Tile(%x, @one)", "repeats"),
    "Gather": ("%y = Gather(@a, @far)", "out of range"),
    "GatherND": ("%y = GatherND(%x, @tuple)", "address"),
    "ScatterND": ("%y = ScatterND(%x, @tuple, %i)", "cannot go into"),
    "TopK": ("%y, %p = TopK(%x, @five)", "cannot take"),
    "Dropout": ("%y = Dropout(%x, @half, @true)", "training mode"),
    "DepthToSpace": ("%y = DepthToSpace(%image) {blocksize=2}", "multiple of 4"),
    "QuantizeLinear": ("%y = QuantizeLinear(%x, @scales, @points)", "does not fit"),
    "Constant": ("%y = Constant()", "no value"),
}
OPERANDS = """
  @a: i64[3] = [4,5,6]  @rests: i64[2] = [-1,-1]  @zeros: i64[3] = [0,0,0]  @one: i64[1] = [1]
  @twice: i64[2] = [0,0]  @five: i64[1] = [5]  @cut: i64[4] = [-2,0,-1,0]  @far: i64[1] = [7]
  @tuple: i64[1,3] = [0,0,0]  @half: f32[] = [0.5]  @true: bool[] = [1]
  @scales: f32[5] = [1,1,1,1,1]  @points: i8[5] = [0,0,0,0,0]
"""


@pytest.mark.parametrize("name", REFUSED)
def test_misfits_are_refused(name: str) -> None:
    node, message = REFUSED[name]
    text = (
        "graph g(%x: f32[2,3], %z: f32[2,4], %i: i64[2,3], %m: bool[2,3], %image: f32[1,6,2,2]) {"
        f"{OPERANDS} {node}  # the.users.node\n return %y }}"
    )
    with pytest.raises(ShapeError, match=message) as error:
        graph_from_text(text)
    assert "the.users.node" in str(error.value)
