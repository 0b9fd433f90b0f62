"""The CPU as a target: what it can do, asked of the kernel, and the compiler flags for it.

Instruction sets come from the flags in /proc/cpuinfo (which the kernel reduces to what it saves
and restores), never from a model's name: virtual machines report wrong names. AMX tiles need a
permission besides the flag, so the flag counts only when ``arch_prctl`` grants it.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterable
from pathlib import Path

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

_ARCH_PRCTL = 158  # system call number on x86-64
_ARCH_REQ_XCOMP_PERM = 0x1023
_XFEATURE_XTILEDATA = 18


def detect(threads: int | None = None) -> Target:
    """Return this machine as a target.

    Parameters
    ----------
    threads : int, optional
        Threads that one inference uses; the cores that this process may run on by default.
    """
    flags = cpu_flags()
    if "amx_tile" in flags and not request_amx():
        flags = frozenset(flag for flag in flags if not flag.startswith("amx_"))
    caches = cache_sizes()
    default = Target("cpu", frozenset())
    return Target(
        device="cpu",
        features=flags & COMPILER_OPTIONS.keys(),
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


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the flags of the first CPU in /proc/cpuinfo; none where the file has no such line."""
    if not path.is_file():
        return frozenset()
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


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


def request_amx() -> bool:
    """Ask the kernel to let this process use AMX tiles; say whether it agreed."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0)


def _read(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""


def _bytes_of(text: str) -> int:
    """Return the bytes that sysfs spells like "48K" or "2M"; 0 for anything else."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    number, unit = text[:-1], text[-1:]
    return int(number) * units[unit] if number.isdigit() and unit in units else 0
