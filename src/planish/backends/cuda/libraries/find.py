"""Finding NVIDIA's shared libraries: of the system, or in the packages that carry them."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from planish.errors import CompatibilityError

# by name: the versions of the interface that are known to work here, the newest first, and the
# packages that carry the file
SONAMES = {
    "cublasLt": (("libcublasLt.so.13", "libcublasLt.so.12"), "nvidia-cublas"),
    "cudnn": (("libcudnn.so.9",), "nvidia-cudnn-cu13"),
}


@functools.cache
def load_library(name: str) -> ctypes.CDLL:
    """Return a library by its name ("cublasLt", "cudnn").

    Raises
    ------
    CompatibilityError
        When no version of it that can be used is found.
    """
    sonames, package = SONAMES[name]
    problems = []
    for candidate in (*_packaged(sonames), *sonames):
        try:
            return ctypes.CDLL(candidate)
        except OSError as error:
            problems.append(str(error))
    raise CompatibilityError(
        f"the library {name} is not found here ({problems[-1]})",
        where=", ".join(sonames),
        fix=f"pip install {package}, or build the engine without it (tactic_sources)",
    )


def is_installed(name: str) -> bool:
    """Return whether a library is found."""
    try:
        load_library(name)
    except CompatibilityError:
        return False
    return True


def _packaged(sonames: tuple[str, ...]) -> Iterator[str]:
    """Yield the paths of the library's files inside of installed packages of NVIDIA's."""
    found = importlib.util.find_spec("nvidia")
    for folder in found.submodule_search_locations or () if found else ():
        for soname in sonames:
            yield from map(str, sorted(Path(folder).glob(f"*/lib/{soname}")))
