"""The execution of a plan: native segments in one foreign call each, external kernels between.

Most plans are one native segment. Where a region runs from Python (numpy reference, library), the
plan is cut around it; a loop around such a region is then run from Python too.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.errors import InputError, PlanError
from planish.ir.shape import evaluate
from planish.plan.plan import Binding, HaloFill, Plan, Step
from planish.runtime.context import ExecutionContext
from planish.runtime.external import ExternalRequest, Runner, factory_of
from planish.runtime.memory import resident
from planish.runtime.native import NativeObject, pool_address
from planish.runtime.pending import FutureTicket
from planish.runtime.shapes import BoundShapes
from planish.runtime.spans import Span, span_of

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class NativeSegment:
    """Steps [first, last) without external ones; `loop` is the one that Python runs around it."""

    first: int
    last: int
    loop: int


@dataclass(frozen=True)
class ExternalSegment:
    """One step that runs from Python."""

    step: int


@dataclass(frozen=True)
class LoopSegment:
    """A loop with an external step somewhere inside."""

    loop: int
    body: tuple[Segment, ...]


Segment = NativeSegment | ExternalSegment | LoopSegment


def segments_of(plan: Plan) -> tuple[Segment, ...]:
    """Return the plan's steps as segments, in order."""
    return tuple(_segments(plan, 0, len(plan.steps), -1))


def _segments(plan: Plan, first: int, last: int, around: int) -> list[Segment]:
    segments: list[Segment] = []
    start = index = first
    while index < last:
        loop = plan.loop_at(index, last, around)
        end = index + 1 if loop is None else plan.loops[loop].last
        if not any(step.external is not None for step in plan.steps[index:end]):
            index = end
            continue
        if start < index:
            segments.append(NativeSegment(start, index, around))
        if loop is None:
            segments.append(ExternalSegment(index))
        else:
            segments.append(LoopSegment(loop, tuple(_segments(plan, index, end, loop))))
        start = index = end
    if start < last:
        segments.append(NativeSegment(start, last, around))
    return segments


