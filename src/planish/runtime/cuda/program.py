"""What a context runs for one set of shapes: graphs, and the host's work between them.

A graph's kernels hold the addresses of the caller's arrays. When an inference brings others, these
arguments are changed in the instantiated graph; graphs with very many such arguments get the
context's own staging memory instead, so that nothing has to change.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.errors import PlanError
from planish.ir.shape import evaluate
from planish.plan.plan import Binding
from planish.runtime.cuda.context import CudaContext, Places
from planish.runtime.cuda.driver import (
    Event,
    Graph,
    Launch,
    PinnedMemory,
    copy_to_device,
    copy_to_host,
    store_number,
    wait_for,
)
from planish.runtime.cuda.libraries import LibraryLaunch
from planish.runtime.cuda.recording import Recording
from planish.runtime.cuda.resident import Resident
from planish.runtime.cuda.segments import (
    GuardSegment,
    HostSegment,
    Iteration,
    KernelSegment,
    LoopSegment,
    Segment,
    segments_of,
    unrolled,
)
from planish.runtime.shapes import BoundShapes
from planish.runtime.spans import Span, span_of

Array = np.ndarray[Any, Any]
MOST_CHANGES = 64  # kernels whose arguments are changed for the arrays of one inference


@dataclass
class Inference:
    """One inference under way.

    Attributes
    ----------
    stream : int
        Handle of the stream that everything is put on.
    inputs : sequence
        The caller's arrays; steps on the host read strings there.
    outputs : list of array or None
        Steps on the host replace None where only the data decides an output's extents.
    times : array or None
        Nanoseconds of every step, to add to; None unless they are measured.
    """

    stream: int
    inputs: Sequence[Any]
    outputs: list[Any]
    times: Array | None = None


class Program:
    """The segments of a plan, prepared for one context and set of shapes.

    Attributes
    ----------
    places : Places
        Set the addresses of public tensors there before `run`.
    is_fixed : bool
        Whether public tensors have to lie in the context's staging memory.
    """

    def __init__(self, resident: Resident, context: CudaContext) -> None:
        # weak: what an engine holds on the device is freed at once, not by the garbage collector
        self.resident, self.context = resident, weakref.proxy(context)
        self.bound = context.binding
        self.symbols = dict(context.binding.symbols)
        self.places = Places(context)
        segments = segments_of(resident.plan, self.symbols)
        self.pieces = [self._piece(segment, inside=False) for segment in segments]
        graphs = [piece for piece in self.pieces if isinstance(piece, GraphPiece)]
        self.is_fixed = any(piece.changes > MOST_CHANGES for piece in graphs)

    def run(self, inference: Inference) -> None:
        """Put everything on the inference's stream; wait only where the host needs results."""
        for piece in self.pieces:
            piece.run(inference, self.symbols)

    def launch_of(self, iteration: Iteration) -> Launch | LibraryLaunch | None:
        """Return the launch of one step; None when its grid is empty."""
        step = self.resident.plan.steps[iteration.step]
        call = self.resident.call(step)
        if call is not None:
            places = [self.places.address(b, iteration.symbols) for b in step.bindings]
            return LibraryLaunch(call, places, iteration.symbols, self.context.work_of(step)[0])
        grid = [max(evaluate(dim, iteration.symbols), 0) for dim in step.grid]
        if 0 in grid:
            return None
        function, kernel = self.resident.kernel(step)
        pointers = [self.places.address(binding, iteration.symbols) for binding in step.bindings]
        if kernel.workspace_bytes or kernel.counters:
            pointers += self.context.work_of(step)
        numbers = [iteration.symbols[name] for name in kernel.symbols]
        x, y, z = (*grid, 1, 1, 1)[:3]
        return Launch(function, (x, y, z), pointers, numbers)

    def store_counters(self, iteration: Iteration, stream: int) -> None:
        """Put the numbers that kernels read of the loops around them on a stream."""
        for binding, number in iteration.counters:
            store_number(self.places.address(binding, iteration.symbols), number, stream)

    def read(self, binding: Binding, symbols: Mapping[str, int], size: int, stream: int) -> int:
        """Wait for the stream and return the integer of `size` bytes at an address."""
        small = self.context.small
        copy_to_host(small.address, self.places.address(binding, symbols), size, stream)
        wait_for(stream)
        return int.from_bytes(small.array[:size].tobytes(), "little", signed=size == 8)

    def _piece(self, segment: Segment, inside: bool) -> _Piece:
        """Return what runs a segment; `inside` of a loop that the host counts."""
        mine = weakref.proxy(self)
        if isinstance(segment, KernelSegment):
            return _KernelPiece(mine, segment) if inside else GraphPiece(mine, segment)
        if isinstance(segment, HostSegment):
            return _HostPiece(mine, segment.step)
        if isinstance(segment, GuardSegment):
            return _GuardPiece(mine, segment, [self._piece(s, inside) for s in segment.body])
        return _LoopPiece(mine, segment, [self._piece(s, True) for s in segment.body])


