"""The execution of a plan on a GPU: all its kernels in one CUDA graph, replayed with one call.

Steps without a kernel run on the host between graphs. A graph is recorded once for each context
and set of shapes. Arrays on the host are staged in pinned memory.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from planish.engine.parts import DeviceCode
from planish.errors import CompatibilityError, DeviceError, InputError, PlanError
from planish.plan.plan import Plan
from planish.runtime.cuda.arrays import GRANULE, DeviceArray, MemoryPool, take
from planish.runtime.cuda.binding import LEGACY_STREAM
from planish.runtime.cuda.context import MAX_PROGRAMS, CudaContext, Staging, is_direct
from planish.runtime.cuda.driver import (
    Event,
    OutOfMemoryError,
    copy_on_device,
    copy_to_host,
    device,
    mebibytes,
)
from planish.runtime.cuda.program import Inference, Program
from planish.runtime.cuda.resident import Resident
from planish.runtime.external import factory_of

Array = np.ndarray[Any, Any]
AnyArray = Array | DeviceArray
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
        self._pool = MemoryPool()
        self._results: dict[tuple[tuple[int, ...] | None, ...], list[Any]] = {}
        if any(step.fills for step in plan.steps):
            raise PlanError("a step relies on a halo, which GPU engines do not have")
        for kind, _ in plan.externals:
            factory_of(kind)  # an engine that cannot run says so when it is loaded
        _check_architecture(device().arch, code)

    def create_context(self) -> CudaContext:
        """Return fresh memory for one inference at a time."""
        device().use()
        try:
            return CudaContext(self._loaded())
        except OutOfMemoryError as error:
            raise self._too_little_memory(self._plan.arena_bytes) from error

    def _too_little_memory(self, inference_bytes: int) -> DeviceError:
        """Return an error that says how much an inference needs."""
        weights = 0 if self._resident is not None else self._weights.nbytes
        return DeviceError(
            f"the engine needs {mebibytes(weights + inference_bytes)} of GPU memory for one "
            f"inference ({mebibytes(weights)} of it for weights), and "
            f"{mebibytes(device().free_bytes())} are free",
            where=device().name,
            fix="free device memory, or build the engine with smaller profiles",
        )

    def take(self, given: Any, name: str) -> DeviceArray | None:
        """Return an array of another library on the GPU without a copy; see `arrays.take`."""
        return given if type(given) is DeviceArray else take(given, name)

    def empty(
        self,
        shapes: tuple[tuple[int, ...] | None, ...],
        dtypes: tuple[np.dtype[Any], ...],
        stream: int | None,
    ) -> list[Any]:
        """Return arrays on the device with any contents; None for shapes that are not known."""
        facts: list[Any] | None = self._results.get(shapes)
        if facts is None:
            pairs = zip(shapes, dtypes, strict=True)
            facts = [_result(shape, dtype) for shape, dtype in pairs]
            if len(self._results) >= MAX_PROGRAMS:
                self._results.clear()
            self._results[shapes] = facts
        empty, handle = self._pool.empty, LEGACY_STREAM if stream is None else stream
        return [f if f is None else empty(f[0], f[1], f[2], handle) for f in facts]

    def stream_of(self, stream: Any) -> int | None:
        """Return the handle of a stream; None stands for the context's own."""
        return None if stream is None else handle_of(stream)

    def run(
        self, context: CudaContext, inputs: Sequence[AnyArray], outputs: list[AnyArray | None]
    ) -> None:
        """Run one inference and wait for it."""
        self._run(context, Inference(context.stream.handle, inputs, outputs))

    def run_timed(
        self, context: CudaContext, inputs: Sequence[AnyArray], outputs: list[AnyArray | None],
        times: Array,
    ) -> None:  # fmt: skip
        """Run one inference and add the nanoseconds of every step to `times` (uint64)."""
        self._run(context, Inference(context.stream.handle, inputs, outputs, times))

    def start(
        self, context: CudaContext, inputs: Sequence[AnyArray], outputs: list[AnyArray | None],
        stream: int | None,
    ) -> CudaTicket:  # fmt: skip
        """Put one inference on a stream, the context's own by default, and do not wait for it.

        Steps on the host are waited for.
        """
        handle = context.stream.handle if stream is None else stream
        device().use()
        context.wait_on(handle)
        fetched = self._enqueue(context, Inference(handle, inputs, outputs))
        is_staged = any(isinstance(array, np.ndarray) for array in (*inputs, *outputs))
        ready = context.mark(handle, (inputs, outputs), is_staged)
        for output in outputs:
            if isinstance(output, DeviceArray):
                output.made_on(handle, ready)
        return CudaTicket(ready, fetched)

    def _run(self, context: CudaContext, inference: Inference) -> None:
        device().use()
        fetched = self._enqueue(context, inference)
        context.stream.synchronize()
        for staging, output in fetched:
            staging.fetch(output)

    def _enqueue(self, context: CudaContext, inference: Inference) -> list[tuple[Staging, Array]]:
        """Put all of an inference on its stream; return host arrays and where their results are."""
        try:
            return self._enqueue_all(context, inference)
        except OutOfMemoryError as error:
            raise self._too_little_memory(context.needed_bytes) from error

    def _enqueue_all(
        self, context: CudaContext, inference: Inference
    ) -> list[tuple[Staging, Array]]:
        program = context.program or self._program(context)
        places, stream, is_fixed = program.places, inference.stream, program.is_fixed
        for index, array in enumerate(inference.inputs):
            places.inputs[index] = (
                array.address
                if type(array) is DeviceArray and is_direct(array, is_fixed)
                else context.inputs[index].send(array, stream)
            )
        targets = inference.outputs[:]
        for index, output in enumerate(targets):
            places.outputs[index] = (
                output.address
                if type(output) is DeviceArray and is_direct(output, is_fixed)
                else context.outputs[index].device.address
            )
        program.run(inference)
        fetched = []
        for index, output in enumerate(targets):
            place, staging = places.outputs[index], context.outputs[index]
            if output is None or not staging.size:
                continue
            if type(output) is not DeviceArray:
                copy_to_host(staging.pinned.address, place, staging.size, stream)
                fetched.append((staging, output))
            elif output.address != place:
                copy_on_device(output.address, place, staging.size, stream)
        return fetched

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
        context.program = program
        return program