class Executor:
    """Runs one plan; immutable, used by any number of threads, each with its own context.

    Parameters
    ----------
    plan : Plan
    native : NativeObject or None
        Code of the native steps; None when there are none.
    weights : array
        Bytes of the packed constants.
    threads : int
        Threads of one inference.
    """

    def __init__(
        self, plan: Plan, native: NativeObject | None, weights: Array, threads: int
    ) -> None:
        if native is not None and native.steps != len(plan.steps):
            raise PlanError(f"the code has {native.steps} steps, the plan {len(plan.steps)}")
        self._plan = plan
        self._native = native
        self._weights = weights
        self._threads = threads
        self.segments = segments_of(plan)
        self._runners: dict[int, Runner] = {}
        self._settled = False
        self._lock = threading.Lock()
        self._workers: ThreadPoolExecutor | None = None
        if native is None and any(step.external is None for step in plan.steps):
            raise PlanError("the plan has native steps but no code came with it")
        for kind, _ in plan.externals:
            factory_of(kind)  # an engine that cannot run says so when it is loaded

    def create_context(self) -> ExecutionContext:
        """Return fresh memory for one inference at a time."""
        with self._lock:
            if not self._settled:
                self._settle()
        return ExecutionContext(self._plan, self._native, self._weights, self._threads)

    def _settle(self) -> None:
        """Bring the weights into fast memory and make the external kernels, once.

        It is not done when an engine is loaded: finding huge pages can take the system long.
        """
        self._weights = resident(self._weights)
        self._runners = {
            index: self._runner(step)
            for index, step in enumerate(self._plan.steps)
            if step.external is not None
        }
        self._settled = True

    def run(
        self, context: ExecutionContext, inputs: Sequence[Array], outputs: list[Array | None]
    ) -> None:
        """Run one inference; `context` is bound to the shapes of `inputs`.

        `outputs` holds C-contiguous arrays to write into; None only where the shape depends on
        data, and then the entry is replaced by the array that the step returned.
        """
        if self._native is not None:
            self._prepare(context, inputs, outputs)
        if not self._runners:
            if self._native is not None:
                self._native.run(context.call_address)
            return
        for segment in self.segments:
            self._run_segment(segment, context, inputs, outputs)

    def take(self, given: Any, name: str) -> None:
        """Return None: no array on a device is taken."""

    def empty(
        self,
        shapes: tuple[tuple[int, ...] | None, ...],
        dtypes: tuple[np.dtype[Any], ...],
        stream: int | None,
    ) -> list[Array | None]:
        """Return arrays with any contents; None for shapes that are not known, and for strings."""
        return [
            None if shape is None or dtype.hasobject else np.empty(shape, dtype)
            for shape, dtype in zip(shapes, dtypes, strict=True)
        ]

    def stream_of(self, stream: Any) -> int | None:
        """Refuse streams, which belong to GPUs."""
        if stream is not None:
            raise InputError(
                "an engine for the CPU has no streams",
                where="stream",
                fix="leave stream out; the inference then runs in a thread",
            )
        return None

    def start(
        self,
        context: ExecutionContext,
        inputs: Sequence[Array],
        outputs: list[Array | None],
        stream: int | None,
    ) -> FutureTicket:
        """Begin one inference in a thread; as many run at once as the cores allow."""
        with self._lock:
            if self._workers is None:
                cores = len(os.sched_getaffinity(0))
                self._workers = ThreadPoolExecutor(max(1, cores // self._threads), "planish")
        return FutureTicket(self._workers.submit(self.run, context, inputs, outputs))

    def run_timed(
        self,
        context: ExecutionContext,
        inputs: Sequence[Array],
        outputs: list[Array | None],
        times: Array,
    ) -> None:
        """Run one inference and add the nanoseconds of every step to `times` (uint64)."""
        context.call.times = times.__array_interface__["data"][0]
        try:
            if self._runners:
                self._run_timed_segments(context, inputs, outputs, times)
            else:
                self.run(context, inputs, outputs)
        finally:
            context.call.times = None

    def _run_timed_segments(
        self,
        context: ExecutionContext,
        inputs: Sequence[Array],
        outputs: list[Array | None],
        times: Array,
    ) -> None:
        if self._native is not None:
            self._prepare(context, inputs, outputs)
        for segment in self.segments:
            self._run_segment(segment, context, inputs, outputs, times)

    def _prepare(
        self, context: ExecutionContext, inputs: Sequence[Array], outputs: list[Array | None]
    ) -> None:
        for index, array in enumerate(inputs):
            context.inputs[index] = array.__array_interface__["data"][0]
        for index, output in enumerate(outputs):
            if output is not None:
                context.outputs[index] = output.__array_interface__["data"][0]
        if self._threads > 1 and self._native is not None:
            context.call.pool = pool_address(self._native)

    def _run_segment(
        self,
        segment: Segment,
        context: ExecutionContext,
        inputs: Sequence[Array],
        outputs: list[Array | None],
        times: Array | None = None,
    ) -> None:
        if isinstance(segment, ExternalSegment):
            start = time.perf_counter_ns()
            self._run_external(segment.step, context, inputs, outputs)
            if times is not None:
                times[segment.step] += time.perf_counter_ns() - start
            return
        if isinstance(segment, LoopSegment):
            self._run_loop(segment, context, inputs, outputs, times)
            return
        if self._native is None:
            raise PlanError("the plan has native steps but no code came with it")
        call = context.call
        call.first, call.last, call.loop = segment.first, segment.last, segment.loop
        self._native.run(context.call_address)

    def _run_loop(
        self,
        segment: LoopSegment,
        context: ExecutionContext,
        inputs: Sequence[Array],
        outputs: list[Array | None],
        times: Array | None,
    ) -> None:
        """Iterate as driver.c does."""
        loop = self._plan.loops[segment.loop]
        place = self._plan.symbols.index(loop.symbol)
        spaces = _Spaces(inputs, outputs, context.arena, self._weights)
        symbols = BoundShapes(self._symbols(context), ())
        if not all(spaces.flag(binding, symbols) == value for binding, value in loop.guard):
            return
        count = evaluate(loop.count, symbols.symbols)
        if loop.limit is not None:
            count = min(count, int(spaces.number(loop.limit, symbols)[0]))
        for iteration in range(count):
            if loop.condition is not None and not spaces.flag(loop.condition, symbols):
                break
            context.dims[place] = iteration
            if loop.counter is not None:
                spaces.number(loop.counter, symbols)[0] = iteration
            for inner in segment.body:
                self._run_segment(inner, context, inputs, outputs, times)
        context.dims[place] = 0

    # -- external steps --------------------------------------------------------------------------

    def _runner(self, step: Step) -> Runner:
        kind, parameters = self._plan.externals[step.external or 0]
        constants = []
        for binding in step.bindings[len(step.operands) :]:
            if binding.space != "weights" or not isinstance(binding.offset, int):
                raise PlanError("a packed constant is not in the weights", where=step.name)
            constants.append(self._weights[binding.offset :])
        request = ExternalRequest(
            parameters, tuple(constants), step.operands, step.outputs, self._threads
        )
        runner: Runner = factory_of(kind)(request)
        return runner

    def _run_external(
        self,
        index: int,
        context: ExecutionContext,
        inputs: Sequence[Array],
        outputs: list[Array | None],
    ) -> None:
        step = self._plan.steps[index]
        spaces = _Spaces(inputs, outputs, context.arena, self._weights)
        if step.guard and not self._guard_holds(step, context, spaces):
            return
        placed = context.placed.get(index)
        if placed is None:
            placed = _Placed(step, spaces, BoundShapes(self._symbols(context), ()))
            if _stays(step):
                context.placed[index] = placed
        for memory in placed.halo:
            memory.fill(0)
        views = placed.views(spaces)
        count = len(step.operands) - step.outputs
        given = [view for view in views[:count] if view is not None]
        if len(given) < count:
            raise PlanError("an input's extents depend on data", where=f"step {step.name}")
        results = self._runners[index](given, views[count:])
        if any(view is None for view in views[count:]):
            self._take_results(step, results, views[count:], outputs)

    def _guard_holds(self, step: Step, context: ExecutionContext, spaces: _Spaces) -> bool:
        symbols = BoundShapes(self._symbols(context), ())
        return all(spaces.flag(binding, symbols) == value for binding, value in step.guard)

    def _take_results(
        self,
        step: Step,
        results: Sequence[Array],
        views: Sequence[Array | None],
        outputs: list[Array | None],
    ) -> None:
        """Keep the arrays that a runner made because only the data decides their extents."""
        bindings = step.bindings[len(step.operands) - step.outputs : len(step.operands)]
        for binding, view, result in zip(bindings, views, results, strict=True):
            if view is not None:
                continue
            if binding.space != "output":
                raise PlanError("an intermediate's extents depend on data", where=step.name)
            outputs[binding.index] = np.array(result, order="C")  # not a view of an input

    def _symbols(self, context: ExecutionContext) -> dict[str, int]:
        """Return the symbols' present values; those that only data decides are absent."""
        bound = context.binding.symbols if context.binding else {}
        return {
            name: int(value)
            for name, value in zip(self._plan.symbols, context.dims, strict=False)
            if name in bound
        }


class _Spaces:
    """The four memories that bindings address, as arrays."""

    def __init__(
        self, inputs: Sequence[Array], outputs: Sequence[Array | None], arena: Array, weights: Array
    ) -> None:
        self._inputs, self._outputs = inputs, outputs
        self._arena, self._weights = arena, weights

    def view(self, binding: Binding, span: Span) -> Array | None:
        """Return an operand as an array over its memory; None where that is still to be made."""
        if span.dtype.hasobject:  # objects have no bytes: they pass as whole inputs and outputs
            return self._inputs[binding.index] if binding.space == "input" else None
        memory = self._bytes(binding)
        if memory is None:
            return None
        return np.ndarray(span.shape, span.dtype, memory, span.offset, span.strides)

    def flag(self, binding: Binding, symbols: BoundShapes) -> bool:
        """Return the boolean at an address."""
        memory, offset = self._bytes(binding), symbols.sizes((binding.offset,))
        if memory is None or offset is None:
            raise PlanError("a condition's address depends on data")
        return bool(memory[offset[0]])

    def number(self, binding: Binding, symbols: BoundShapes) -> Array:
        """Return the int64 at an address, as an array of one element over its memory."""
        memory, offset = self._bytes(binding), symbols.sizes((binding.offset,))
        if memory is None or offset is None:
            raise PlanError("the address of a loop's counter depends on data")
        return np.ndarray((1,), np.int64, memory, offset[0])

    def bytes_at(self, binding: Binding, shape: tuple[int, ...], symbols: BoundShapes) -> Array:
        """Return C-contiguous bytes at an address, in the given shape."""
        memory, offset = self._bytes(binding), symbols.sizes((binding.offset,))
        if memory is None or offset is None:
            raise PlanError("a halo's address depends on data")
        return np.ndarray(shape, np.uint8, memory, offset[0])

    def _bytes(self, binding: Binding) -> Array | None:
        if binding.space == "arena":
            return self._arena
        if binding.space == "weights":
            return self._weights
        array = (self._inputs if binding.space == "input" else self._outputs)[binding.index]
        return None if array is None else array.reshape(-1).view(np.uint8)


class _Placed:
    """An external step's operands and halos for one context and set of shapes.

    Views of the arena and the weights are made once; those of the caller's arrays every time.

    Attributes
    ----------
    halo : list of array
        Views of the memory to zero before the step.
    """

    def __init__(self, step: Step, spaces: _Spaces, symbols: BoundShapes) -> None:
        self.halo = [part for fill in step.fills for part in _halo_parts(fill, spaces, symbols)]
        self._views: list[Array | None] = []
        self._callers: list[tuple[int, Binding, Span]] = []
        for binding, operand in zip(step.bindings, step.operands, strict=False):
            span = span_of(binding, operand, symbols)
            outside = binding.space in ("input", "output")
            if span is not None and outside:
                self._callers.append((len(self._views), binding, span))
            self._views.append(None if span is None or outside else spaces.view(binding, span))

    def views(self, spaces: _Spaces) -> list[Array | None]:
        """Return a view of every operand; None where only the data decides the extents."""
        if not self._callers:
            return self._views
        views = list(self._views)
        for position, binding, span in self._callers:
            views[position] = spaces.view(binding, span)
        return views


def _stays(step: Step) -> bool:
    """Whether halos and arena operands lie at one address in all inferences of a context."""
    inside = all(fill.binding.space == "arena" for fill in step.fills)
    return inside and step.loop is None  # a loop's symbols change with every iteration


def _halo_parts(fill: HaloFill, spaces: _Spaces, symbols: BoundShapes) -> list[Array]:
    """Return the parts of a buffer that hold zeros around its value."""
    sizes = symbols.sizes(fill.sizes)
    if sizes is None:
        raise PlanError("a halo's extents depend on data")
    memory = spaces.bytes_at(fill.binding, (*sizes, fill.itemsize), symbols)
    parts = []
    for axis, (before, after) in enumerate(fill.halo):
        lead = (slice(None),) * axis
        parts.append(memory[(*lead, slice(0, before))])
        parts.append(memory[(*lead, slice(sizes[axis] - after, sizes[axis]))])
    return [part for part in parts if part.size]
