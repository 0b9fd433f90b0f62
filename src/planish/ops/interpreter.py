"""The numpy interpreter: runs any graph with the operators' references. It is the oracle."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from planish.errors import GraphError, InputError, PlanishError
from planish.ir.graph import Graph, Node, Value
from planish.ops.infer import OPERAND_ERRORS
from planish.ops.op import Array, op_of

OnValue = Callable[[Value, Array], None]


def run_graph(
    graph: Graph, inputs: Sequence[Array], on_value: OnValue | None = None
) -> list[Array]:
    """Return the outputs of `graph` for `inputs` (in the order of `graph.inputs`).

    Parameters
    ----------
    graph : Graph
        Any graph, before or after fusion.
    inputs : sequence of numpy.ndarray
        One array a graph input; dtypes must be the graph's.
    on_value : callable, optional
        Called with every computed value and its array, subgraphs included (calibration, debug).

    Raises
    ------
    InputError
        When the number of inputs or a dtype is wrong.
    """
    _check_inputs(graph, inputs)
    return _Interpreter(on_value).run(graph, inputs, {})


def run_node(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    """Return the outputs of `node` for arrays (None where an optional input is absent).

    Values of outer graphs that its subgraphs read must be constants.
    """
    return _Interpreter(None).evaluate(node, inputs, {})


class _Interpreter:
    """One run: the callback, and for each graph which values die after which node."""

    def __init__(self, on_value: OnValue | None) -> None:
        self._on_value = on_value
        self._lifetimes: weakref.WeakKeyDictionary[Graph, list[list[Value]]]
        self._lifetimes = weakref.WeakKeyDictionary()

    def run(self, graph: Graph, inputs: Sequence[Array], outer: dict[Value, Array]) -> list[Array]:
        environment = dict(outer)
        for value, array in zip(graph.inputs, inputs, strict=True):
            environment[value] = array
        for node, dying in zip(graph, self._dying_after(graph), strict=True):
            arrays = [None if v is None else _lookup(v, environment, node) for v in node.inputs]
            results = self.evaluate(node, arrays, environment)
            for value, array in zip(node.outputs, results, strict=True):
                environment[value] = array
                if self._on_value is not None:
                    self._on_value(value, array)
            for value in dying:
                environment.pop(value, None)
        return [_lookup(value, environment, None) for value in graph.outputs]

    def evaluate(
        self, node: Node, arrays: Sequence[Array | None], environment: dict[Value, Array]
    ) -> list[Array]:
        def run(graph: Graph, inputs: Sequence[Array]) -> list[Array]:
            return self.run(graph, inputs, {} if node.op == "Region" else environment)

        try:
            results = op_of(node).evaluate(node, arrays, run)
        except PlanishError:
            raise
        except OPERAND_ERRORS as error:
            shapes = [None if a is None else f"{a.dtype}{list(a.shape)}" for a in arrays]
            raise GraphError(
                f"{node.op} cannot be evaluated: {type(error).__name__}: {error}",
                where=f"{node} on {shapes}",
            ) from error
        if len(results) < len(node.outputs):
            raise GraphError(f"{node.op} gave {len(results)} outputs", where=str(node))
        return [_as_array(result) for result in results[: len(node.outputs)]]

    def _dying_after(self, graph: Graph) -> list[list[Value]]:
        if graph not in self._lifetimes:
            self._lifetimes[graph] = _dying_values(graph)
        return self._lifetimes[graph]


def _dying_values(graph: Graph) -> list[list[Value]]:
    """Return, for each node of `graph`, the values of this graph that nothing reads after it."""
    own = {value for node in graph for value in node.outputs} | set(graph.inputs)
    last: dict[Value, int] = {}
    for index, node in enumerate(graph):
        for value in (*_reads(node), *node.outputs):
            if value in own:
                last[value] = index
    kept = set(graph.outputs)
    dying: list[list[Value]] = [[] for _ in range(len(graph))]
    for value, index in last.items():
        if value not in kept:
            dying[index].append(value)
    return dying


def _reads(node: Node) -> list[Value]:
    """Return what `node` reads, values captured by its subgraphs included."""
    values = node.present_inputs
    for graph in node.subgraphs:
        for inner in graph:
            values += _reads(inner)
        values += graph.outputs
    return values


def _lookup(value: Value, environment: dict[Value, Array], node: Node | None) -> Array:
    if value.constant is not None:
        return value.constant.array
    if value not in environment:
        raise GraphError(f"%{value.name} has no contents yet", where=str(node))
    return environment[value]


def _as_array(result: Any) -> Any:
    """Return numpy scalars as arrays; sequences (lists) pass as they are."""
    return np.asarray(result) if isinstance(result, (np.generic, int, float, bool)) else result


def _check_inputs(graph: Graph, inputs: Sequence[Array]) -> None:
    if len(inputs) != len(graph.inputs):
        raise InputError(
            f"the graph has {len(graph.inputs)} inputs, got {len(inputs)}",
            where=f"graph {graph.name}",
            fix=f"give one array for each of {', '.join(graph.input_names)}",
        )
    for value, array in zip(graph.inputs, inputs, strict=True):
        if array.dtype != value.dtype.numpy and array.dtype.kind not in "OUS":
            raise InputError(
                f"input {value.name} has dtype {array.dtype}, expected {value.dtype.numpy}",
                where=f"graph {graph.name}",
                fix=f"convert it with .astype({value.dtype.numpy})",
            )
