"""Second moments of the inputs of matrix products, streamed over calibration data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.errors import ConfigError
from planish.ir.clone import clone_graph
from planish.ir.graph import Graph, Value
from planish.passes.dead_code import DeadCode
from planish.quantize.data import batch_axis, named, pieces
from planish.quantize.gptq import Hessian

if TYPE_CHECKING:
    from planish.quantize.calibrate import Workbench
    from planish.quantize.calibrators import Calibrator

Array = np.ndarray[Any, Any]

AT_ONCE = 32  # samples in one inference


class SecondMoments:
    """Runs the model and sums x x' over the rows x of some of its tensors.

    Parameters
    ----------
    graph : Graph
        Simplified; left as it is.
    values : sequence of Value
        Float tensors whose last extent is known.
    bench : Workbench
    """

    def __init__(self, graph: Graph, values: Sequence[Value], bench: Workbench) -> None:
        self._bench = bench
        self._keys = {value: f"moments.{i}" for i, value in enumerate(dict.fromkeys(values))}
        self._fed = {
            value: name
            for value, name in zip(graph.inputs, graph.input_names, strict=True)
            if value in self._keys
        }
        self._sums: dict[str, Array] = {}
        self._rows = dict.fromkeys(self._keys.values(), 0)
        computed = {v: key for v, key in self._keys.items() if v not in self._fed}
        self._engine = bench.engine(_with_outputs(graph, computed))

    def of(self, value: Value) -> Hessian:
        """Return the mean of x x' of one tensor."""
        key = self._keys[value]
        return Hessian(self._sums[key] / max(self._rows[key], 1))

    def collect(self, data: Calibrator) -> None:
        """Run every batch, or as many as the time allows.

        Raises
        ------
        ConfigError
            When there are no batches.
        InputError
            When a batch does not fit the model.
        """
        engine = self._engine
        axis = batch_axis(engine.inputs, engine.ranges, AT_ONCE)
        count = 0
        for batch in data.batches([info.name for info in engine.inputs]):
            where = f"calibration batch {count}"
            for piece in pieces(named(batch, engine.inputs, where), axis, where):
                results = engine.run(piece)
                for value, key in self._keys.items():
                    name = self._fed.get(value)
                    self._add(key, results[key] if name is None else piece[name])
            count += 1
            self._bench.progress(count, data.count, "measuring inputs of layers")
            if self._bench.stop():
                break
        if not count:
            raise ConfigError(
                "the calibration data are empty: there is no batch",
                where="planish.WeightOnly(method='gptq')",
                fix="give at least one batch; an iterator can be read only once, so give a list "
                "or a function that returns an iterator",
            )

    def _add(self, key: str, tensor: Array) -> None:
        rows = np.ascontiguousarray(tensor, np.float32).reshape(-1, tensor.shape[-1])
        if key not in self._sums:
            self._sums[key] = np.zeros((rows.shape[1], rows.shape[1]))
        self._sums[key] += rows.T @ rows
        self._rows[key] += len(rows)


def _with_outputs(graph: Graph, names: dict[Value, str]) -> Graph:
    """Return a copy of `graph` whose outputs are the values in `names`, if there are any."""
    copy = clone_graph(graph)
    if not names:
        return copy
    twins = {
        mine: other
        for node, twin in zip(graph, copy, strict=True)
        for mine, other in zip(node.outputs, twin.outputs, strict=True)
    }
    copy.outputs = [twins[value] for value in names]
    copy.output_names = list(names.values())
    DeadCode().run(copy)
    return copy
