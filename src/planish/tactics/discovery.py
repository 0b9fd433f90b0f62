"""Finding a device's tactics: every file of its folder may hold some."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

from planish.tactics.tactic import Tactic


def tactics_in(package: ModuleType) -> list[Tactic]:
    """Return one instance of every concrete tactic in `package`, ordered by rank and name."""
    found: dict[str, Tactic] = {}
    for module_info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{package.__name__}.{module_info.name}")
        for candidate in vars(module).values():
            if not inspect.isclass(candidate) or not issubclass(candidate, Tactic):
                continue
            if candidate.name and not inspect.isabstract(candidate):
                found.setdefault(candidate.name, candidate())
    return sorted(found.values(), key=lambda tactic: (tactic.rank, tactic.name))
