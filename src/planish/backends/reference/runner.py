"""The runner of reference kernels; `planish.runtime.external` imports it when an engine has one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from planish.backends.reference.kernel import KIND, graph_of
from planish.errors import PlanError
from planish.ops.interpreter import run_graph
from planish.runtime.external import ExternalRequest, Runner, register

Array = np.ndarray[Any, Any]


def make_reference_runner(request: ExternalRequest) -> Runner:
    """Return the function that runs the request's graph in numpy."""
    graph = graph_of(request.parameters, request.constants)

    def run(inputs: Sequence[Array], outputs: Sequence[Array | None]) -> Sequence[Array]:
        results = run_graph(graph, inputs)
        for name, result, view in zip(graph.output_names, results, outputs, strict=True):
            if view is None:
                continue
            if result.shape != view.shape or result.dtype != view.dtype:
                raise PlanError(
                    f"output {name} of a reference kernel is {result.dtype}{list(result.shape)}, "
                    f"the plan expects {view.dtype}{list(view.shape)}",
                    where=graph.name,
                )
            view[...] = result
        return results

    return run


register(KIND, make_reference_runner)
