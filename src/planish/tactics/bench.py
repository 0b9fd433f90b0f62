"""The autotuner's bench: candidate kernels as steps of one plan, run by the real runtime.

Every group of regions gets one set of random inputs, every trial its own output and packed
constants. Before anything is timed, each trial's outputs are compared with those of its group's
first trial.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from planish.engine.parts import NativeCode
from planish.errors import CompileError
from planish.ir.shape import Dim, evaluate
from planish.ops.tolerance import mismatch, tolerance_of
from planish.plan.plan import Binding, MemoryReport, Plan, Step
from planish.plan.plan import Operand as PlanOperand
from planish.plan.weights import WeightPool
from planish.runtime.context import ExecutionContext
from planish.runtime.executor import Executor
from planish.runtime.native import NativeObject
from planish.runtime.shapes import BoundShapes
from planish.tactics.select import Candidate, Group, build_kernel
from planish.tactics.tactic import ExternalKernel, Kernel, Operand, Region, TritonKernel
from planish.tactics.target import Target

ALIGNMENT = 256
SLACK = 256  # bytes behind every buffer that kernels may read

# plan, kernels by function name, target, seconds after which the compiler is stopped
Compile = Callable[[Plan, Mapping[str, Kernel], Target, float | None], NativeCode]
Array = np.ndarray


@dataclass(frozen=True)
class Trial:
    """A candidate for a group; it is built for the group's representative region."""

    group: Group
    candidate: Candidate


@dataclass(frozen=True)
class Measured:
    """Median microseconds of a trial; `difference` says how its results are wrong, if they are."""

    microseconds: float
    difference: str | None


class NativeBench:
    """Compiles and times trials.

    Parameters
    ----------
    target : Target
    compile_plan : callable
        Plan and kernels by function name to compiled code.
    """

    challengers = 3
    shortlist = 8
    batch_bytes = 6 << 20

    def __init__(self, target: Target, compile_plan: Compile) -> None:
        self.target = target
        self.compile_plan = compile_plan

    def measure(self, trials: Sequence[Trial], rounds: int, timeout: float) -> list[Measured]:
        """Return a measurement of each trial; compilers are stopped after `timeout` seconds.

        Raises
        ------
        CompileError
            When the compiler refuses the kernels.
        """
        parts = [_Part(group, self.target) for group in _parts(trials, os.cpu_count() or 1)]
        with ThreadPoolExecutor(len(parts)) as pool:  # the compilers are processes of their own
            codes = list(pool.map(lambda part: part.compile(self.compile_plan, timeout), parts))
        measured: dict[int, Measured] = {}
        try:
            for part, code in zip(parts, codes, strict=True):
                part.prepare(code)
            for _ in range(rounds):
                for part in parts:
                    part.run_once()
            for part in parts:
                measured.update(part.results())
        finally:
            for part in parts:
                part.close()
        return [measured[id(trial)] for trial in trials]


class _Part:
    """Trials that are compiled together: whole groups, so that they are compared side by side."""

    def __init__(self, trials: Sequence[Trial], target: Target) -> None:
        self.trials = _interleaved(trials)
        self.target = target
        self.layout = _Layout()
        self.kernels: dict[str, Kernel] = {}
        self.plan = self.layout.plan([self._step(i, trial) for i, trial in enumerate(self.trials)])
        self.native: NativeObject | None = None
        self.samples: list[Array] = []
        self.differences: list[str | None] = []

    def _step(self, index: int, trial: Trial) -> Step:
        kernel = build_kernel(trial.candidate, trial.group.representative, self.target)
        if isinstance(kernel, TritonKernel):
            raise CompileError("a GPU's kernel cannot be timed on the CPU")
        step = self.layout.step(f"trial{index}", trial, kernel)
        if isinstance(kernel, Kernel):
            self.kernels[step.name] = replace(kernel, packed=())  # the layout has the constants
        return step

    def compile(self, compile_plan: Compile, timeout: float) -> NativeCode | None:
        """Return the code of the native trials, None when there are none."""
        return compile_plan(self.plan, self.kernels, self.target, timeout) if self.kernels else None

    def prepare(self, code: NativeCode | None) -> None:
        """Load the code, fill the inputs, and compare the trials of each group."""
        self.native = None if code is None else NativeObject(code.code)
        weights = self.layout.constants.memory()
        self.executor = Executor(self.plan, self.native, weights, self.target.threads)
        self.context = self.executor.create_context()
        self.context.bind(BoundShapes(self.layout.bindings, ()))
        self.context.call.habits = None  # every step is offered to all threads, every time
        self.differences = self.layout.check(self.trials, self.executor, self.context)

    def run_once(self) -> None:
        """Run every trial and keep the times (nanoseconds)."""
        times = np.zeros(len(self.trials), np.uint64)
        self.executor.run_timed(self.context, [], [], times)
        self.samples.append(times)

    def results(self) -> dict[int, Measured]:
        """Return the median of each trial, by the trial's identity."""
        medians = np.median(np.array(self.samples, np.float64), axis=0) / 1e3
        return {
            id(trial): Measured(float(median), difference)
            for trial, median, difference in zip(
                self.trials, medians, self.differences, strict=True
            )
        }

    def close(self) -> None:
        """Unload the code."""
        if self.native is not None:
            self.native.close()


