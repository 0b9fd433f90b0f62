"""Rewrite rules, one file each, found by discovery in the order of their file names."""

from __future__ import annotations

import importlib
import pkgutil

from planish.ir.rewrite import Rule


def _discover() -> tuple[type[Rule], ...]:
    found: list[type[Rule]] = []
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{__name__}.{info.name}")
        rules = [
            each
            for each in vars(module).values()
            if isinstance(each, type)
            and issubclass(each, Rule)
            and each.__module__ == module.__name__
        ]
        if len(rules) != 1:
            raise TypeError(f"{module.__name__} defines {len(rules)} rules, expected 1")
        found.extend(rules)
    return tuple(found)


RULES: tuple[type[Rule], ...] = _discover()
