"""What all contexts of an engine share on a GPU: kernels, weights, and the host's steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.engine.parts import DeviceCode, DeviceKernel
from planish.errors import PlanError
from planish.plan.plan import Plan, Step
from planish.runtime.cuda.driver import DeviceMemory, Function, device
from planish.runtime.cuda.libraries import LibraryCall, is_on_device
from planish.runtime.external import ExternalRequest, Runner, factory_of

Array = np.ndarray[Any, Any]
SLACK = 256  # bytes behind the weights that kernels may read


class Resident:
    """An engine's kernels and weights on the device.

    Attributes
    ----------
    plan : Plan
    weights : DeviceMemory
    workspace_bytes, counters : int
        What the most demanding kernel needs.
    """

    def __init__(self, plan: Plan, code: DeviceCode | None, weights: Array) -> None:
        device().use()
        self.plan = plan
        self._code = code
        self._host_weights = weights
        kernels = code.kernels if code else ()
        self._functions = [Function(k.cubin, k.entry, k.shared, k.warps) for k in kernels]
        self._runners: dict[int, Runner] = {}
        self._calls: dict[str, LibraryCall] = {}
        for index, step in enumerate(plan.steps):
            if step.external is None:
                continue
            if is_on_device(plan, step):
                self._calls[step.name] = self._made(step)
            else:
                self._runners[index] = self._made(step)
        needed = [k.workspace_bytes for k in kernels]
        needed += [call.workspace_bytes for call in self._calls.values()]
        self.workspace_bytes = max(needed, default=0)
        self.counters = max((k.counters for k in kernels), default=0)
        self.weights = DeviceMemory(weights.nbytes + SLACK)
        if weights.nbytes:
            self.weights.write(weights)

    def kernel(self, step: Step) -> tuple[Function, DeviceKernel]:
        """Return the loaded kernel of a step and what its launch has to know."""
        name = step.function or ""
        if self._code is None or name not in self._code.functions:
            raise PlanError("a step has no kernel", where=step.name)
        position = self._code.functions[name]
        return self._functions[position], self._code.kernels[position]

    def call(self, step: Step) -> LibraryCall | None:
        """Return a library's operation, None for a step with a kernel."""
        return self._calls.get(step.name)

    def runner(self, index: int) -> Runner:
        """Return what runs a step on the host."""
        return self._runners[index]

    def _made(self, step: Step) -> Any:
        kind, parameters = self.plan.externals[step.external or 0]
        constants = []
        for binding in step.bindings[len(step.operands) :]:
            if binding.space != "weights" or not isinstance(binding.offset, int):
                raise PlanError("a packed constant is not in the weights", where=step.name)
            constants.append(self._host_weights[binding.offset :])
        request = ExternalRequest(parameters, tuple(constants), step.operands, step.outputs, 1)
        return factory_of(kind)(request)
