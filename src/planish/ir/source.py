"""Provenance: which of the user's nodes a node stands for. It survives every rewrite."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Where a node came from.

    Attributes
    ----------
    framework : str
        "onnx", "tensorflow", "torch" or "planish" (made by a pass from no single node).
    names : tuple of str
        The user's node names, in model order; several after a fusion.
    """

    framework: str = "planish"
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " + ".join(self.names) if self.names else f"({self.framework})"


def merge_sources(sources: Iterable[Source]) -> Source:
    """Return one source that names everything the given ones name, in order."""
    sources = tuple(sources)
    named = [source for source in sources if source.names]
    framework = (named or [Source()])[0].framework
    return Source(framework, tuple(dict.fromkeys(n for source in sources for n in source.names)))
