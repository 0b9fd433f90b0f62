"""The engine: what users call.

An `Engine` never changes after it was made, and any number of threads may call it at once: each
inference takes a context (arena, scratch, pointers) from a pool, or makes one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from planish.engine.compatibility import check_machine
from planish.engine.parts import DeviceCode, EngineParts
from planish.engine.reader import IN_MEMORY, read_engine
from planish.engine.writer import engine_bytes, write_engine
from planish.errors import CompatibilityError, InputError
from planish.ir.dtypes import dtype_by_name
from planish.ir.shape import evaluate
from planish.plan.plan import MemoryReport, Plan, TensorInfo
from planish.report import BuildReport
from planish.runtime.arguments import Allocate, Arguments, Call
from planish.runtime.cpu import usable_features
from planish.runtime.cuda.arrays import DeviceArray
from planish.runtime.executors import Context, PlanExecutor, executor_of
from planish.runtime.finite import may_overflow
from planish.runtime.pending import Pending
from planish.runtime.profiler import Profile, summarize
from planish.runtime.shapes import BoundShapes

Array = np.ndarray[Any, Any]
Rebuild = Callable[[EngineParts], EngineParts]

_MAX_IDLE = 16  # contexts kept for later inferences
_MAX_BUSY = 8  # inferences under way that nobody waits for yet


class Engine:
    """A model made ready to run.

    One for a GPU may be made, looked at and saved on a machine without one: whether it can run
    here is found out by `prepare`, or by the first run.

    Parameters
    ----------
    parts : EngineParts
        From a build or a file.
    threads : int, optional
        Threads of one inference; what the engine was built for by default.

    Raises
    ------
    CompatibilityError
        When this machine cannot run the engine's code for CPUs.
    """

    def __init__(self, parts: EngineParts, *, threads: int | None = None) -> None:
        built_for = parts.kernels.threads if parts.kernels else 1
        if threads is not None and threads < 1:
            raise InputError(f"threads is {threads}, expected at least 1", where="Engine")
        self._parts = parts
        self._threads = min(threads or built_for, 1024)
        self._lock = threading.Lock()
        self._made_executor: PlanExecutor | None = None
        self._arguments = Arguments(parts.plan, may_overflow(parts.report))
        if not isinstance(parts.kernels, DeviceCode):
            self.prepare()
        self._idle: deque[Context] = deque(maxlen=_MAX_IDLE)
        self._last: _Repeat | None = None
        self._pending: deque[weakref.ref[Pending]] = deque()

    # -- what it is ------------------------------------------------------------------------------

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Name, dtype name and shape of every input; symbolic extents have `ranges`."""
        return self._parts.plan.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Name, dtype name and shape of every output."""
        return self._parts.plan.outputs

    @property
    def ranges(self) -> Mapping[str, tuple[int, int, int]]:
        """Symbol of a dynamic extent to (min, opt, max)."""
        return self._parts.plan.ranges

    @property
    def target(self) -> str:
        """What the engine was built for: "cpu", or a GPU's architecture like "sm_90"."""
        kernels = self._parts.kernels
        return f"sm_{kernels.arch}" if isinstance(kernels, DeviceCode) else "cpu"

    @property
    def threads(self) -> int:
        """Threads of one inference."""
        return self._threads

    @property
    def plan(self) -> Plan:
        """Steps, bindings and memory."""
        return self._parts.plan

    @property
    def memory(self) -> MemoryReport:
        """Arena bytes against the sum of all tensors and the largest live set."""
        return self._parts.plan.memory

    @property
    def graph_text(self) -> str:
        """The optimized graph as text."""
        return self._parts.graph_text

    @property
    def source(self) -> str:
        """The generated C source; empty when every region runs from Python."""
        return self._parts.kernels.source if self._parts.kernels else ""

    @functools.cached_property
    def report(self) -> BuildReport:
        """What every stage of the build did."""
        if not self._parts.report:
            return BuildReport("", {}, "", (), (), (), {})
        return BuildReport.from_dict(self._parts.report)

    def save(self, path: str | Path) -> None:
        """Write the engine to a file; raise EngineFileError when that is not possible."""
        write_engine(path, self._parts)

    def to_bytes(self) -> bytes:
        """Return what `save` would write; `load` takes it."""
        return engine_bytes(self._parts)

    # -- running ---------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make sure that this machine can run the engine; raise CompatibilityError if not."""
        with self._lock:
            if self._made_executor is None:
                made = executor_of(self._parts, self._threads)
                self._made_executor = self._arguments.executor = made

    @property
    def _ready(self) -> Arguments:
        """What takes and makes arrays, once there is an executor."""
        if self._made_executor is None:
            self.prepare()
        return self._arguments

    @property
    def _executor(self) -> PlanExecutor:
        if self._made_executor is None:
            self.prepare()
        return cast(PlanExecutor, self._made_executor)

    def run(
        self,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any] | None = None,
        *,
        context: Context | None = None,
    ) -> dict[str, Any]:
        """Run one inference.

        Parameters
        ----------
        inputs : dict
            Input name to numpy array, or any array with ``__dlpack__`` (taken without a copy); for
            engines on a GPU also arrays there, with ``__dlpack__`` or
            ``__cuda_array_interface__``. dtypes must be exact; arrays on the host that are not
            C-contiguous are copied.
        outputs : dict, optional
            Output name to a C-contiguous array to write into, for any of the outputs.
        context : Context, optional
            From `create_context`; by default one of the engine's own.

        Returns
        -------
        dict
            Output name to array: the given one, or a new one. New ones are numpy arrays, or
            `planish.DeviceArray` when an input lies on the GPU. Their contents are complete.

        Raises
        ------
        InputError
            When a name, dtype or shape is wrong.
        """
        if context is None:
            repeated = self._repeat(inputs, outputs)
            if repeated is not None:
                return repeated
        arguments = self._ready
        call = arguments.call(arguments.ordered(inputs), outputs, None)
        return dict(zip(arguments.output_names, self._run(call, context), strict=True))

    def run_async(
        self,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any] | None = None,
        *,
        stream: Any = None,
    ) -> Pending:
        """Begin one inference; see `run` for the parameters.

        At most a few inferences with arrays on the host are under way at once: one more waits for
        the oldest. Arrays must not be changed before the inference is done.

        Parameters
        ----------
        stream : int or stream, optional
            On a GPU: the stream to run on, as a handle or an object of another library
            (``torch.cuda.Stream``, ``__cuda_stream__``); work that is put there later waits. By
            default a stream of the engine's own that takes turns with the default stream.

        Returns
        -------
        Pending
            Its `result`, or ``await``, waits and gives what `run` gives.
        """
        handle = self._executor.stream_of(stream)
        arguments = self._ready
        call = arguments.call(arguments.ordered(inputs), outputs, handle)
        self._limit_pending()
        mine = self._acquire(handle)
        mine.bind(call.bound)
        ticket = self._executor.start(mine, call.arrays, call.results, handle)
        waits = not all(isinstance(result, DeviceArray) for result in call.results)

        def finish() -> dict[str, Any]:
            if waits:
                self._idle.append(mine)
            return dict(zip(arguments.output_names, arguments.finished(call), strict=True))

        pending = Pending(ticket, finish, arguments.on_device(call))
        if waits:
            self._pending.append(weakref.ref(pending))
        else:
            self._idle.append(mine)
        return pending

    def __call__(self, *inputs: Any) -> Array | tuple[Array, ...]:
        """Run one inference on arrays in the order of `inputs`; return the only output, or all."""
        arguments = self._ready
        results = self._run(arguments.call(arguments.positional(inputs), None, None), None)
        return results[0] if len(results) == 1 else tuple(results)

    def accepts(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Return whether inputs of these shapes, in the order of `inputs`, can be run."""
        if len(shapes) != len(self._arguments.input_names):
            return False
        try:
            self._arguments.bind(tuple(map(tuple, shapes)))
        except InputError:
            return False
        return True

    def execute(self, inputs: Sequence[Array], allocate: Allocate | None = None) -> list[Array]:
        """Run one inference on arrays in the order of `inputs`, for callers with their own memory.

        Parameters
        ----------
        inputs : sequence of array
        allocate : callable, optional
            Takes the index and the shape of an output and returns a C-contiguous array to write
            it into. It is asked before the inference, and only for outputs whose shape does not
            depend on data; the others are new arrays.

        Returns
        -------
        list of array
            In the order of `outputs`.

        Raises
        ------
        InputError
            When the number of arrays, a dtype or a shape is wrong.
        """
        arguments = self._ready
        call = arguments.call(arguments.positional(inputs), None, None)
        if allocate is not None:
            call.results = arguments.allocated(call.bound, allocate)
        return self._run(call, None)

    def create_context(self) -> Context:
        """Return memory for inferences one at a time, to be given to `run`."""
        return self._executor.create_context()

    def example_inputs(self) -> dict[str, Array]:
        """Return arrays of the profile's opt shapes: random floats, and ones of other types."""
        generator = np.random.default_rng(0)
        sizes = {name: opt for name, (_, opt, _) in self.ranges.items()}
        arrays = {}
        for info in self.inputs:
            shape = [evaluate(dim, sizes) for dim in info.shape]
            dtype = dtype_by_name(info.dtype)
            values = generator.standard_normal(shape) if dtype.is_float else np.ones(shape)
            arrays[info.name] = values.astype(dtype.numpy)
        return arrays

    def profile(self, inputs: Mapping[str, Any] | None = None, runs: int = 20) -> Profile:
        """Measure every region.

        Parameters
        ----------
        inputs : dict, optional
            As for `run`; random arrays of the profile's opt shapes by default.
        runs : int
            Inferences to measure, after a few that warm up.
        """
        given = self.example_inputs() if inputs is None else inputs
        arguments = self._ready
        arrays = arguments.ordered(given)
        context = self._acquire(None)
        context.wait()
        bound = arguments.call(arrays, None, None).bound
        steps = self._parts.plan.steps
        times = np.zeros((max(runs, 1), max(len(steps), 1)), dtype=np.uint64)
        warm_up = np.zeros(max(len(steps), 1), dtype=np.uint64)
        totals = []
        for run in range(-8, len(times)):
            results = arguments.call(arrays, None, None).results
            context.bind(bound)
            start = time.perf_counter_ns()
            self._executor.run_timed(context, arrays, results, warm_up if run < 0 else times[run])
            if run >= 0:
                totals.append(time.perf_counter_ns() - start)
        self._idle.append(context)
        names = [(step.name, step.layers) for step in steps]
        return summarize(names, times.tolist(), totals, self._threads)

    def _repeat(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None
    ) -> dict[str, Any] | None:
        """Run an inference on arrays on the device like those of the one before.

        Nothing has to be checked or looked up again, which saves half of the host's time. Returns
        None when something is different.
        """
        last = self._last
        if last is None:
            return None
        arrays = self._alike(inputs, last.inputs)
        if arrays is None:
            return None
        if outputs is None:
            results = self._executor.empty(last.bound.outputs, self._arguments.output_types, None)
        else:
            taken = self._alike(outputs, last.outputs)
            if taken is None:
                return None
            results = taken
        context = self._acquire(None)
        context.bind(last.bound)
        self._executor.run(context, arrays, results)
        self._idle.append(context)
        if outputs is not None:
            return {name: outputs[name] for name in self._arguments.output_names}
        return dict(zip(self._arguments.output_names, results, strict=True))

    def _alike(self, given: Mapping[str, Any], known: tuple[_Known, ...]) -> list[Any] | None:
        """Return arrays on the device with these names, shapes and dtypes; None for any other."""
        if len(given) != len(known):
            return None
        arrays = []
        for name, shape, dtype in known:
            array = given.get(name)
            if type(array) is not DeviceArray:
                if array is None or type(array) is np.ndarray:
                    return None
                array = self._executor.take(array, repr(name))
            if array is None or array.shape != shape or array.dtype != dtype:
                return None
            arrays.append(array)
        return arrays

    def _run(self, call: Call, context: Context | None) -> list[Any]:
        if context is None:
            mine = self._acquire(None)
        else:
            mine = context
            mine.wait()
        mine.bind(call.bound)
        # a context whose inference failed is dropped: its pool or its memory may be the reason
        self._executor.run(mine, call.arrays, call.results)
        if context is None:
            self._idle.append(mine)
        if all(type(array) is DeviceArray for array in (*call.arrays, *call.results)):
            inputs = _known(self._arguments.input_names, call.arrays)
            outputs = _known(self._arguments.output_names, call.results)
            self._last = _Repeat(inputs, outputs, call.bound)
        return self._arguments.finished(call)

    def _limit_pending(self) -> None:
        """Finish the oldest inferences that hold contexts until few enough are left."""
        while len(self._pending) >= _MAX_BUSY:
            with contextlib.suppress(IndexError):  # another thread was faster
                oldest = self._pending.popleft()()
                if oldest is not None:
                    oldest.result()

    def _acquire(self, stream: int | None) -> Context:
        """Return a context that need not be waited for; wait only when very many are in use."""
        for _ in range(len(self._idle)):
            try:
                context = self._idle.pop()
            except IndexError:
                break
            if context.is_free_for(stream):
                return context
            self._idle.appendleft(context)
        if len(self._idle) >= _MAX_BUSY:
            with contextlib.suppress(IndexError):
                context = self._idle.pop()
                context.wait()
                return context
        return self._executor.create_context()


_Known = tuple[str, tuple[int, ...], np.dtype[Any]]


def _known(names: Sequence[str], arrays: Sequence[Any]) -> tuple[_Known, ...]:
    pairs = zip(names, arrays, strict=True)
    return tuple((name, array.shape, array.dtype) for name, array in pairs)


@dataclass(frozen=True)
class _Repeat:
    """The last inference on a device: name, shape and dtype of its arrays, and what they mean."""

    inputs: tuple[_Known, ...]
    outputs: tuple[_Known, ...]
    bound: BoundShapes


def load(
    path: str | Path | bytes | memoryview,
    *,
    threads: int | None = None,
    allow_native_code: bool = True,
    rebuild: Rebuild | None = None,
) -> Engine:
    """Load an engine file.

    Parameters
    ----------
    path : path, bytes or memoryview
        A ``.plan`` file, or what it holds (a map of a larger file, for example).
    threads : int, optional
        Threads of one inference; what the engine was built for by default.
    allow_native_code : bool
        False does not execute the machine code in the file: `rebuild` makes it again.
    rebuild : callable, optional
        Takes the parts that were read and returns parts with code made on this machine. It is
        also used when the code in the file is for another CPU.

    Raises
    ------
    EngineFileError
        When the file is missing or damaged.
    CompatibilityError
        When it was made for another CPU or format version, or native code is not allowed and
        `rebuild` is not given.
    """
    differs: list[CompatibilityError] = []
    where = IN_MEMORY if isinstance(path, bytes | memoryview) else os.fspath(path)

    def check(manifest: Mapping[str, Any]) -> None:
        try:
            check_machine(manifest, usable_features(), where)
        except CompatibilityError as error:
            if rebuild is None:
                raise
            differs.append(error)

    parts = read_engine(path, check).parts
    if parts.kernels is not None and (differs or not allow_native_code):
        if rebuild is None:
            raise CompatibilityError(
                "the engine holds machine code, and allow_native_code=False forbids to run it",
                where=where,
                fix="load a file that you trust with allow_native_code=True, or build the engine "
                "again from its model",
            )
        parts = rebuild(parts)
    engine = Engine(parts, threads=threads)
    engine.prepare()
    return engine
