"""What an engine needs of a device at run time, and which executor serves which code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from planish.engine.parts import DeviceCode, EngineParts
from planish.runtime.cuda.arrays import DeviceArray
from planish.runtime.cuda.executor import CudaExecutor
from planish.runtime.executor import Executor
from planish.runtime.native import NativeObject
from planish.runtime.pending import Ticket
from planish.runtime.shapes import BoundShapes

Array = np.ndarray[Any, Any]


class Context(Protocol):
    """The memory of one inference at a time, made by one engine for itself."""

    def bind(self, binding: BoundShapes, /) -> None:
        """Set the values of everything dynamic."""

    def is_free_for(self, stream: int | None) -> bool:
        """Return whether an inference on a stream (None: the context's) may begin at once."""

    def wait(self) -> None:
        """Wait until the last inference is done."""


class PlanExecutor(Protocol):
    """Runs one plan for any number of threads, each with a context of its own."""

    def create_context(self) -> Context:
        """Return fresh memory."""

    def take(self, given: Any, name: str) -> DeviceArray | None:
        """Return another library's array on the device; None when it is not on this one."""

    def empty(
        self,
        shapes: tuple[tuple[int, ...] | None, ...],
        dtypes: tuple[np.dtype[Any], ...],
        stream: int | None,
    ) -> list[Any]:
        """Return arrays on the device for work on a stream (None: a context's).

        None stands for those of unknown shape, and of strings.
        """

    def stream_of(self, stream: Any) -> int | None:
        """Return the handle of a stream, None for none; raise InputError for what is no stream."""

    def run(self, context: Any, inputs: Sequence[Any], outputs: list[Any]) -> None:
        """Run one inference; see `planish.runtime.executor.Executor.run`."""

    def run_timed(
        self, context: Any, inputs: Sequence[Any], outputs: list[Any], times: Array
    ) -> None:
        """Run one inference and add the nanoseconds of every step to `times` (uint64)."""

    def start(
        self, context: Any, inputs: Sequence[Any], outputs: list[Any], stream: int | None
    ) -> Ticket:
        """Begin one inference."""


def executor_of(parts: EngineParts, threads: int) -> PlanExecutor:
    """Return the executor for the code in `parts`.

    Raises
    ------
    CompatibilityError
        When this machine lacks what the code needs.
    """
    if isinstance(parts.kernels, DeviceCode):
        return CudaExecutor(parts.plan, parts.kernels, parts.weights)
    native = NativeObject(parts.kernels.code) if parts.kernels else None
    return Executor(parts.plan, native, parts.weights, threads)
