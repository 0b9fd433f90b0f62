"""What this process may use of the CPU.

Instruction sets come from the flags in /proc/cpuinfo (which the kernel reduces to what it saves
and restores), never from a model's name: virtual machines report wrong names. AMX tiles need a
permission besides the flag, so the flag counts only when ``arch_prctl`` grants it.
"""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

_ARCH_PRCTL = 158  # system call number on x86-64
_ARCH_REQ_XCOMP_PERM = 0x1023
_XFEATURE_XTILEDATA = 18


def usable_features() -> frozenset[str]:
    """Return the CPU flags, without AMX where the kernel refuses tiles to this process."""
    flags = cpu_flags()
    if "amx_tile" in flags and not request_amx():
        return frozenset(flag for flag in flags if not flag.startswith("amx_"))
    return flags


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the flags of the first CPU in /proc/cpuinfo; none where the file has no such line."""
    if not path.is_file():
        return frozenset()
    with path.open() as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == "flags":
                return frozenset(value.split())
    return frozenset()


def request_amx() -> bool:
    """Ask the kernel to let this process use AMX tiles; say whether it agreed."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0)