class _Piece:
    """Runs a segment."""

    def run(self, inference: Inference, symbols: Mapping[str, int]) -> None:
        """Put the segment's work on the inference's stream."""
        raise PlanError(f"{type(self).__name__} cannot run")


class _KernelPiece(_Piece):
    """Kernels put on the stream one after the other: what they address changes every time."""

    def __init__(self, program: Program, segment: KernelSegment) -> None:
        self.program, self.segment = program, segment

    def run(self, inference: Inference, symbols: Mapping[str, int]) -> None:
        """Put every kernel on the stream."""
        for iteration in self.iterations(symbols):
            self.program.store_counters(iteration, inference.stream)
            launch = self.program.launch_of(iteration)
            if launch is None:
                continue
            if inference.times is None:
                launch.put(inference.stream)
            else:
                self._put_timed(launch, iteration.step, inference)

    def iterations(self, symbols: Mapping[str, int]) -> list[Iteration]:
        """Return the runs of steps, loops unrolled."""
        part = self.segment
        return unrolled(self.program.resident.plan, part.first, part.last, symbols, part.loop)

    def _put_timed(self, launch: Launch | LibraryLaunch, step: int, inference: Inference) -> None:
        start, end = Event(), Event()
        start.record_on(inference.stream)
        launch.put(inference.stream)
        end.record_on(inference.stream)
        end.synchronize()
        if inference.times is not None:
            inference.times[step] += int(end.milliseconds_since(start) * 1e6)


@dataclass
class _Change:
    """A node whose kernel has addresses of the caller's arrays among its arguments."""

    node: int
    launch: Launch
    arguments: tuple[tuple[int, Binding, Mapping[str, int]], ...]


class GraphPiece(_KernelPiece):
    """Kernels in one graph, launched with one call.

    Attributes
    ----------
    graph : Graph or None
        None before the first run.
    changes : int
        How many kernels use the caller's arrays.
    """

    def __init__(self, program: Program, segment: KernelSegment) -> None:
        super().__init__(program, segment)
        self._places = program.places
        steps = program.resident.plan.steps
        self._outside = [
            any(binding.space in ("input", "output") for binding in step.bindings) for step in steps
        ]
        iterations = self.iterations(program.symbols)
        self.changes = sum(self._cost_of_change(iteration) for iteration in iterations)
        self.graph: Graph | None = None
        self._changes: list[_Change] = []
        self._recorded: tuple[list[int], list[int]] = ([], [])

    def run(self, inference: Inference, symbols: Mapping[str, int]) -> None:
        """Launch the graph, after changing the addresses that are others than last time."""
        if inference.times is not None:
            super().run(inference, symbols)
            return
        places = self._places
        present = (places.inputs, places.outputs)
        graph = self.graph
        if graph is None or (present != self._recorded and self.changes > MOST_CHANGES):
            graph = self.graph = self._record(symbols)
            self._recorded = (places.inputs[:], places.outputs[:])
        elif present != self._recorded:
            self._recorded = (places.inputs[:], places.outputs[:])
            for change in self._changes:
                for index, binding, values in change.arguments:
                    change.launch.set_pointer(index, places.address(binding, values))
                change.launch.update(graph, change.node)
        graph.launch_on(inference.stream)

    def _cost_of_change(self, iteration: Iteration) -> int:
        """Return 1 for a kernel that reads or writes the caller's arrays, many for a library's."""
        if not self._outside[iteration.step]:
            return 0
        step = self.program.resident.plan.steps[iteration.step]
        return 1 if self.program.resident.call(step) is None else MOST_CHANGES + 1

    def _record(self, symbols: Mapping[str, int]) -> Graph:
        recording = Recording(self.program.resident.plan.steps)
        self._changes = []
        for iteration in self.iterations(symbols):
            stream = recording.stream_of(iteration.step)
            self.program.store_counters(iteration, stream.handle)
            launch = self.program.launch_of(iteration)
            if launch is not None:
                launch.put(stream.handle)
                if isinstance(launch, Launch) and self._is_changed(iteration):
                    arguments = self._arguments(iteration)
                    self._changes.append(_Change(stream.captured_node(), launch, arguments))
            recording.finish(iteration.step)
        return recording.graph()

    def _is_changed(self, iteration: Iteration) -> bool:
        """Whether a kernel's arguments are changed when the caller's arrays are others."""
        return self._outside[iteration.step] and self.changes <= MOST_CHANGES

    def _arguments(
        self, iteration: Iteration
    ) -> tuple[tuple[int, Binding, Mapping[str, int]], ...]:
        bindings = self.program.resident.plan.steps[iteration.step].bindings
        return tuple(
            (index, binding, iteration.symbols)
            for index, binding in enumerate(bindings)
            if binding.space in ("input", "output")
        )


