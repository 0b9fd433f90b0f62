"""The machine an engine is built for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """Device, instruction sets and sizes that tactics decide by.

    Attributes
    ----------
    device : str
        "cpu" or "cuda".
    features : frozenset of str
        CPU flags as /proc/cpuinfo spells them ("avx2", "fma", "avx512f", "avx512_bf16",
        "amx_bf16", ...), reduced to what the operating system lets us use.
    threads : int
        Threads that one inference uses.
    l1, l2, l3 : int
        Cache sizes in bytes (per core for L1 and L2).
    multiprocessors : int
        Of a GPU.
    """

    device: str
    features: frozenset[str]
    threads: int = 1
    l1: int = 32 << 10
    l2: int = 1 << 20
    l3: int = 32 << 20
    multiprocessors: int = 0

    def has(self, *names: str) -> bool:
        """Whether every named feature is there."""
        return self.features.issuperset(names)
