"""What the build needs of a device, and the table of devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from planish.backends.cpu.backend import CpuBackend
from planish.backends.cuda.backend import CudaBackend
from planish.engine.parts import DeviceCode, EngineParts, NativeCode
from planish.ir.graph import Node
from planish.plan.plan import Plan
from planish.tactics.autotune import Bench
from planish.tactics.tactic import Tactic
from planish.tactics.target import Target


class Backend(Protocol):
    """One device: detection, tactics, and turning kernels into loadable code."""

    def detect(self, threads: int | None, name: str | None = None) -> Target:
        """Return this machine, or the architecture of that name, as a target."""

    def tactics(self) -> list[Tactic]:
        """Return every tactic of the device, the declared fallback included."""

    def prints(self, node: Node) -> bool:
        """Return whether generated code can compute a pointwise node inside of a region."""

    def assemble(
        self,
        plan: Plan,
        kernels: Mapping[str, Any],
        target: Target,
        timeout: float | None = None,
    ) -> NativeCode | DeviceCode:
        """Compile the kernels of `plan` (by `Step.function`) and its driver.

        Raises CompileError when that fails or takes longer than `timeout` seconds.
        """

    def why_untimed(self, target: Target) -> str | None:
        """Return why kernels for `target` cannot be timed here; None when they can."""

    def bench(self, target: Target) -> Bench:
        """Return what compiles and times candidates."""

    def overlap(
        self, parts: EngineParts, spread: Callable[[int], Plan], streams: int | None
    ) -> Plan:
        """Return the engine's plan, or where it is measured faster one on several streams.

        `spread` makes the plan for a number of streams; `streams` are those that may be used
        besides the first, None for the device's own choice.
        """


BACKENDS: dict[str, type[Backend]] = {"cpu": CpuBackend, "cuda": CudaBackend}


def backend_for(device: str) -> Backend:
    """Return the backend of a device that `BuildConfig` accepts."""
    return BACKENDS[device]()
