"""CUDA tactics: one file each; `discover` finds them, so adding a kernel is adding a file."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from planish.tactics.tactic import Tactic


def discover() -> list[Tactic]:
    """Return one instance of every concrete tactic in this folder, ordered by rank and name."""
    found: dict[str, Tactic] = {}
    for module_info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        for candidate in vars(module).values():
            if not inspect.isclass(candidate) or not issubclass(candidate, Tactic):
                continue
            if candidate.name and not inspect.isabstract(candidate):
                found.setdefault(candidate.name, candidate())
    return sorted(found.values(), key=lambda tactic: (tactic.rank, tactic.name))
