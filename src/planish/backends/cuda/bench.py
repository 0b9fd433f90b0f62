"""Timing candidates on the GPU: each repeated in a CUDA graph of its own, medians of rounds.

Groups of regions are measured one after the other, the candidates of a group in turn. Before
anything is timed, a candidate's outputs are compared with those of its group's first one on the
same random inputs: large outputs by samples, since copying them back would take longer than the
tuning itself. Every launch in a graph reads its own copy of the packed constants: in a network they
come from memory, because the layers between two runs of one layer push them out of the L2 cache.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from planish.backends.cuda.codegen.compile import ENTRY, Cubin, compile_kernels
from planish.errors import CompileError, DeviceError
from planish.ir.dtypes import DType
from planish.ir.shape import Dim, evaluate
from planish.ops.tolerance import mismatch, tolerance_of
from planish.runtime.cuda.driver import DeviceMemory, Event, Function, Graph, Stream, device
from planish.runtime.cuda.libraries import DEVICE_KINDS, LibraryCall
from planish.runtime.external import ExternalRequest, factory_of
from planish.tactics.bench import Measured, Trial, plan_operand
from planish.tactics.select import build_kernel
from planish.tactics.tactic import ExternalKernel, Operand, Region, TritonKernel

Array = np.ndarray[Any, Any]
DeviceKernel = TritonKernel | ExternalKernel
Put = Callable[[Stream, Sequence[int]], None]  # of the operands and packed constants
MOST_REPEATS = 20  # launches in one graph
GRAPH_MICROSECONDS = 300.0  # a graph of long kernels has fewer launches
COPIED_BYTES = 256 << 20  # of packed constants, all copies together
SLOW = 1.5  # a candidate this many times slower than the best after a round is not timed further
SLACK = 512
SAMPLE_BYTES = 1 << 18
SAMPLES = 16  # places at which a large output is compared
RANDOM_ELEMENTS = 1_000_003  # a prime, so that repetitions do not fall together with rows
POISON = np.full(1 << 16, 0xFF, np.uint8)


class CudaBench:
    """Compiles and times trials on one GPU."""

    challengers = 8  # of a group, compiled and measured at once
    shortlist = 12  # candidates of a group that are measured at most
    batch_bytes = 24 << 20

    def __init__(self, target: Any, arch: int) -> None:
        self.target, self.arch = target, arch
        device().use()
        self.stream = Stream()

    def measure(self, trials: Sequence[Trial], rounds: int, timeout: float) -> list[Measured]:
        """Return a measurement of each trial; one that does not compile or run is `rejected`."""
        kernels = [self._kernel(trial) for trial in trials]
        generated = [kernel for kernel in kernels if isinstance(kernel, TritonKernel)]
        compiled = iter(compile_kernels(generated, self.arch, timeout))
        cubins = [next(compiled) if isinstance(k, TritonKernel) else None for k in kernels]
        members: dict[str, list[int]] = {}
        for index, trial in enumerate(trials):
            members.setdefault(trial.group.key, []).append(index)
        measured: dict[int, Measured] = {}
        for indices in members.values():
            group = trials[indices[0]].group
            pairs = [(kernels[i], cubins[i]) for i in indices]
            found = self.measure_group(group.representative, pairs, rounds)
            measured.update(zip(indices, found, strict=True))
        return [measured[index] for index in range(len(trials))]

    def measure_group(
        self,
        region: Region,
        candidates: Sequence[tuple[DeviceKernel, Cubin | CompileError | None]],
        rounds: int,
    ) -> list[Measured]:
        """Return a measurement of each of a region's kernels; results are those of the first.

        A library's call has no cubin.
        """
        operands = _Operands(region)
        wanted: list[Array] = []
        runs: list[_Run | str] = []
        for kernel, cubin in candidates:
            if isinstance(cubin, CompileError):
                runs.append(f"does not compile: {cubin}")
                continue
            runs.append(self._prepare(_Run(kernel, cubin, operands), wanted))
        times = self._race([run for run in runs if isinstance(run, _Run)], rounds)
        return [
            Measured(0.0, run) if isinstance(run, str) else Measured(times[run], None)
            for run in runs
        ]

    def _kernel(self, trial: Trial) -> DeviceKernel:
        kernel = build_kernel(trial.candidate, trial.group.representative, self.target)
        if isinstance(kernel, TritonKernel):
            return kernel
        if isinstance(kernel, ExternalKernel) and kernel.kind in DEVICE_KINDS:
            return kernel
        raise CompileError("a candidate does not run on the GPU")

    def _prepare(self, run: _Run, wanted: list[Array]) -> _Run | str:
        """Return `run` with its graph, or how its results differ from those `wanted`.

        The first run's results become the wanted ones.
        """
        operands = run.operands
        operands.poison()
        try:
            run.launch(self.stream)
            self.stream.synchronize()
        except DeviceError as error:
            return f"does not run: {error}"
        got = operands.samples()
        if not wanted:
            wanted += got
        for array, expected, operand in zip(got, wanted, operands.region.outputs, strict=True):
            problem = mismatch(array, expected, tolerance_of(operand.dtype))
            if problem is not None:
                return problem
        once = self._elapsed(run.launch)
        run.record(self.stream, int(min(MOST_REPEATS, max(2.0, GRAPH_MICROSECONDS / once))))
        return run

    def _race(self, runs: Sequence[_Run], rounds: int) -> dict[_Run, float]:
        """Return the median microseconds of one launch of each; slow ones are timed once."""
        for run in runs:
            self._elapsed(run.repeat)  # a graph's first launch brings it to the device
        samples = {run: [self._elapsed(run.repeat)] for run in runs}
        limit = SLOW * min((times[0] / run.repeats for run, times in samples.items()), default=0.0)
        alive = [run for run, times in samples.items() if times[0] / run.repeats <= limit]
        for _ in range(rounds - 1):
            for run in alive:
                samples[run].append(self._elapsed(run.repeat))
        return {run: statistics.median(times) / run.repeats for run, times in samples.items()}

    def _elapsed(self, launch: Callable[[Stream], None]) -> float:
        """Return the microseconds that what `launch` puts on the stream takes."""
        start, end = Event(), Event()
        start.record(self.stream)
        launch(self.stream)
        end.record(self.stream)
        self.stream.synchronize()
        return max(end.milliseconds_since(start) * 1e3, 1e-3)


class _Operands:
    """Random inputs, and outputs, of a region on the device."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.sizes = {name: bounds[1] for name, bounds in region.ranges.items()}
        generator = np.random.default_rng(0)
        self.inputs = [self._buffer(operand) for operand in region.inputs]
        for memory, operand in zip(self.inputs, region.inputs, strict=True):
            memory.write_repeated(_random(operand.dtype, generator))
        self.outputs = [self._buffer(operand) for operand in region.outputs]

    def pointers(self) -> list[int]:
        """Return the addresses of the inputs, then of the outputs."""
        return [memory.address for memory in (*self.inputs, *self.outputs)]

    def poison(self) -> None:
        """Fill the outputs with what no kernel writes."""
        for memory in self.outputs:
            memory.write_repeated(POISON)

    def samples(self) -> list[Array]:
        """Return elements of each output, the same ones each time: all of a small one."""
        return [
            _samples(memory, memory.size - SLACK, operand.dtype)
            for memory, operand in zip(self.outputs, self.region.outputs, strict=True)
        ]

    def _buffer(self, operand: Operand) -> DeviceMemory:
        reach = sum(
            (self._size(n) - 1) * self._size(s)
            for n, s in zip(operand.shape, operand.strides, strict=True)
        )
        return DeviceMemory((reach + 1) * operand.dtype.itemsize + SLACK)

    def _size(self, dim: Dim) -> int:
        return evaluate(dim, self.sizes)


