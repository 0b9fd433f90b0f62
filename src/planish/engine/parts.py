"""What an engine is made of, in memory and in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from planish.plan.plan import Plan

Array = np.ndarray[Any, Any]


class Weights(Protocol):
    """Packed constants: arrays at byte offsets of one memory (`plan.weights.WeightPool` is one)."""

    @property
    def bytes(self) -> int:
        """Size of the memory."""

    @property
    def arrays(self) -> Sequence[tuple[int, Array]]:
        """Offset and contents; gaps are zero."""


@dataclass(frozen=True)
class PackedWeights:
    """Weights that already lie in one array of bytes."""

    memory: Array

    @property
    def bytes(self) -> int:
        """Size of the memory."""
        return int(self.memory.nbytes)

    @property
    def arrays(self) -> Sequence[tuple[int, Array]]:
        """The one array, at offset 0."""
        return ((0, self.memory),)


@dataclass(frozen=True)
class LooseWeights:
    """Constants that still lie where they were packed, and the size of the memory to fill."""

    bytes: int
    arrays: Sequence[tuple[int, Array]]


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
    weights : Weights or sequence of (offset, array)
        The size of the memory of a sequence is the plan's `memory.weights`.
    kernels : NativeCode or None
        None when every step is external.
    graph_text : str
        The optimized graph, for people and for building the engine again.
    report : dict
        `BuildReport.to_dict()`; may be empty.
    """

    plan: Plan
    weights: Weights | Sequence[tuple[int, Array]]
    kernels: NativeCode | None
    graph_text: str = ""
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def packed(self) -> Weights:
        """The weights with their size."""
        if isinstance(self.weights, Sequence):
            return LooseWeights(self.plan.memory.weights, self.weights)
        return self.weights
