"""The memory of one inference under way on a GPU."""

from __future__ import annotations

import contextlib
import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.errors import DeviceError
from planish.ir.dtypes import STRING, dtype_by_name
from planish.ir.shape import evaluate
from planish.plan.plan import Binding, Plan, Step, TensorInfo
from planish.runtime.cuda.arrays import DeviceArray
from planish.runtime.cuda.driver import (
    DeviceMemory,
    Event,
    PinnedMemory,
    Stream,
    copy_on_device,
    copy_to_device,
)
from planish.runtime.cuda.resident import Resident
from planish.runtime.shapes import BoundShapes
from planish.runtime.spans import span_of

if TYPE_CHECKING:
    from planish.runtime.cuda.program import Program

Array = np.ndarray[Any, Any]
ALIGNMENT = 256
NO_STREAM = -1
POINTER_ALIGNMENT = 16  # that kernels rely on
CHUNK = 512 << 10  # bytes staged at once: the copy to the device overlaps that of the next chunk
MAX_PROGRAMS = 64  # sets of shapes whose graphs a context keeps


class CudaContext:
    """Arena, staging memory and recorded graphs. One thread uses a context at a time.

    The arena grows when larger shapes come than before; what was recorded is then forgotten.

    Attributes
    ----------
    stream : Stream
        Takes turns with the default stream.
    programs : dict
        What was prepared for sets of shapes, the one used last at the end.
    """

    def __init__(self, resident: Resident) -> None:
        plan = resident.plan
        self._plan = plan
        self.stream = Stream(blocking=True)
        streams = 1 + max((step.stream for step in plan.steps), default=0)
        self._work = [
            (DeviceMemory(resident.workspace_bytes), DeviceMemory(4 * resident.counters))
            for _ in range(streams)
        ]
        for _, counters in self._work:
            counters.fill_zero()
        self.weights = resident.weights
        self.inputs = [Staging(info) for info in plan.inputs]
        self.outputs = [Staging(info) for info in plan.outputs]
        self.small = PinnedMemory(0)  # for single numbers and booleans
        self.programs: OrderedDict[tuple[tuple[str, int], ...], Program] = OrderedDict()
        self.program: Program | None = None  # of the present shapes, once it is made
        self.binding = BoundShapes({}, ())
        self._arena: DeviceMemory | None = None
        self._ready: Event | None = None
        self._kept: object = None
        self._last_stream = NO_STREAM

    @property
    def is_busy(self) -> bool:
        """Whether an inference that was not waited for is under way."""
        if self._ready is None:
            return False
        if not self._ready.is_past():
            return True
        self._ready = self._kept = None
        return False

    def is_free_for(self, stream: int | None) -> bool:
        """Whether work on a stream need not wait for the memory."""
        return (stream is not None and stream == self._last_stream) or not self.is_busy

    def wait(self) -> None:
        """Wait until the last inference is done."""
        if self._ready is not None:
            self._ready.synchronize()
            self._ready = self._kept = None

    def wait_on(self, stream: int) -> None:
        """Let work on a stream wait until the last inference is done."""
        if self._ready is not None and stream != self._last_stream:
            self._ready.hold(stream)

    def mark(self, stream: int, kept: object, is_staged: bool) -> Event:
        """Return when the inference just put on a stream is done.

        `kept` is kept until then. When arrays on the host were staged, not even work on the same
        stream may use the context before.
        """
        self._ready, self._kept = Event(timing=False), kept
        self._last_stream = NO_STREAM if is_staged else stream
        self._ready.record_on(stream)
        return self._ready

    def __del__(self) -> None:
        ready = getattr(self, "_ready", None)
        if ready is not None and not sys.is_finalizing():
            with contextlib.suppress(DeviceError):  # the driver refuses everything after some
                ready.synchronize()

    def bind(self, bound: BoundShapes) -> None:
        """Choose the shapes of the next inference."""
        if bound is self.binding:
            return
        self.binding, self.program = bound, None
        for staging in (*self.inputs, *self.outputs):
            staging.resize(bound)

    def work_of(self, step: Step) -> tuple[int, int]:
        """Return the addresses of the workspace and the counters for a step's stream."""
        workspace, counters = self._work[step.stream]
        return workspace.address, counters.address

    @property
    def needed_bytes(self) -> int:
        """Device memory that an inference of the present shapes takes besides the weights."""
        staged = sum(staging.size for staging in (*self.inputs, *self.outputs))
        arena = arena_bytes(self._plan, self.binding)
        return arena + staged + sum(a.size + b.size for a, b in self._work)

    @property
    def arena(self) -> DeviceMemory:
        """The memory of intermediate values, large enough for the present shapes."""
        needed = arena_bytes(self._plan, self.binding) + ALIGNMENT
        if self._arena is None or self._arena.size < needed:
            self.wait()
            self.programs.clear()
            self._arena = None  # the old one first: both at once may be too much
            self._arena = DeviceMemory(needed)
        return self._arena


