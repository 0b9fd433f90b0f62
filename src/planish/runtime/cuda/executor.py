"""The execution of a plan on a GPU: all its kernels in one CUDA graph, replayed with one call.

The graph is recorded once for each context and set of shapes. Callers' arrays are staged in
pinned memory (host) or copied on the device, because a graph's addresses are fixed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from planish.engine.parts import DeviceCode
from planish.errors import PlanError
from planish.ir.dtypes import dtype_by_name
from planish.ir.shape import evaluate
from planish.plan.plan import Binding, Plan, TensorInfo
from planish.runtime.cuda.driver import (
    DeviceMemory,
    Event,
    Function,
    Graph,
    PinnedMemory,
    Stream,
    binding,
    check,
    device,
)
from planish.runtime.shapes import BoundShapes

Array = np.ndarray[Any, Any]
MAX_GRAPHS = 64  # sets of shapes whose graphs a context keeps
ALIGNMENT = 256


class CudaContext:
    """The memory of one inference under way. One thread uses a context at a time."""

    def __init__(self, plan: Plan, code: DeviceCode, weights: DeviceMemory) -> None:
        self.stream = Stream()
        self.arena = DeviceMemory(plan.arena_bytes + ALIGNMENT)
        self.workspace = DeviceMemory(max((k.workspace_bytes for k in code.kernels), default=0))
        self.counters = DeviceMemory(4 * max((k.counters for k in code.kernels), default=0))
        self.counters.fill_zero()
        self.weights = weights
        self.inputs = [_Staged(info, plan) for info in plan.inputs]
        self.outputs = [_Staged(info, plan) for info in plan.outputs]
        self.graphs: dict[tuple[tuple[str, int], ...], Graph] = {}
        self.binding: BoundShapes | None = None

    def bind(self, bound: BoundShapes) -> None:
        """Choose the shapes of the next inference."""
        self.binding = bound

    def address(self, binding_: Binding, symbols: Any) -> int:
        """Return where a binding points."""
        offset = evaluate(binding_.offset, symbols)
        if binding_.space == "arena":
            return self.arena.address + offset
        if binding_.space == "weights":
            return self.weights.address + offset
        staged = self.inputs if binding_.space == "input" else self.outputs
        return staged[binding_.index].memory.address + offset


class _Staged:
    """A public tensor's place on the device, and pinned memory to copy through."""

    def __init__(self, info: TensorInfo, plan: Plan) -> None:
        largest = {name: bounds[2] for name, bounds in plan.ranges.items()}
        dtype = dtype_by_name(info.dtype)
        self.info = info
        self.itemsize = dtype.itemsize
        size = 1
        for dim in info.shape:
            size *= evaluate(dim, largest)
        self.memory = DeviceMemory(size * dtype.itemsize)
        self.pinned = PinnedMemory(size * dtype.itemsize)


class CudaExecutor:
    """Runs one plan on one GPU; used by any number of threads, each with its own context.

    Parameters
    ----------
    plan : Plan
    code : DeviceCode
    weights : array
        Bytes of the packed constants.
    """

    def __init__(self, plan: Plan, code: DeviceCode, weights: Array) -> None:
        device().use()
        self._plan, self._code = plan, code
        self._functions = [Function(k.cubin, k.entry, k.shared, k.warps) for k in code.kernels]
        self._index = {name: position for name, position in code.functions.items()}
        self._host_weights = weights
        self._weights: DeviceMemory | None = None
        self._lock = threading.Lock()
        if any(step.external is not None for step in plan.steps):
            raise PlanError("a step of the plan does not run on the GPU")

    def create_context(self) -> CudaContext:
        """Return fresh memory for one inference at a time."""
        device().use()
        with self._lock:
            if self._weights is None:
                self._weights = DeviceMemory(self._host_weights.nbytes + ALIGNMENT)
                self._weights.write(self._host_weights)
        return CudaContext(self._plan, self._code, self._weights)

    def run(
        self, context: CudaContext, inputs: Sequence[Array], outputs: list[Array | None]
    ) -> None:
        """Run one inference on host arrays."""
        device().use()
        for staged, array in zip(context.inputs, inputs, strict=True):
            staged.pinned.array[: array.nbytes] = array.reshape(-1).view(np.uint8)
        self._graph(context).launch(context.stream)
        context.stream.synchronize()
        for staged, output in zip(context.outputs, outputs, strict=True):
            if output is not None:
                output.reshape(-1).view(np.uint8)[:] = staged.pinned.array[: output.nbytes]

    def run_timed(
        self, context: CudaContext, inputs: Sequence[Array], outputs: list[Array | None],
        times: Array,
    ) -> None:  # fmt: skip
        """Run one inference and add the nanoseconds of every step to `times` (uint64)."""
        device().use()
        self.run(context, inputs, outputs)
        symbols = self._symbols(context)
        events = [Event() for _ in range(len(self._plan.steps) + 1)]
        events[0].record(context.stream)
        for index in range(len(self._plan.steps)):
            self._launch(context, index, symbols)
            events[index + 1].record(context.stream)
        context.stream.synchronize()
        for index in range(len(self._plan.steps)):
            elapsed = events[index + 1].milliseconds_since(events[index])
            times[index] += int(elapsed * 1e6)

    # -- recording -------------------------------------------------------------------------------

    def _graph(self, context: CudaContext) -> Graph:
        symbols = self._symbols(context)
        key = tuple(sorted(symbols.items()))
        graph = context.graphs.get(key)
        if graph is not None:
            return graph
        if len(context.graphs) >= MAX_GRAPHS:
            context.graphs.clear()
        context.stream.capture()
        for staged in context.inputs:
            self._copy(context, staged, symbols, to_device=True)
        for index in range(len(self._plan.steps)):
            self._launch(context, index, symbols)
        for staged in context.outputs:
            self._copy(context, staged, symbols, to_device=False)
        graph = context.stream.captured()
        context.graphs[key] = graph
        return graph

    def _launch(self, context: CudaContext, index: int, symbols: dict[str, int]) -> None:
        step = self._plan.steps[index]
        position = self._index[str(step.function)]
        kernel = self._code.kernels[position]
        pointers = [context.address(binding_, symbols) for binding_ in step.bindings]
        if kernel.workspace_bytes or kernel.counters:
            pointers += [context.workspace.address, context.counters.address]
        grid = [max(evaluate(dim, symbols), 0) for dim in step.grid]
        if 0 in grid:
            return
        padded = (*grid, 1, 1, 1)
        numbers = [symbols[name] for name in kernel.symbols]
        self._functions[position].launch(
            context.stream, (padded[0], padded[1], padded[2]), pointers, numbers
        )

    def _copy(
        self, context: CudaContext, staged: _Staged, symbols: dict[str, int], *, to_device: bool
    ) -> None:
        size = staged.itemsize
        for dim in staged.info.shape:
            size *= evaluate(dim, symbols)
        if not size:
            return
        driver = binding()
        stream = context.stream.handle
        if to_device:
            check(
                driver.cuMemcpyHtoDAsync(staged.memory.address, staged.pinned.address, size, stream)
            )
        else:
            check(
                driver.cuMemcpyDtoHAsync(staged.pinned.address, staged.memory.address, size, stream)
            )

    def _symbols(self, context: CudaContext) -> dict[str, int]:
        return dict(context.binding.symbols) if context.binding else {}
