"""The CPU as a target: what it can do, how large its caches are, the compiler flags for it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from planish.runtime.cpu import usable_features
from planish.tactics.target import Target

# /proc/cpuinfo's name of a feature, and the option of gcc and clang that lets code use it
COMPILER_OPTIONS = {
    "sse4_1": "-msse4.1",
    "sse4_2": "-msse4.2",
    "popcnt": "-mpopcnt",
    "avx": "-mavx",
    "f16c": "-mf16c",
    "fma": "-mfma",
    "bmi1": "-mbmi",
    "bmi2": "-mbmi2",
    "avx2": "-mavx2",
    "avx_vnni": "-mavxvnni",
    "avx512f": "-mavx512f",
    "avx512cd": "-mavx512cd",
    "avx512bw": "-mavx512bw",
    "avx512dq": "-mavx512dq",
    "avx512vl": "-mavx512vl",
    "avx512vbmi": "-mavx512vbmi",
    "avx512_vbmi2": "-mavx512vbmi2",
    "avx512_vnni": "-mavx512vnni",
    "avx512_bf16": "-mavx512bf16",
    "avx512_fp16": "-mavx512fp16",
    "amx_tile": "-mamx-tile",
    "amx_int8": "-mamx-int8",
    "amx_bf16": "-mamx-bf16",
}


def detect(threads: int | None = None) -> Target:
    """Return this machine as a target.

    Parameters
    ----------
    threads : int, optional
        Threads that one inference uses; the cores that this process may run on by default.
    """
    caches = cache_sizes()
    default = Target("cpu", frozenset())
    return Target(
        device="cpu",
        features=usable_features() & COMPILER_OPTIONS.keys(),
        threads=threads or len(os.sched_getaffinity(0)),
        l1=caches.get(1, default.l1),
        l2=caches.get(2, default.l2),
        l3=caches.get(3, default.l3),
    )


def compile_flags(features: Iterable[str]) -> tuple[str, ...]:
    """Return the compiler options that allow exactly `features`, in a fixed order."""
    wanted = frozenset(features)
    options = tuple(option for name, option in COMPILER_OPTIONS.items() if name in wanted)
    # gcc and clang prefer 256 bits on their own, which halves the arithmetic of AVX-512 loops
    width = ("-mprefer-vector-width=512",) if "avx512f" in wanted else ()
    return options + width


def cache_sizes(root: Path = Path("/sys/devices/system/cpu")) -> dict[int, int]:
    """Return the bytes of the data cache of every level that sysfs lists."""
    cpu = min(os.sched_getaffinity(0))
    sizes: dict[int, int] = {}
    for index in sorted((root / f"cpu{cpu}" / "cache").glob("index*")):
        fields = {name: _read(index / name) for name in ("level", "type", "size")}
        if fields["type"] == "Instruction" or not fields["level"].isdigit():
            continue
        size = _bytes_of(fields["size"])
        if size:
            sizes[int(fields["level"])] = size
    return sizes


def _read(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""


def _bytes_of(text: str) -> int:
    """Return the bytes that sysfs spells like "48K" or "2M"; 0 for anything else."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    number, unit = text[:-1], text[-1:]
    return int(number) * units[unit] if number.isdigit() and unit in units else 0
