"""Convolutions and matrix products by oneDNN, where its wheel is installed.

A second, independent implementation of the regions that matter most: it competes with the
generated kernels by measurement and is their cross-check in the tests. It costs what a library
costs: a call from Python per region (native segments are cut there), threads of its own, weights
twice in memory (plain in the engine, in oneDNN's layout once it runs), and copies where activations
lie in a way that its fast implementations do not read (see onednn/primitives.py). Only static
extents; f32, and bf16 on CPUs with AVX-512 (AMX is used by itself).

Configurations: `as` is "convolution" or "matmul" (1x1 convolutions as products over all pixels, in
any layout); `format` is "any", the weights' layout is oneDNN's choice; `library` is its version, so
that times in a cache belong to one version.
"""

from __future__ import annotations

from typing import ClassVar

from planish.backends.cpu.onednn.kernel import KIND
from planish.backends.cpu.onednn.library import library, why_unavailable
from planish.backends.cpu.onednn.lower import Lowered, RefusalError, lower
from planish.backends.cpu.onednn.primitives import choose
from planish.backends.cpu.onednn.problem import read_problem
from planish.errors import TacticError
from planish.tactics.tactic import YES, Config, ExternalKernel, Region, Support, Tactic, no
from planish.tactics.target import Target

FORMS = ("convolution", "matmul")


class OneDnn(Tactic):
    """oneDNN's convolution and matmul primitives; see the module's docstring."""

    name: ClassVar[str] = "onednn"
    rank: ClassVar[int] = 40

    def __init__(self) -> None:
        self._asked: tuple[Region, Target, tuple[list[str], str]] | None = None

    def supports(self, region: Region, target: Target) -> Support:
        """Accept what oneDNN has more than its reference implementation for."""
        forms, reason = self._forms(region, target)
        return YES if forms else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return the forms of the region that oneDNN is fast for."""
        version = library().version
        forms, _ = self._forms(region, target)
        return [{"as": form, "format": "any", "library": version} for form in forms]

    def build(self, region: Region, config: Config, target: Target) -> ExternalKernel:
        """Return the kernel with plain weights; oneDNN lays them out later."""
        try:
            lowered = lower(region, as_matmul=_by_matmul(region, str(config["as"])))
        except RefusalError as error:
            raise TacticError(f"onednn cannot do it: {error}", where=region.name) from error
        return ExternalKernel(KIND, lowered.parameters, tuple(lowered.packed))

    def _forms(self, region: Region, target: Target) -> tuple[list[str], str]:
        """Return `_forms`; `configs` follows `supports`, and asking oneDNN takes milliseconds."""
        asked = self._asked
        if asked is None or asked[0] is not region or asked[1] != target:
            self._asked = asked = (region, target, _forms(region, target))
        return asked[2]


def _forms(region: Region, target: Target) -> tuple[list[str], str]:
    """Return the forms in which oneDNN does `region` well, and why not the others."""
    found, reason = [], ""
    for form in FORMS if region.kind == "Conv" else FORMS[1:]:
        try:
            lowered = lower(region, as_matmul=_by_matmul(region, form))
        except RefusalError as error:
            reason = reason or str(error)
            continue
        missing = why_unavailable()
        if missing is not None:
            return [], missing
        refusal = _refusal(lowered, target)
        if refusal is None:
            found.append(form)
        reason = reason or refusal or ""
    return found, reason


def _by_matmul(region: Region, form: str) -> bool:
    return region.kind == "Conv" and form == "matmul"


def _refusal(lowered: Lowered, target: Target) -> str | None:
    """Return why oneDNN itself does not do it; None when it has a fast implementation."""
    problem = read_problem(lowered.parameters, lowered.operands, 1)
    onednn = library()
    with onednn.threads(target.threads):
        chosen = choose(onednn, problem)
    if isinstance(chosen, str):
        return chosen
    if chosen.is_reference:
        return f"oneDNN has only its reference implementation ({chosen.implementation}) for this"
    return None
