"""Graphs run by the interpreter as external steps of engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from planish.backends.reference.kernel import graph_of, reference_kernel
from planish.backends.reference.model import reference_plan
from planish.backends.reference.tactic import ReferenceTactic
from planish.engine.parts import EngineParts
from planish.errors import EngineFileError
from planish.ir.graph import Graph
from planish.ir.text import to_text
from planish.ops.infer import graph_from_text
from planish.ops.interpreter import run_graph
from planish.runtime.engine import Engine, load
from planish.tactics.region import make_region
from planish.tactics.target import Target

MLP = """
symbols N=(1, 2, 9)
graph mlp(%x: f32[N,16]) {
  @w: f32[16,12]
  @b: f32[12]
  %h = MatMul(%x, @w)
  %s = Add(%h, @b)
  %y = Relu(%s)
  return %y
}
"""

IF = """
graph choose(%c: bool[], %x: f32[20]) {
  %y: f32[20] = If(%c) {then_branch=graph then() {
    @k: f32[20]
    %t = Add(%x, @k)
    return %t
  }, else_branch=graph else() {
    @k: f32[20]
    %e = Mul(%x, @k)
    return %e
  }}
  return %y
}
"""

NONZERO = """
graph where(%x: f32[6]) {
  %y = NonZero(%x)
  return %y
}
"""


def engine_of(graph: Graph) -> Engine:
    plan, weights = reference_plan(graph)
    return Engine(EngineParts(plan, weights.memory(), None, to_text(graph)))


@pytest.fixture
def mlp() -> Graph:
    return graph_from_text(MLP)


def test_whole_model(mlp: Graph, tmp_path: Path):
    engine = engine_of(mlp)
    engine.save(tmp_path / "mlp.plan")
    loaded = load(tmp_path / "mlp.plan", allow_native_code=False)
    for rows in (1, 9):
        x = np.random.default_rng(rows).standard_normal((rows, 16)).astype(np.float32)
        np.testing.assert_array_equal(engine(x), run_graph(mlp, [x])[0])
        np.testing.assert_array_equal(loaded(x), engine(x))


def test_equal_labels_in_sibling_branches_keep_their_contents():
    graph = graph_from_text(IF)
    names = [value.name for value in graph.constants()]
    engine = engine_of(graph)
    x = np.linspace(1, 2, 20, dtype=np.float32)
    for condition in (True, False):
        c = np.array(condition)
        np.testing.assert_array_equal(engine(c, x), run_graph(graph, [c, x])[0])
    assert [value.name for value in graph.constants()] == names


def test_shapes_that_depend_on_data():
    engine = engine_of(graph_from_text(NONZERO))
    for x in ([0, 1, 0, 2, 3, 0], [0, 0, 0, 0, 0, 0]):
        array = np.array(x, np.float32)
        np.testing.assert_array_equal(engine(array), [np.flatnonzero(array)])


def test_an_output_that_is_the_input_is_a_copy():
    engine = engine_of(graph_from_text("graph id(%x: f32[3]) {\n  return %x\n}"))
    x = np.ones(3, np.float32)
    y = engine(x)
    x[:] = 2
    np.testing.assert_array_equal(y, [1, 1, 1])


def test_the_tactic_takes_any_region(mlp: Graph):
    region = make_region(mlp, "MatMul", ranges=mlp.ranges)
    tactic, target = ReferenceTactic(), Target("cpu", frozenset())
    assert tactic.supports(region, target)
    (config,) = tactic.configs(region, target)
    kernel = tactic.build(region, config, target)
    memories = [array.reshape(-1).view(np.uint8) for array in kernel.packed]
    x = np.ones((2, 16), np.float32)
    graph = graph_of(kernel.parameters, memories)
    np.testing.assert_array_equal(run_graph(graph, [x])[0], run_graph(mlp, [x])[0])


def test_damaged_parameters_are_refused(mlp: Graph):
    kernel = reference_kernel(mlp)
    for change in ({"graph": "graph ("}, {"constants": [["a", "f99", [1]]]}, {"strings": 5}):
        with pytest.raises(EngineFileError, match="reference kernel"):
            graph_of({**kernel.parameters, **change}, kernel.packed)
