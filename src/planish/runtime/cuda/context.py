"""The memory of one inference under way on a GPU."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.engine.parts import DeviceCode
from planish.ir.dtypes import STRING, dtype_by_name
from planish.ir.shape import evaluate
from planish.plan.plan import Binding, Plan, TensorInfo
from planish.runtime.cuda.driver import DeviceMemory, PinnedMemory, Stream
from planish.runtime.shapes import BoundShapes
from planish.runtime.spans import span_of

if TYPE_CHECKING:
    from planish.runtime.cuda.program import Program

Array = np.ndarray[Any, Any]
ALIGNMENT = 256
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

    def __init__(self, plan: Plan, code: DeviceCode | None, weights: DeviceMemory) -> None:
        kernels = code.kernels if code else ()
        self._plan = plan
        self.stream = Stream(blocking=True)
        self.workspace = DeviceMemory(max((k.workspace_bytes for k in kernels), default=0))
        self.counters = DeviceMemory(4 * max((k.counters for k in kernels), default=0))
        self.counters.fill_zero()
        self.weights = weights
        self.inputs = [Staging(info) for info in plan.inputs]
        self.outputs = [Staging(info) for info in plan.outputs]
        self.small = PinnedMemory(0)  # for single numbers and booleans
        self.programs: OrderedDict[tuple[tuple[str, int], ...], Program] = OrderedDict()
        self.binding = BoundShapes({}, ())
        self._arena: DeviceMemory | None = None

    def bind(self, bound: BoundShapes) -> None:
        """Choose the shapes of the next inference."""
        if bound is self.binding:
            return
        self.binding = bound
        for staging in (*self.inputs, *self.outputs):
            staging.resize(bound)

    @property
    def arena(self) -> DeviceMemory:
        """The memory of intermediate values, large enough for the present shapes."""
        needed = arena_bytes(self._plan, self.binding) + ALIGNMENT
        if self._arena is None or self._arena.size < needed:
            self.stream.synchronize()
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
