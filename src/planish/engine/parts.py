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
class DeviceKernel:
    """One cubin and what a launch of it has to know.

    Attributes
    ----------
    cubin : bytes
    entry : str
        Name of its function.
    shared : int
        Bytes of dynamic shared memory.
    warps : int
        Warps of a block.
    symbols : tuple of str
        Symbols whose values are its last parameters.
    workspace_bytes, counters : int
        See `tactics.tactic.TritonKernel`.
    """

    cubin: bytes
    entry: str
    shared: int
    warps: int
    symbols: tuple[str, ...]
    workspace_bytes: int = 0
    counters: int = 0


@dataclass(frozen=True)
class DeviceCode:
    """The compiled kernels of an engine for a GPU.

    Attributes
    ----------
    source : str
        All kernels as Triton source, for people.
    arch : int
        Compute capability without the point: 90 for sm_90.
    kernels : tuple of DeviceKernel
    functions : dict
        `Step.function` to the index of its kernel.
    compiler : str
        Name and version.
    """

    source: str
    arch: int
    kernels: tuple[DeviceKernel, ...]
    functions: Mapping[str, int]
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
    kernels: NativeCode | DeviceCode | None
    graph_text: str = ""
    report: Mapping[str, Any] = field(default_factory=dict)
