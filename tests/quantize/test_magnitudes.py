"""What is known of a model's numbers without data: certain bounds, and estimates near the truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from planish.ir.graph import Graph, Value
from planish.ops.interpreter import run_graph
from planish.quantize.magnitudes import Numbers, magnitudes
from tests.passes.checks import parse

Array = np.ndarray[Any, Any]

NETWORK = """
graph network(%x: f32[4,3,12,12]) {
  @w0: f32[16,3,3,3]
  @b0: f32[16]
  @w1: f32[16,1,3,3]
  @w2: f32[24,16,1,1]
  @low: f32[] = 0.0
  @high: f32[] = 6.0
  @scale: f32[24]
  @shift: f32[24]
  @flat: i64[3] = [4, 24, 144]
  @w3: f32[24,24]
  @half: f32[] = 0.5
  %a = Conv(%x, @w0, @b0) {pads=[1,1,1,1]}
  %b = Clip(%a, @low, @high)
  %c = Conv(%b, @w1) {group=16, pads=[1,1,1,1]}
  %d = Swish(%c)
  %e = Conv(%d, @w2)
  %f = Sigmoid(%e)
  %g = Mul(%e, %f)
  %h = Reshape(%g, @flat)
  %i = Transpose(%h) {perm=[0,2,1]}
  %j = LayerNormalization(%i, @scale, @shift)
  %k = MatMul(%j, @w3)
  %l = Transpose(%k) {perm=[0,2,1]}
  %m = MatMul(%k, %l)
  %n = Mul(%m, @half)
  %o = Softmax(%n) {axis=-1}
  %p = MatMul(%o, %k)
  %q = Add(%p, %k)
  %r = ReduceMean(%q)
  return %r
}"""


def float_values(graph: Graph) -> list[Value]:
    return [v for node in graph for v in node.outputs if v.dtype.is_float]


def run(graph: Graph, x: Array) -> dict[Value, Array]:
    values, outputs = float_values(graph), list(graph.outputs)
    graph.outputs = values
    results = dict(zip(values, run_graph(graph, [x]), strict=True))
    graph.outputs = outputs
    return results


@pytest.mark.parametrize("size", [1.0, 60.0])
def test_bounds_hold_and_estimates_are_near(size: float) -> None:
    graph = parse(NETWORK)
    x = size * np.random.default_rng(5).standard_normal((4, 3, 12, 12)).astype(np.float32)
    results, found = run(graph, np.clip(x, -255, 255)), magnitudes(graph)
    for value, array in results.items():
        known, amax = found[value], float(np.abs(array).max())
        assert known.low - 1e-3 <= array.min(), value
        assert array.max() <= known.high + 1e-3, value
        if size == 1.0:
            assert amax / 4 < known.likely < 30 * amax, value


def numbers_of(text: str) -> Numbers:
    graph = parse(text)
    return magnitudes(graph)[graph.outputs[0]]


def one(body: str, inputs: str = "%x: f32[2,8]") -> Numbers:
    return numbers_of(f"graph g({inputs}) {{\n{body}\n  return %y\n}}")


def test_certain_bounds() -> None:
    assert one("  %y = Sigmoid(%x)").high == pytest.approx(1.0)
    assert one("  %y = Tanh(%x)").low == pytest.approx(-1.0)
    assert one("  %y = Relu(%x)").low == 0
    assert one("  %y = Softmax(%x)").largest == 1
    scale = ", ".join(["3.0"] * 8)
    known = one(f"  @s: f32[8] = [{scale}]\n  %y = RMSNormalization(%x, @s)")
    assert known.largest == pytest.approx(3 * math.sqrt(8))
    pixels = one("  @w: f32[1,3,1,1] = [1.0, -2.0, 3.0]\n  %y = Conv(%x, @w)", "%x: f32[1,3,4,4]")
    assert pixels.largest == pytest.approx(6 * 255)
    assert pixels.likely == pytest.approx(4 * math.sqrt(14), rel=1e-3)


def test_nothing_is_said_of_what_is_not_known() -> None:
    assert math.isnan(one("  %z = CumSum(%x, @a)\n  %y = Exp(%z)\n".replace(
        "  %z", "  @a: i64[] = 0\n  %z", 1)).likely)  # fmt: skip
    ids = one("  @t: f32[9,4]\n  %y = Gather(@t, %x)", "%x: i64[2,3]")
    assert 0 < ids.largest < 10  # rows of a table are bounded by the table


def test_functions_of_unbounded_tensors_have_no_invented_bounds() -> None:
    known = one("  @h: f32[] = 0.5\n  %z = Exp(%x)\n  %y = Mul(%z, @h)")
    assert known.high == math.inf
    assert known.low == pytest.approx(0.0, abs=1e-6)