class Staging:
    """Device and pinned memory of a public tensor, for callers whose arrays lie on the host.

    Attributes
    ----------
    size : int
        Bytes of the tensor at the present shapes; 0 when only the data tells, and for strings.
    """

    def __init__(self, info: TensorInfo) -> None:
        self._info = info
        self._itemsize = 0 if info.dtype == STRING.name else dtype_by_name(info.dtype).itemsize
        self._device: DeviceMemory | None = None
        self._pinned: PinnedMemory | None = None
        self.size = 0

    def resize(self, bound: BoundShapes) -> None:
        """Set the size for these shapes."""
        sizes = bound.sizes(self._info.shape)
        self.size = 0 if sizes is None else int(np.prod(sizes, dtype=np.int64)) * self._itemsize

    @property
    def device(self) -> DeviceMemory:
        """Device memory of at least `size` bytes."""
        if self._device is None or self._device.size < self.size:
            self._device = None
            self._device = DeviceMemory(self.size)
        return self._device

    @property
    def pinned(self) -> PinnedMemory:
        """Pinned memory of at least `size` bytes."""
        if self._pinned is None or self._pinned.size < self.size:
            self._pinned = None
            self._pinned = PinnedMemory(self.size)
        return self._pinned

    def send(self, array: Array | DeviceArray, stream: int) -> int:
        """Put the copy of an input on a stream; return where it goes."""
        address = self.device.address
        if not self.size:
            return address
        if isinstance(array, DeviceArray):
            copy_on_device(address, array.address, self.size, stream)
            return address
        pinned, raw = self.pinned, array.reshape(-1).view(np.uint8)
        for start in range(0, self.size, CHUNK):
            end = min(start + CHUNK, self.size)
            pinned.array[start:end] = raw[start:end]
            copy_to_device(address + start, pinned.address + start, end - start, stream)
        return address

    def fetch(self, output: Array) -> None:
        """Copy what lies in pinned memory into an array."""
        output.reshape(-1).view(np.uint8)[:] = self.pinned.array[: self.size]


def is_direct(array: DeviceArray, is_fixed: bool) -> bool:
    """Return whether kernels use an array where it lies, not in the context's own memory."""
    return not (is_fixed or array.address % POINTER_ALIGNMENT)


class Places:
    """Where the bindings of a plan point in one inference.

    Attributes
    ----------
    inputs, outputs : list of int
        Addresses on the device of the public tensors; 0 for those that have none.
    """

    def __init__(self, context: CudaContext) -> None:
        self._arena = context.arena.address
        self._weights = context.weights.address
        self.inputs = [0] * len(context.inputs)
        self.outputs = [0] * len(context.outputs)

    def address(self, binding: Binding, symbols: Mapping[str, int]) -> int:
        """Return where a binding points."""
        offset = evaluate(binding.offset, symbols)
        if binding.space == "arena":
            return self._arena + offset
        if binding.space == "weights":
            return self._weights + offset
        return (self.inputs if binding.space == "input" else self.outputs)[binding.index] + offset


def arena_bytes(plan: Plan, bound: BoundShapes) -> int:
    """Return the bytes of the arena that the steps touch at these shapes."""
    if plan.loops:
        return plan.arena_bytes
    end = 0
    for step in plan.steps:
        for binding, operand in zip(step.bindings, step.operands, strict=False):
            if binding.space != "arena":
                continue
            span = span_of(binding, operand, bound)
            if span is None:
                return plan.arena_bytes
            end = max(end, span.offset + span.reach[1])
    return min(end, plan.arena_bytes)
