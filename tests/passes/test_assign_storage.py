from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planish.ir.graph import Graph, Value
from planish.ir.layout import Layout
from planish.ir.shape import Shape, evaluate
from planish.ops.interpreter import run_graph
from planish.passes.assign_layouts import AssignLayouts
from planish.passes.assign_storage import AssignStorage
from planish.passes.copies import is_copy
from planish.passes.fuse_regions import FuseRegions
from planish.passes.graph_pass import run_pipeline
from planish.tactics.region import regions_of
from tests.passes.checks import parse, random_inputs
from tests.passes.placed_graphs import GRAPHS
from tests.passes.test_assign_layouts import copies, place
from tests.plan.simulator import Simulator, assert_simulation, symbol_values


@pytest.mark.parametrize("point", [0, 1, 2])
@pytest.mark.parametrize("name", GRAPHS)
def test_every_address_is_right(name: str, point: int) -> None:
    graph = parse(GRAPHS[name])
    inputs = random_inputs(graph, seed=point, point=point)
    expected = run_graph(graph, inputs)
    run_pipeline(graph, [FuseRegions(), AssignLayouts(), AssignStorage()])
    assert_simulation(graph, inputs, expected)


@pytest.mark.parametrize("conditions", [(c, d) for c in (False, True) for d in (False, True)])
def test_every_branch_writes_the_result(conditions: tuple[bool, bool]) -> None:
    for name in ("branches_write_the_result", "nested_branches"):
        graph = parse(GRAPHS[name])
        inputs = random_inputs(graph)
        for index, value in enumerate(conditions[: len(inputs) - 1]):
            inputs[1 + index] = np.array(value)
        expected = run_graph(graph, inputs)
        run_pipeline(graph, [FuseRegions(), AssignLayouts(), AssignStorage()])
        assert_simulation(graph, inputs, expected)


def test_the_simulator_notices_a_wrong_address() -> None:
    graph, _ = place(GRAPHS["concat_of_convs_vanishes"])
    inputs = random_inputs(graph)
    expected = run_graph(graph, inputs)
    for name, offset in (("1", 112 + 6), ("2", 112)):  # the operands change places
        value = next(value for value in _values(graph) if value.name == name)
        assert value.storage is not None
        value.storage = replace(value.storage, offset=offset)
    with pytest.raises(AssertionError):
        assert_simulation(graph, inputs, expected)


def test_dense_block_lies_in_one_buffer() -> None:
    graph, _ = place(GRAPHS["dense_block_is_one_buffer"])
    roots = {
        node.outputs[0].storage.root
        for node in graph
        if node.outputs[0].storage is not None and node.outputs[0].name in ("0", "1", "2", "3", "4")
    }
    assert len(roots) == 1


def test_outputs_own_their_memory() -> None:
    for text in GRAPHS.values():
        graph, _ = place(text)
        roots = [value.storage.root for value in graph.outputs if value.storage is not None]
        assert roots == graph.outputs
        for value in graph.outputs:
            assert value.storage is not None
            assert value.storage.offset == 0
            wide = [axis for axis, dim in enumerate(value.known_shape) if dim != 1]
            dense = Layout.row_major(value.rank).strides(value.known_shape)
            assert [value.storage.strides[i] for i in wide] == [dense[i] for i in wide]


def test_the_detection_head_moves_nothing_but_its_inputs() -> None:
    graph, _ = place(GRAPHS["detection_head_writes_the_output"])
    assert [node.inputs[0] in graph.inputs for node in copies(graph)] == [True, True]


def test_a_concat_operand_is_copied_only_where_it_must_be() -> None:
    _, statistics = place(GRAPHS["concat_copies_inputs_and_repeats"])
    # %x twice, the repeated %1 twice (it is an output, too), the constant
    assert statistics[2].counts["copies into concats"] == 5
    _, statistics = place("""
        graph g(%x: f32[2,3], %y: f32[2,3]) {
          %1: f32[2,3] = Exp(%y)
          %2: f32[2,3] = Exp(%x)
          %3: f32[2,6] = Concat(%1, %2) {axis=1}
          %4: f32[4,3] = Concat(%1, %2) {axis=0}
          %5: f32[2,6] = Neg(%3)
          %6: f32[4,3] = Neg(%4)
          return %5, %6
        }""")
    assert statistics[2].counts["concat operands written in place"] == 2
    assert statistics[2].counts["copies into concats"] == 2


def test_shape_arithmetic_does_not_run() -> None:
    graph, _ = place(GRAPHS["expand_is_a_stride_of_zero"])
    assert all(node.outputs[0].dtype.is_float for node in regions_of(graph))


def test_storage_survives_any_extent() -> None:
    """Strides are polynomials in the symbols: the same at every size as numpy's."""
    graph, _ = place(GRAPHS["attention_heads_are_views"])
    view = next(value for value in _values(graph) if value.name == "kt")
    assert view.storage is not None
    for batch, length in ((1, 1), (2, 5)):
        sizes = {"B": batch, "S": length}
        assert _numbers(view.storage.strides, sizes) == (24 * length, 4, 1, 24)
        assert evaluate(view.storage.offset, sizes) == 8


def test_copies_are_marked_as_such() -> None:
    graph, _ = place(GRAPHS["outputs_do_not_alias"])
    assert sum(map(is_copy, regions_of(graph))) == 5


def test_simulated_symbols_come_from_the_inputs() -> None:
    graph, _ = place(GRAPHS["attention_heads_are_views"])
    inputs = random_inputs(graph, point=2)
    assert symbol_values(graph, inputs) == {"B": 2, "S": 5}
    assert Simulator.of(graph).plan.symbols == ("B", "S")


def _values(graph: Graph) -> list[Value]:
    return [value for node in graph for value in node.outputs]


def _numbers(dims: Shape, sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(evaluate(dim, sizes) for dim in dims)
