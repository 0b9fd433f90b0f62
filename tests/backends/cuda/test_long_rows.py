"""The general GPU kernels beyond the samples' sizes: rows of several chunks, NaN, wide states."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from planish.backends.cuda.device import detect
from planish.backends.cuda.tactics import discover
from planish.ir.dtypes import dtype_of
from planish.ir.graph import Graph, Node
from planish.ops.infer import infer_node
from planish.ops.interpreter import run_graph
from planish.ops.numeric import random_array
from planish.ops.op import OPS
from planish.ops.tolerance import mismatch, tolerance_of
from planish.tactics.region import make_region
from planish.tactics.tactic import Region, TritonKernel
from tests.backends.cuda.interpreter import interpret

pytest.importorskip("triton")

TARGET = detect("sm_90")
LONG = 2500  # more than two chunks
Arrays = list[np.ndarray]


def _region(
    op: str, inputs: Arrays, constants: Arrays, attributes: Mapping[str, object], outputs: int
) -> Region:
    graph = Graph("long")
    values = []
    for index, array in enumerate(inputs):
        dtype = graph.constant(array).dtype
        values.append(graph.add_input(f"x{index}", dtype, array.shape))
    operands = [*values, *(graph.constant(array) for array in constants)]
    results = [graph.new_value(values[0].dtype, None, f"y{index}") for index in range(outputs)]
    node = graph.append(Node(op, operands, results, {**OPS[op].attributes, **attributes}))
    infer_node(node)
    for result in results:
        graph.add_output(result)
    return make_region(graph, op)


def _case(
    tactic: str,
    op: str,
    inputs: Arrays,
    constants: Arrays | None = None,
    outputs: int = 1,
    **attributes: object,
) -> tuple[str, TritonKernel, Region, Arrays]:
    region = _region(op, inputs, constants or [], attributes, outputs)
    chosen = next(each for each in discover() if each.name == tactic)
    support = chosen.supports(region, TARGET)
    assert support, f"{op}: {support.reason}"
    kernel = chosen.build(region, chosen.configs(region, TARGET)[0], TARGET)
    assert isinstance(kernel, TritonKernel)
    return op, kernel, region, inputs


def _cases() -> list[tuple[str, TritonKernel, Region, Arrays]]:
    rows, image = random_array(1, 3, LONG), random_array(2, 1, 4, 40, 50) + np.float32(5)
    last, first = np.array([-1]), np.array(0)
    vector, four = random_array(3, LONG), random_array(4, 4)
    whole = np.arange(3 * LONG, dtype=np.int64).reshape(3, LONG) % 1000
    holes = random_array(5, 2, 300).round(1)
    holes[0, 7] = holes[0, 200] = holes[1, 0] = np.nan
    hidden, steps = 40, 3
    weights = [random_array(6, 1, 160, 30), random_array(7, 1, 160, hidden) / np.float32(4)]
    return [
        _case("triton_reduce", "ReduceSum", [rows], [last]),
        _case("triton_reduce", "ReduceLogSumExp", [rows * 30], [last]),
        _case("triton_reduce", "ReduceSum", [whole], [np.array([0, 1])]),
        _case("triton_reduce", "ReduceMax", [rows.T.copy()], [first.reshape(1)]),
        _case("triton_reduce", "ArgMin", [rows], axis=1),
        _case("triton_reduce", "ArgMax", [whole], axis=1, select_last_index=1),
        _case("triton_row_norm", "Softmax", [rows]),
        _case("triton_row_norm", "LayerNormalization", [rows + 9], [vector, vector], 3),
        _case("triton_row_norm", "InstanceNormalization", [image], [four, four]),
        _case("triton_row_norm", "GroupNormalization", [image], [four, four], num_groups=2),
        _case("triton_cumulative", "CumSum", [rows], [np.array(1)]),
        _case("triton_cumulative", "CumSum", [whole], [np.array(1)], reverse=1, exclusive=1),
        _case("triton_top_k", "TopK", [holes], [np.array([40])], 2),
        _case("triton_top_k", "TopK", [holes], [np.array([300])], 2, largest=0),
        _case("triton_recurrent", "LSTM", [random_array(8, steps, 1, 30)], weights, 3,
              hidden_size=hidden),
    ]  # fmt: skip


def test_rows_of_several_chunks() -> None:
    cases = _cases()
    results = interpret([(kernel, region, inputs, {}) for _, kernel, region, inputs in cases])
    problems = []
    for (op, _, region, inputs), outputs in zip(cases, results, strict=True):
        assert not isinstance(outputs, str), f"{op}: {outputs}"
        for got, expected in zip(outputs, run_graph(region.body, inputs), strict=True):
            tolerance = tolerance_of(dtype_of(np.asarray(expected)))
            problem = mismatch(got, np.asarray(expected), tolerance)
            problems += [] if problem is None else [f"{op}: {problem}"]
    assert not problems, "\n".join(problems)
