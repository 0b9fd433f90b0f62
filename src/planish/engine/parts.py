"""What an engine is made of, in memory and in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from planish.plan.plan import Plan

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class NativeCode:
    """The compiled kernels of an engine.

    Attributes
    ----------
    source : str
        The translation unit.
    code : bytes
        The shared object compiled from it.
    features : tuple of str
        CPU flags (as /proc/cpuinfo spells them) that the code was compiled for.
    compiler : str
        Name and version of the compiler.
    threads : int
        Threads that one inference uses by default.
    """

    source: str
    code: bytes
    features: tuple[str, ...]
    compiler: str
    threads: int = 1


@dataclass(frozen=True)
class EngineParts:
    """Everything that makes an engine.

    Attributes
    ----------
    plan : Plan
    weights : array
        The memory of the packed constants, as bytes (uint8).
    kernels : NativeCode or None
        None when every step is external.
    graph_text : str
        The optimized graph, for people and for building the engine again.
    report : dict
        `BuildReport.to_dict()`; may be empty.
    """

    plan: Plan
    weights: Array
    kernels: NativeCode | None
    graph_text: str = ""
    report: Mapping[str, Any] = field(default_factory=dict)
