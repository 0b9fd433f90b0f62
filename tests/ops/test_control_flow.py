"""If, Loop and Scan through inference and the interpreter, outer values included."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from planish.importers.importer import read_model
from planish.ir.graph import Graph
from planish.ir.shape import Dim, evaluate, symbol, symbols_of
from planish.ops.interpreter import run_graph

HEADER = '<ir_version: 8, opset_import: ["" : 18]>\n'


def both(text: str, inputs: dict[str, np.ndarray]) -> tuple[Graph, list[np.ndarray]]:
    """Compare the interpreter with ONNX Runtime; return the graph and the outputs."""
    model = parser.parse_model(HEADER + text)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = session.run(None, inputs)
    graph = read_model(model)
    got = run_graph(graph, [inputs[name] for name in graph.input_names])
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        assert a.dtype == b.dtype
    return graph, got


def unknown(dim: Dim) -> bool:
    return any(name.startswith("?") for name in symbols_of(dim))


BRANCHES = """
g (bool c, float[N, 4] x) => (float[N, 4] y, float[M] z) {
  y, z = If (c) <
    then_branch = a () => (float[N, 4] p, float[A] q) {
      p = Add (x, x)
      s = Constant <value_ints = [-1]> ()
      q = Reshape (x, s)
    },
    else_branch = b () => (float[N, 4] r, float[B] t) {
      r = Neg (x)
      t = Constant <value_floats = [1.0, 2.0]> ()
    }
  >
}"""


@pytest.mark.parametrize("condition", [True, False])
def test_if_reads_outer_values(condition: bool) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    graph, outputs = both(BRANCHES, {"c": np.array(condition), "x": x})
    assert outputs[1].shape == ((12,) if condition else (2,))
    first, second = graph.outputs
    assert first.known_shape == (symbol("N"), 4)  # alike in both branches
    assert unknown(second.known_shape[0])  # different: 4*N and 2


LOOP = """
g (int64 m, float[N] x, float[N] w) => (float[N] y, float[T, N] z) {
  c = Constant <value = bool {1}> ()
  y, z = Loop (m, c, x) <
    body = b (int64 i, bool k, float[N] v) => (bool k2, float[N] v2, float[N] e) {
      k2 = Identity (k)
      v2 = Mul (v, w)
      e = Add (v2, w)
    }
  >
}"""


@pytest.mark.parametrize("trips", [1, 4])
def test_loop_carries_and_stacks(trips: int) -> None:
    values = {
        "m": np.array(trips, np.int64),
        "x": np.array([1, 2, 3], np.float32),
        "w": np.array([0.5, 2, -1], np.float32),
    }
    graph, outputs = both(LOOP, values)
    assert outputs[1].shape == (trips, 3)
    carried, stacked = (value.known_shape for value in graph.outputs)
    assert carried == (symbol("N"),)
    assert unknown(stacked[0])  # m is data
    assert stacked[1] == symbol("N")


def test_loop_that_never_runs_keeps_the_elements_shape() -> None:
    """ONNX Runtime forgets the elements' extents here, so there is nothing to compare with."""
    graph = read_model(parser.parse_model(HEADER + LOOP))
    x = np.array([1, 2, 3], np.float32)
    carried, stacked = run_graph(graph, [np.array(0, np.int64), x, x])
    np.testing.assert_array_equal(carried, x)
    assert stacked.shape == (0, 3)


GROWING = """
g (float[N] x) => (float[M] y) {
  m = Constant <value_int = 3> ()
  c = Constant <value = bool {1}> ()
  y = Loop (m, c, x) <
    body = b (int64 i, bool k, float[P] v) => (bool k2, float[Q] v2) {
      k2 = Identity (k)
      v2 = Concat <axis = 0> (v, x)
    }
  >
}"""


def test_loop_with_growing_value_has_unknown_extent() -> None:
    graph, outputs = both(GROWING, {"x": np.array([1, 2], np.float32)})
    assert outputs[0].shape == (8,)
    assert unknown(graph.outputs[0].known_shape[0])


COUNTED = """
g (float[N] x) => (float[T, N] z) {
  m = Constant <value_int = 5> ()
  c = Constant <value = bool {1}> ()
  y, z = Loop (m, c, x) <
    body = b (int64 i, bool k, float[N] v) => (bool k2, float[N] v2, float[N] e) {
      k2 = Identity (k)
      v2 = Add (v, v)
      e = Identity (v)
    }
  >
}"""


def test_constant_trip_count_is_an_extent() -> None:
    graph, _ = both(COUNTED, {"x": np.array([1, 2], np.float32)})
    assert graph.outputs[0].known_shape == (5, symbol("N"))


SCAN = """
g (float[B, 3] s, float[B, T, 3] x) => (float[B, 3] y, float[B, T, 3] z) {
  y, z = Scan (s, x) <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
      scan_input_directions = [1],
    body = b (float[B, 3] a, float[B, 3] e) => (float[B, 3] a2, float[B, 3] o) {
      a2 = Add (a, e)
      o = Tanh (a2)
    }
  >
}"""


def test_scan_along_the_middle_axis() -> None:
    random = np.random.default_rng(0)
    inputs = {
        "s": random.standard_normal((2, 3)).astype(np.float32),
        "x": random.standard_normal((2, 5, 3)).astype(np.float32),
    }
    graph, outputs = both(SCAN, inputs)
    assert outputs[1].shape == (2, 5, 3)
    shape = graph.outputs[1].known_shape
    assert [evaluate(dim, {"B": 2, "T": 5}) for dim in shape] == [2, 5, 3]
