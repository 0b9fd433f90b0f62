"""The CPU as a backend: generated C, one translation unit an engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from planish.backends.cpu.codegen.compile import compile_source, find_compiler
from planish.backends.cpu.codegen.driver import print_driver
from planish.backends.cpu.codegen.scalar import supported
from planish.backends.cpu.device import compile_flags, detect
from planish.backends.cpu.observe import NativeObserver
from planish.backends.cpu.tactics import discover
from planish.backends.reference.tactic import ReferenceTactic, RefuseTactic
from planish.config import environment
from planish.engine.parts import EngineParts, NativeCode
from planish.errors import ConfigError
from planish.ir.graph import Node
from planish.plan.plan import Plan
from planish.tactics.bench import NativeBench
from planish.tactics.tactic import Kernel, Tactic
from planish.tactics.target import Target


class CpuBackend:
    """Detection, tactics and compilation for x86-64 CPUs."""

    def detect(self, threads: int | None, name: str | None = None) -> Target:
        """Return this machine as a target; it has no other name than "native"."""
        if name not in (None, "native"):
            raise ConfigError(
                f"target is {name!r}, but CPU engines are built for the machine that builds them",
                fix="leave target out, or use device='cuda'",
            )
        return detect(threads)

    def tactics(self) -> list[Tactic]:
        """Return the generated kernels, libraries, and the numpy reference."""
        return [*discover(), RefuseTactic(), ReferenceTactic()]

    def prints(self, node: Node) -> bool:
        """Return whether `node` has a form in scalar C."""
        return supported(node) is None

    def why_untimed(self, target: Target) -> str | None:
        """Return None: engines for CPUs are built where they run."""
        return None

    def overlap(
        self, parts: EngineParts, spread: Callable[[int], Plan], streams: int | None
    ) -> Plan:
        """Return the plan: on a CPU every step has all threads."""
        return parts.plan

    def bench(self, target: Target) -> NativeBench:
        """Return what compiles and times candidates."""
        return NativeBench(target, self.assemble)

    def observer(self, target: Target) -> NativeObserver:
        """Return the kernel that adds float32 arrays to histograms, compiled."""
        return NativeObserver(target)

    def assemble(
        self,
        plan: Plan,
        kernels: Mapping[str, Kernel],
        target: Target,
        timeout: float | None = None,
    ) -> NativeCode:
        """Print and compile one translation unit; see `Backend.assemble`."""
        source = print_driver(plan, kernels)
        compiler = find_compiler()
        flags = compile_flags(target.features)
        code = compile_source(source, flags, timeout=timeout, compiler=compiler)
        folder = environment("PLANISH_DUMP")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            Path(folder, f"engine-{os.getpid()}.c").write_text(source)
        features = tuple(sorted(target.features))
        return NativeCode(source, code, features, compiler.version, target.threads)
