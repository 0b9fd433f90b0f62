"""Kernels that belong to a library on the device, recorded into graphs like an engine's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from planish.plan.plan import Plan, Step

# kinds of external kernels that run on the device; see `runtime.external`
DEVICE_KINDS = frozenset({"cublaslt", "cudnn"})


class LibraryCall(Protocol):
    """A library's operation of one step; shared by all contexts.

    Attributes
    ----------
    workspace_bytes : int
        Device memory that it may overwrite.
    """

    workspace_bytes: int

    def record(
        self, stream: int, pointers: Sequence[int], symbols: Mapping[str, int], workspace: int
    ) -> None:
        """Put it on a stream, which may be capturing.

        Parameters
        ----------
        stream : int
            Handle.
        pointers : sequence of int
            Addresses of the step's bindings.
        symbols : dict
            Values of symbolic extents.
        workspace : int
            Address of `workspace_bytes` bytes.
        """


@dataclass(frozen=True)
class LibraryLaunch:
    """A call with its arguments. Unlike a kernel's, they cannot be changed in a graph."""

    call: LibraryCall
    pointers: Sequence[int]
    symbols: Mapping[str, int]
    workspace: int

    def put(self, stream: int) -> None:
        """Put it on the stream of this handle."""
        self.call.record(stream, self.pointers, self.symbols, self.workspace)


def is_on_device(plan: Plan, step: Step) -> bool:
    """Return whether a step runs on the device, be it a kernel or a library's."""
    return step.external is None or plan.externals[step.external][0] in DEVICE_KINDS
