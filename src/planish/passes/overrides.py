"""Precision that the user gives single layers: `BuildConfig.layer_precisions`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from fnmatch import fnmatchcase

from planish.errors import ConfigError
from planish.ir.graph import Graph, Node


def wanted_precision(node: Node, overrides: Mapping[str, str]) -> str | None:
    """Return the precision that the last matching pattern gives `node`, or None.

    Patterns are compared with the names of the user's nodes that `node` stands for, and with
    those of its outputs.
    """
    if not overrides:
        return None
    names = _names(node)
    found = None
    for pattern, precision in overrides.items():
        if any(fnmatchcase(name, pattern) for name in names):
            found = precision
    return found


def check_overrides(graph: Graph, overrides: Mapping[str, str]) -> None:
    """Raise ConfigError when a pattern matches no layer of a graph as it was imported."""
    if not overrides:
        return
    names = list(dict.fromkeys(name for node in graph for name in _names(node)))
    for pattern in overrides:
        if any(fnmatchcase(name, pattern) for name in names):
            continue
        near = difflib.get_close_matches(pattern, names, n=3)
        raise ConfigError(
            f"no layer or tensor is called {pattern!r}",
            where="BuildConfig.layer_precisions",
            fix=f"did you mean {' or '.join(map(repr, near))}?"
            if near
            else f"names are like {', '.join(map(repr, names[:3]))}; patterns may hold * and ?",
        )


def _names(node: Node) -> tuple[str, ...]:
    return (*node.source.names, *(output.origin or output.name for output in node.outputs))


def exactly(name: str) -> str:
    """Return a pattern that matches `name` and nothing else."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