def _random(dtype: DType, generator: np.random.Generator) -> Array:
    """Return normal floats, or integers of 0 and 1, which are in range as indices."""
    if dtype.is_float:
        return generator.standard_normal(RANDOM_ELEMENTS, np.float32).astype(dtype.numpy)
    return generator.integers(0, 2, RANDOM_ELEMENTS).astype(dtype.numpy)


def _samples(memory: DeviceMemory, size: int, dtype: DType) -> Array:
    """Return the elements of a block's first `size` bytes, or of SAMPLES places, ends included."""
    count = min(size, SAMPLE_BYTES * SAMPLES)
    raw = np.empty(count, np.uint8)
    if count == size:
        memory.read(raw)
        return raw.view(dtype.numpy)
    last = (size - SAMPLE_BYTES) // dtype.itemsize
    for place, part in enumerate(raw.reshape(SAMPLES, SAMPLE_BYTES)):
        memory.read(part, last * place // (SAMPLES - 1) * dtype.itemsize)
    return raw.view(dtype.numpy)


class _Run:
    """One candidate ready to be launched."""

    def __init__(self, kernel: DeviceKernel, cubin: Cubin | None, operands: _Operands) -> None:
        self.operands = operands
        self.repeats = 0
        self._graph: Graph | None = None
        steps = [-(-max(array.nbytes, 1) // 256) * 256 for array in kernel.packed]
        self._steps = steps
        self._copies = max(1, min(MOST_REPEATS, COPIED_BYTES // max(sum(steps), 1)))
        self._packed = [DeviceMemory(step * self._copies + SLACK) for step in steps]
        for memory, array, step in zip(self._packed, kernel.packed, steps, strict=True):
            block = np.zeros(step, np.uint8)
            block[: array.nbytes] = array.reshape(-1).view(np.uint8)
            memory.write_repeated(block)
        if isinstance(kernel, TritonKernel):
            self._put = _launcher(kernel, cubin, operands)
        else:
            self._put = _caller(kernel, operands)

    def launch(self, stream: Stream, copy: int = 0) -> None:
        """Put one launch on the stream, with the packed constants' copy of that number."""
        pointers = self.operands.pointers()
        pointers += [
            memory.address + copy % self._copies * step
            for memory, step in zip(self._packed, self._steps, strict=True)
        ]
        self._put(stream, pointers)

    def record(self, stream: Stream, repeats: int) -> None:
        """Make a graph of so many launches."""
        self.repeats = repeats
        stream.capture()
        for copy in range(repeats):
            self.launch(stream, copy)
        self._graph = stream.captured()

    def repeat(self, stream: Stream) -> None:
        """Put the graph on the stream."""
        if self._graph is not None:
            self._graph.launch(stream)


def _launcher(kernel: TritonKernel, cubin: Cubin | None, operands: _Operands) -> Put:
    """Return what launches a generated kernel."""
    if cubin is None:
        raise CompileError("a generated kernel was not compiled")
    function = Function(cubin.code, ENTRY, cubin.shared, cubin.warps)
    work: list[DeviceMemory] = []
    if kernel.workspace_bytes or kernel.counters:
        work = [DeviceMemory(kernel.workspace_bytes), DeviceMemory(4 * kernel.counters)]
        work[1].fill_zero()
    sizes = operands.sizes
    padded = (*(evaluate(dim, sizes) for dim in kernel.grid), 1, 1, 1)
    grid = (padded[0], padded[1], padded[2])
    numbers = [sizes[name] for name in operands.region.symbols]

    def put(stream: Stream, pointers: Sequence[int]) -> None:
        addresses = [*pointers, *(memory.address for memory in work)]
        function.launch(stream, grid, addresses, numbers)

    return put


def _caller(kernel: ExternalKernel, operands: _Operands) -> Put:
    """Return what calls a library."""
    region = operands.region
    described = tuple(plan_operand(o) for o in (*region.inputs, *region.outputs))
    request = ExternalRequest(kernel.parameters, (), described, len(region.outputs), 1)
    call: LibraryCall = factory_of(kernel.kind)(request)
    workspace = DeviceMemory(call.workspace_bytes)

    def put(stream: Stream, pointers: Sequence[int]) -> None:
        call.record(stream.handle, pointers, operands.sizes, workspace.address)

    return put
