"""Timing candidates on the GPU: each repeated in a CUDA graph of its own, medians of rounds.

Before anything is timed, the outputs of every candidate are compared with those of its group's
first one on the same random inputs.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from planish.backends.cuda.codegen.compile import ENTRY, compile_kernels
from planish.errors import CompileError, DeviceError
from planish.ir.shape import Dim, evaluate
from planish.ops.tolerance import mismatch, tolerance_of
from planish.runtime.cuda.driver import DeviceMemory, Event, Function, Graph, Stream, device
from planish.tactics.bench import Measured, Trial
from planish.tactics.select import Group, build_kernel
from planish.tactics.tactic import Operand, TritonKernel

Array = np.ndarray[Any, Any]
REPEATS = 20  # launches in one graph
SLACK = 512


class CudaBench:
    """Compiles and times trials on one GPU."""

    def __init__(self, target: Any, arch: int) -> None:
        self.target, self.arch = target, arch
        device().use()
        self.stream = Stream()

    def measure(self, trials: Sequence[Trial], rounds: int, timeout: float) -> list[Measured]:
        """Return a measurement of each trial; one that does not compile or run is `rejected`."""
        kernels = [self._kernel(trial) for trial in trials]
        cubins = compile_kernels(kernels, self.arch, timeout)
        inputs: dict[str, _Operands] = {}
        first: dict[str, list[Array]] = {}
        runs: list[_Run | str] = []
        for trial, kernel, cubin in zip(trials, kernels, cubins, strict=True):
            key = trial.group.key
            if key not in inputs:
                inputs[key] = _Operands(trial.group)
            if isinstance(cubin, CompileError):
                runs.append(f"does not compile: {cubin}")
                continue
            function = Function(cubin.code, ENTRY, cubin.shared, cubin.warps)
            runs.append(self._prepare(function, kernel, inputs[key], first, key))
        times = [self._time(run, rounds) if isinstance(run, _Run) else 0.0 for run in runs]
        return [
            Measured(time, run if isinstance(run, str) else None)
            for time, run in zip(times, runs, strict=True)
        ]

    def _kernel(self, trial: Trial) -> TritonKernel:
        kernel = build_kernel(trial.candidate, trial.group.representative, self.target)
        if not isinstance(kernel, TritonKernel):
            raise CompileError("a candidate is no Triton kernel")
        return kernel

    def _prepare(
        self, function: Function, kernel: TritonKernel, operands: _Operands,
        first: dict[str, list[Array]], key: str,
    ) -> _Run | str:  # fmt: skip
        run = _Run(function, kernel, operands)
        try:
            run.launch(self.stream)
            self.stream.synchronize()
        except DeviceError as error:
            return f"does not run: {error}"
        got = operands.results()
        wanted = first.setdefault(key, got)
        for array, expected, operand in zip(
            got, wanted, operands.group.representative.outputs, strict=True
        ):
            problem = mismatch(array, expected, tolerance_of(operand.dtype))
            if problem is not None:
                return problem
        self.stream.capture()
        for _ in range(REPEATS):
            run.launch(self.stream)
        run.graph = self.stream.captured()
        return run

    def _time(self, run: _Run, rounds: int) -> float:
        """Return the median microseconds of one launch."""
        start, end, samples = Event(), Event(), []
        if run.graph is None:
            return 0.0
        run.graph.launch(self.stream)
        for _ in range(rounds):
            start.record(self.stream)
            run.graph.launch(self.stream)
            end.record(self.stream)
            self.stream.synchronize()
            samples.append(end.milliseconds_since(start) * 1e3 / REPEATS)
        return statistics.median(samples)


class _Operands:
    """Random inputs and poisoned outputs of a group's representative on the device."""

    def __init__(self, group: Group) -> None:
        self.group = group
        region = group.representative
        self.sizes = {name: bounds[1] for name, bounds in region.ranges.items()}
        generator = np.random.default_rng(0)
        self.inputs = [self._filled(operand, generator) for operand in region.inputs]
        self.outputs = [self._buffer(operand) for operand in region.outputs]

    def pointers(self) -> list[int]:
        """Return the addresses of the inputs, then of the outputs."""
        return [memory.address for memory in (*self.inputs, *self.outputs)]

    def results(self) -> list[Array]:
        """Return the outputs, and poison them for the next candidate."""
        found = []
        for operand, memory in zip(self.group.representative.outputs, self.outputs, strict=True):
            raw = np.empty(memory.size, np.uint8)
            memory.read(raw)
            found.append(self._view(raw, operand).copy())
            raw[:] = 0xFF
            memory.write(raw)
        return found

    def _filled(self, operand: Operand, generator: np.random.Generator) -> DeviceMemory:
        memory = self._buffer(operand)
        raw = np.zeros(memory.size, np.uint8)
        view = self._view(raw, operand)
        if operand.dtype.is_float:
            random = np.asarray(generator.standard_normal(view.shape, np.float32))
            view[...] = random.astype(operand.dtype.numpy)
        else:
            view[...] = generator.integers(0, 2, view.shape).astype(operand.dtype.numpy)
        memory.write(raw)
        return memory

    def _buffer(self, operand: Operand) -> DeviceMemory:
        reach = sum(
            (self._size(n) - 1) * self._size(s)
            for n, s in zip(operand.shape, operand.strides, strict=True)
        )
        return DeviceMemory((reach + 1) * operand.dtype.itemsize + SLACK)

    def _view(self, raw: Array, operand: Operand) -> Array:
        itemsize = operand.dtype.itemsize
        shape = tuple(map(self._size, operand.shape))
        strides = tuple(self._size(stride) * itemsize for stride in operand.strides)
        return np.ndarray(shape, operand.dtype.numpy, raw.data, 0, strides)

    def _size(self, dim: Dim) -> int:
        return evaluate(dim, self.sizes)


class _Run:
    """One candidate ready to be launched."""

    def __init__(self, function: Function, kernel: TritonKernel, operands: _Operands) -> None:
        self.function, self.operands = function, operands
        self.graph: Graph | None = None
        self.packed = [DeviceMemory(array.nbytes + SLACK) for array in kernel.packed]
        for memory, array in zip(self.packed, kernel.packed, strict=True):
            memory.write(array)
        self.pointers = [*operands.pointers(), *(memory.address for memory in self.packed)]
        if kernel.workspace_bytes or kernel.counters:
            self.workspace = DeviceMemory(kernel.workspace_bytes)
            self.counters = DeviceMemory(4 * kernel.counters)
            self.counters.fill_zero()
            self.pointers += [self.workspace.address, self.counters.address]
        sizes = operands.sizes
        grid = [evaluate(dim, sizes) for dim in kernel.grid]
        padded = (*grid, 1, 1, 1)
        self.grid = (padded[0], padded[1], padded[2])
        self.numbers = [sizes[name] for name in operands.group.representative.symbols]

    def launch(self, stream: Stream) -> None:
        """Put one launch on the stream."""
        self.function.launch(stream, self.grid, self.pointers, self.numbers)