def _parts(trials: Sequence[Trial], count: int) -> list[list[Trial]]:
    """Return up to `count` lists of about equally many trials; groups stay whole."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.group.key, []).append(trial)
    parts: list[list[Trial]] = [[] for _ in range(max(1, min(count, len(groups))))]
    for members in groups.values():
        min(parts, key=len).extend(members)
    return parts


def _interleaved(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials ordered by turn: the first of every group, then the second, and so on."""
    turns: dict[str, int] = {}
    keyed = []
    for position, trial in enumerate(trials):
        turn = turns.setdefault(trial.group.key, 0)
        turns[trial.group.key] += 1
        keyed.append((turn, position, trial))
    return [trial for _, _, trial in sorted(keyed, key=lambda entry: entry[:2])]


class _Layout:
    """Places buffers of all trials in one arena and their constants in one block of weights."""

    def __init__(self) -> None:
        self.bindings: dict[str, int] = {}
        self._ranges: dict[str, tuple[int, int, int]] = {}
        self._symbols: tuple[str, ...] = ()
        self._arena = 0
        self.constants = WeightPool()
        self._inputs: dict[str, list[Binding]] = {}
        self._outputs: list[list[tuple[Binding, Operand]]] = []
        self._fills: list[tuple[Binding, Operand]] = []
        self._externals: list[tuple[str, Mapping[str, object]]] = []

    def step(self, name: str, trial: Trial, kernel: Kernel | ExternalKernel) -> Step:
        """Return the step that runs `kernel`, with memory for its operands and constants."""
        region = trial.group.representative
        self._take_symbols(region)
        key = trial.group.key
        if key not in self._inputs:
            self._inputs[key] = [self._buffer(operand) for operand in region.inputs]
            self._fills += zip(self._inputs[key], region.inputs, strict=True)
        outputs = [(self._buffer(operand), operand) for operand in region.outputs]
        self._outputs.append(outputs)
        packed = tuple(Binding("weights", 0, self.constants.add(a)) for a in kernel.packed)
        external = None
        if isinstance(kernel, ExternalKernel):
            external = len(self._externals)
            self._externals.append((kernel.kind, kernel.parameters))
        return Step(
            name=name, layers=region.name,
            function=None if isinstance(kernel, ExternalKernel) else name,
            external=external, bindings=(*self._inputs[key], *(b for b, _ in outputs), *packed),
            operands=tuple(plan_operand(o) for o in (*region.inputs, *region.outputs)),
            outputs=len(outputs),
            items=1 if isinstance(kernel, ExternalKernel) else kernel.items,
            scratch_bytes=0 if isinstance(kernel, ExternalKernel) else kernel.scratch_bytes,
        )  # fmt: skip

    def plan(self, steps: Sequence[Step]) -> Plan:
        """Return the plan of all steps."""
        return Plan(
            inputs=(), outputs=(), symbols=self._symbols, ranges=self._ranges, steps=tuple(steps),
            memory=MemoryReport(self._arena, 0, 0, self.constants.bytes), arena_bytes=self._arena,
            externals=tuple(self._externals),
        )  # fmt: skip

    def check(
        self, trials: Sequence[Trial], executor: Executor, context: ExecutionContext
    ) -> list[str | None]:
        """Fill the inputs, run every trial once, and compare with the first of its group."""
        generator = np.random.default_rng(0)
        for binding, operand in self._fills:
            _fill(self._view(context.arena, binding, operand), operand, generator)
        executor.run(context, [], [])
        expected: dict[str, list[Array]] = {}
        differences: list[str | None] = []
        for trial, outputs in zip(trials, self._outputs, strict=True):
            arrays = [self._view(context.arena, binding, operand) for binding, operand in outputs]
            wanted = expected.setdefault(trial.group.key, arrays)
            found = [
                mismatch(got, want, tolerance_of(operand.dtype))
                for got, want, (_, operand) in zip(arrays, wanted, outputs, strict=True)
            ]
            differences.append(next((text for text in found if text is not None), None))
        return differences

    def _take_symbols(self, region: Region) -> None:
        self._symbols = region.symbols
        for name in region.symbols:
            self._ranges[name] = region.ranges[name]
            self.bindings[name] = region.ranges[name][1]

    def _buffer(self, operand: Operand) -> Binding:
        """Reserve memory from the first element of the halo to the last, and return element 0."""
        before, after = 0, 0
        for stride, dim, halo in zip(operand.strides, operand.shape, operand.halo, strict=True):
            step = self._size(stride)
            before += step * halo[0]
            after += step * (self._size(dim) - 1 + halo[1])
        itemsize = operand.dtype.itemsize
        start = self._arena + before * itemsize
        self._arena += -(-((before + after + 1) * itemsize + SLACK) // ALIGNMENT) * ALIGNMENT
        return Binding("arena", 0, start)

    def _view(self, arena: Array, binding: Binding, operand: Operand) -> Array:
        shape = tuple(self._size(dim) for dim in operand.shape)
        itemsize = operand.dtype.itemsize
        strides = tuple(self._size(stride) * itemsize for stride in operand.strides)
        return np.ndarray(
            shape, operand.dtype.numpy, arena.data, self._size(binding.offset), strides
        )

    def _size(self, dim: Dim) -> int:
        return evaluate(dim, self.bindings)


def plan_operand(operand: Operand) -> PlanOperand:
    """Return an operand as steps of a plan describe it."""
    return PlanOperand(operand.dtype.name, operand.shape, operand.strides)


def _fill(view: Array, operand: Operand, generator: np.random.Generator) -> None:
    """Write random values: normal floats; integers of 0 and 1, which are in range as indices."""
    if operand.dtype.is_float:
        view[...] = generator.standard_normal(view.shape, np.float32).astype(operand.dtype.numpy)
    else:
        view[...] = generator.integers(0, 2, view.shape).astype(operand.dtype.numpy)