class _HostPiece(_Piece):
    """A step that Python runs, on copies of its operands in pinned memory."""

    def __init__(self, program: Program, index: int) -> None:
        self.program, self.index = program, index
        self.step = program.resident.plan.steps[index]
        self._copies: list[_Copy] | None = None
        self._memory: PinnedMemory | None = None

    def run(self, inference: Inference, symbols: Mapping[str, int]) -> None:
        """Copy the operands to the host, run the step, and copy its results to the device."""
        start = time.perf_counter_ns()
        copies = self._operands(symbols)
        count = len(copies) - self.step.outputs
        for position, copy in enumerate(copies):
            if position < count or not copy.is_dense:  # what lies between results has to stay
                copy.fetch(self.program.places, symbols, inference.stream)
        wait_for(inference.stream)
        given = [self._given(copy, inference) for copy in copies[:count]]
        views = [copy.view for copy in copies[count:]]
        results = self.program.resident.runner(self.index)(given, views)
        for copy, result in zip(copies[count:], results, strict=True):
            if copy.view is None:
                self._keep(copy.binding, result, inference)
            else:
                copy.send(self.program.places, symbols, inference.stream)
        if inference.times is not None:
            inference.times[self.index] += time.perf_counter_ns() - start

    def _given(self, copy: _Copy, inference: Inference) -> Array:
        if copy.view is not None:
            return copy.view
        if copy.is_text and copy.binding.space == "input":
            return np.asarray(inference.inputs[copy.binding.index])
        raise PlanError("an input's extents depend on data", where=f"step {self.step.name}")

    def _keep(self, binding: Binding, result: Array, inference: Inference) -> None:
        """Keep the array that a runner made because only the data decides its extents."""
        if binding.space != "output":
            raise PlanError("an intermediate's extents depend on data", where=self.step.name)
        inference.outputs[binding.index] = np.array(result, order="C")  # not a view of an input

    def _operands(self, symbols: Mapping[str, int]) -> list[_Copy]:
        """Return the operands' copies; inside of a loop they move with every iteration."""
        if self._copies is not None and self.step.loop is None:
            return self._copies
        bound = BoundShapes(symbols, ())
        operands = zip(self.step.bindings, self.step.operands, strict=False)
        copies = [_Copy(binding, span_of(binding, operand, bound)) for binding, operand in operands]
        size = sum(copy.room for copy in copies)
        if self._memory is None or self._memory.size < size:
            self._memory = PinnedMemory(size)
        start = 0
        for copy in copies:
            copy.place(self._memory, start)
            start += copy.room
        self._copies = copies
        return copies


class _Copy:
    """An operand of a step on the host.

    Attributes
    ----------
    view : array or None
        The operand in pinned memory; None for strings, and where only the data tells the extents.
    room : int
        Bytes of pinned memory that it takes.
    """

    def __init__(self, binding: Binding, span: Span | None) -> None:
        self.binding = binding
        self.is_text = span is not None and span.dtype.hasobject
        self._span = None if self.is_text else span
        self._low, high = (0, 0) if self._span is None else self._span.reach
        self._size = high - self._low
        self.room = -(-self._size // 64) * 64
        self.is_dense = self._span is None or self._span.is_dense
        self.view: Array | None = None
        self._address = 0

    def place(self, memory: PinnedMemory, start: int) -> None:
        """Take a part of pinned memory."""
        if self._span is None:
            return
        self._address = memory.address + start
        self.view = np.ndarray(
            self._span.shape, self._span.dtype, memory.array, start - self._low, self._span.strides
        )

    def fetch(self, places: Places, symbols: Mapping[str, int], stream: int) -> None:
        """Put the copy to the host on a stream."""
        if self._size:
            address = places.address(self.binding, symbols) + self._low
            copy_to_host(self._address, address, self._size, stream)

    def send(self, places: Places, symbols: Mapping[str, int], stream: int) -> None:
        """Put the copy to the device on a stream."""
        if self._size:
            address = places.address(self.binding, symbols) + self._low
            copy_to_device(address, self._address, self._size, stream)


class _GuardPiece(_Piece):
    """Runs its body when a boolean on the device has the expected value."""

    def __init__(self, program: Program, segment: GuardSegment, body: Sequence[_Piece]) -> None:
        self.program, self.segment, self.body = program, segment, body

    def run(self, inference: Inference, symbols: Mapping[str, int]) -> None:
        """Read the boolean and run the body, or not."""
        flag = self.program.read(self.segment.condition, symbols, 1, inference.stream)
        if bool(flag) != self.segment.expected:
            return
        for piece in self.body:
            piece.run(inference, symbols)


class _LoopPiece(_Piece):
    """Iterates as driver.c of the CPU does."""

    def __init__(self, program: Program, segment: LoopSegment, body: Sequence[_Piece]) -> None:
        self.program, self.body = program, body
        self.loop = program.resident.plan.loops[segment.loop]

    def run(self, inference: Inference, symbols: Mapping[str, int]) -> None:
        """Run the body as often as the loop says."""
        loop, program, stream = self.loop, self.program, inference.stream
        count = evaluate(loop.count, symbols)
        if loop.limit is not None:
            count = min(count, program.read(loop.limit, symbols, 8, stream))
        for iteration in range(count):
            if loop.condition is not None and not program.read(loop.condition, symbols, 1, stream):
                break
            inner = {**symbols, loop.symbol: iteration}
            if loop.counter is not None:
                store_number(program.places.address(loop.counter, symbols), iteration, stream)
            for piece in self.body:
                piece.run(inference, inner)
