"""NVIDIA GPUs as a backend: Triton kernels, compiled ahead to cubins."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from planish.backends.cuda.bench import CudaBench
from planish.backends.cuda.codegen.compile import ENTRY, compile_kernels
from planish.backends.cuda.codegen.expressions import supported
from planish.backends.cuda.device import architecture_of, detect
from planish.backends.cuda.overlap import fastest_plan
from planish.backends.cuda.tactics import discover
from planish.backends.reference.tactic import ReferenceTactic, RefuseTactic
from planish.engine.parts import DeviceCode, DeviceKernel, EngineParts
from planish.errors import CompileError
from planish.ir.graph import Node
from planish.plan.plan import Plan
from planish.runtime.cuda.driver import device, is_present
from planish.tactics.tactic import Tactic, TritonKernel
from planish.tactics.target import Target

AUXILIARY_STREAMS = 3  # tried unless the configuration has another number


class CudaBackend:
    """Tactics and compilation for one GPU architecture."""

    def detect(self, threads: int | None, name: str | None = None) -> Target:
        """Return the architecture of that name, or of the GPU that is here, as a target."""
        return detect(name)

    def tactics(self) -> list[Tactic]:
        """Return the generated kernels, and the numpy reference, which runs on the host."""
        return [*discover(), RefuseTactic(), ReferenceTactic()]

    def prints(self, node: Node) -> bool:
        """Return whether `node` has a Triton form."""
        return supported(node) is None

    def assemble(
        self,
        plan: Plan,
        kernels: Mapping[str, TritonKernel],
        target: Target,
        timeout: float | None = None,
    ) -> DeviceCode:
        """Compile the kernels of `plan`; see `Backend.assemble`."""
        names = list(kernels)
        arch = architecture_of(target)
        cubins = compile_kernels([kernels[name] for name in names], arch, timeout)
        found = []
        for name, cubin in zip(names, cubins, strict=True):
            if isinstance(cubin, CompileError):
                raise CompileError(f"{name}: {cubin}", where="Triton")
            kernel = kernels[name]
            found.append(
                DeviceKernel(
                    cubin.code, ENTRY, cubin.shared, cubin.warps, plan.symbols,
                    kernel.workspace_bytes, kernel.counters,
                )
            )  # fmt: skip
        source = "\n\n".join(kernels[n].source.replace("@NAME@", n) for n in names)
        functions = {name: index for index, name in enumerate(names)}
        return DeviceCode(source, arch, tuple(found), functions, "triton")

    def why_untimed(self, target: Target) -> str | None:
        """Return a reason unless the GPU here is one of the target's architecture."""
        if not is_present():
            return "there is no GPU here"
        if device().arch != architecture_of(target):
            return f"the GPU here is sm_{device().arch}"
        return None

    def overlap(
        self, parts: EngineParts, spread: Callable[[int], Plan], streams: int | None
    ) -> Plan:
        """Return the faster plan; see `Backend.overlap`."""
        most = 1 + (AUXILIARY_STREAMS if streams is None else streams)
        return fastest_plan(parts, spread, most)

    def bench(self, target: Target) -> CudaBench:
        """Return what compiles and times candidates."""
        return CudaBench(target, architecture_of(target))
