"""The execution of a plan on a GPU: all its kernels in one CUDA graph, replayed with one call.

Steps without a kernel run on the host between graphs. A graph is recorded once for each context
and set of shapes. Arrays on the host are staged in pinned memory.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from planish.engine.parts import DeviceCode
from planish.errors import CompatibilityError, PlanError
from planish.plan.plan import Plan
from planish.runtime.cuda.context import MAX_PROGRAMS, CudaContext, Staging
from planish.runtime.cuda.driver import copy_to_device, copy_to_host, device
from planish.runtime.cuda.program import Inference, Program
from planish.runtime.cuda.resident import Resident
from planish.runtime.external import factory_of

Array = np.ndarray[Any, Any]
CHUNK = 4 << 20  # bytes staged at once: the copy to the device overlaps that of the next chunk
EXACT = 90  # from this architecture on code runs on no other


class CudaExecutor:
    """Runs one plan on one GPU; used by any number of threads, each with its own context.

    Kernels and weights are loaded with the first context.

    Parameters
    ----------
    plan : Plan
    code : DeviceCode or None
        None when every step runs on the host.
    weights : array
        Bytes of the packed constants.

    Raises
    ------
    CompatibilityError
        When there is no GPU here, or the code is for another one.
    """

    def __init__(self, plan: Plan, code: DeviceCode | None, weights: Array) -> None:
        self._plan, self._code, self._weights = plan, code, weights
        self._lock = threading.Lock()
        self._resident: Resident | None = None
        if any(step.fills for step in plan.steps):
            raise PlanError("a step relies on a halo, which GPU engines do not have")
        for kind, _ in plan.externals:
            factory_of(kind)  # an engine that cannot run says so when it is loaded
        _check_architecture(device().arch, code)

    def create_context(self) -> CudaContext:
        """Return fresh memory for one inference at a time."""
        device().use()
        return CudaContext(self._plan, self._code, self._loaded().weights)

    def run(
        self, context: CudaContext, inputs: Sequence[Array], outputs: list[Array | None]
    ) -> None:
        """Run one inference on host arrays."""
        self._run(context, Inference(context.stream.handle, inputs, outputs))

    def run_timed(
        self, context: CudaContext, inputs: Sequence[Array], outputs: list[Array | None],
        times: Array,
    ) -> None:  # fmt: skip
        """Run one inference and add the nanoseconds of every step to `times` (uint64)."""
        self._run(context, Inference(context.stream.handle, inputs, outputs, times))

    def _run(self, context: CudaContext, inference: Inference) -> None:
        device().use()
        program = self._program(context)
        places = program.places
        for index, (staging, array) in enumerate(
            zip(context.inputs, inference.inputs, strict=True)
        ):
            places.inputs[index] = _send(staging, array, inference.stream)
        for index, staging in enumerate(context.outputs):
            places.outputs[index] = staging.device.address
        program.run(inference)
        fetched = [
            (staging, output)
            for staging, output in zip(context.outputs, inference.outputs, strict=True)
            if staging.size and output is not None
        ]
        for staging, _ in fetched:
            copy_to_host(
                staging.pinned.address, staging.device.address, staging.size, inference.stream
            )
        context.stream.synchronize()
        for staging, output in fetched:
            output.reshape(-1).view(np.uint8)[:] = staging.pinned.array[: staging.size]

    def _loaded(self) -> Resident:
        with self._lock:
            if self._resident is None:
                self._resident = Resident(self._plan, self._code, self._weights)
            return self._resident

    def _program(self, context: CudaContext) -> Program:
        key = tuple(sorted(context.binding.symbols.items()))
        program = context.programs.get(key)
        if program is None:
            program = Program(self._loaded(), context)
            if len(context.programs) >= MAX_PROGRAMS:
                context.programs.popitem(last=False)
            context.programs[key] = program
        context.programs.move_to_end(key)
        return program


def _send(staging: Staging, array: Array, stream: int) -> int:
    """Put the copy of an array on the host to the device on a stream; return where it goes."""
    address = staging.device.address
    if not staging.size:
        return address
    pinned, raw = staging.pinned, array.reshape(-1).view(np.uint8)
    for start in range(0, staging.size, CHUNK):
        end = min(start + CHUNK, staging.size)
        pinned.array[start:end] = raw[start:end]
        copy_to_device(address + start, pinned.address + start, end - start, stream)
    return address


def _check_architecture(present: int, code: DeviceCode | None) -> None:
    """Raise CompatibilityError unless code for one architecture runs on the present one."""
    if code is None or code.arch == present:
        return
    if code.arch < EXACT and present // 10 == code.arch // 10 and present >= code.arch:
        return
    raise CompatibilityError(
        f"the engine is for sm_{code.arch}, and the GPU here ({device().name}) is sm_{present}",
        where="an engine for NVIDIA GPUs",
        fix=f"build it again from its model, here or with target='sm_{present}'",
    )