def _result(
    shape: tuple[int, ...] | None, dtype: np.dtype[Any]
) -> tuple[tuple[int, ...], np.dtype[Any], int] | None:
    """Return shape, type and bytes of a result; None when it is not made before the inference."""
    if shape is None or dtype.hasobject:
        return None
    return shape, dtype, -(-max(math.prod(shape) * dtype.itemsize, 1) // GRANULE) * GRANULE


class CudaTicket:
    """An inference under way: `ready` passes when it is done."""

    def __init__(self, ready: Event, fetched: Sequence[tuple[Staging, Array]]) -> None:
        self._ready, self._fetched = ready, fetched

    def done(self) -> bool:
        """Return whether the GPU is done."""
        device().use()
        return self._ready.is_past()

    def wait(self) -> None:
        """Wait until the GPU is done, and copy results to arrays on the host."""
        device().use()
        self._ready.synchronize()
        for staging, output in self._fetched:
            staging.fetch(output)
        self._fetched = ()


def handle_of(stream: Any) -> int:
    """Return the handle of a stream: a number, or an object of another library.

    The default stream has two handles, 0 and 1; the second is returned.

    Raises
    ------
    InputError
        When it is no stream.
    """
    handle = None
    if isinstance(stream, int):
        handle = stream
    elif hasattr(stream, "__cuda_stream__"):  # cuda.core's protocol: (version, handle)
        protocol = stream.__cuda_stream__
        handle = int((protocol() if callable(protocol) else protocol)[1])
    else:
        names = ("cuda_stream", "ptr", "handle")  # PyTorch; CuPy; this package
        handle = next((int(getattr(stream, n)) for n in names if hasattr(stream, n)), None)
    if handle is not None:
        return handle or LEGACY_STREAM
    raise InputError(
        f"{type(stream).__name__} is no CUDA stream",
        where="stream",
        fix="give its handle as a number, torch.cuda.Stream, or an object with __cuda_stream__",
    )


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
