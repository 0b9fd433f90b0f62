"""The tactic of last resort: any region, run by the interpreter; and refusals, which only raise."""

from __future__ import annotations

from typing import ClassVar

from planish.backends.reference.kernel import reference_kernel
from planish.tactics.tactic import YES, Config, ExternalKernel, Region, Support, Tactic, no
from planish.tactics.target import Target


class ReferenceTactic(Tactic):
    """Runs a region's body with numpy, one operator after another: right, and slow."""

    name: ClassVar[str] = "reference"
    rank: ClassVar[int] = 1000

    def supports(self, region: Region, target: Target) -> Support:
        """Say yes: every operator has a reference."""
        return YES

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return the only configuration."""
        return [{}]

    def build(self, region: Region, config: Config, target: Target) -> ExternalKernel:
        """Return the body as an external kernel."""
        return reference_kernel(region.body)


class RefuseTactic(ReferenceTactic):
    """Raises a branch's refusal. Nothing is computed, so this is no slow fallback to warn of."""

    name: ClassVar[str] = "refuse"
    rank: ClassVar[int] = 0

    def supports(self, region: Region, target: Target) -> Support:
        """Say yes to a Refuse alone."""
        return YES if region.kind == "planish.Refuse" else no("it only raises refusals")
