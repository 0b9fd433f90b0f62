"""Counts the magnitudes of activations at the speed of memory: observe.c, compiled once."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from planish.backends.cpu.codegen.compile import compile_source
from planish.backends.cpu.device import compile_flags
from planish.runtime.native import load_library
from planish.tactics.target import Target

Array = np.ndarray[Any, Any]

_SOURCE = Path(__file__).with_name("observe.c")


class NativeObserver:
    """Adds arrays to histograms; the lock of Python is released meanwhile.

    Parameters
    ----------
    target : Target
        Whose instructions it uses.

    Raises
    ------
    CompileError
        When there is no C compiler.
    """

    def __init__(self, target: Target) -> None:
        code = compile_source(_SOURCE.read_text(), compile_flags(target.features))
        self._library = load_library(code)
        self._observe = self._library.planish_observe
        self._observe.argtypes = (
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_void_p,
            ctypes.c_void_p,
        )
        self._observe.restype = None

    def __call__(self, array: Array, bins: Array, state: Array) -> None:
        """Count the elements of a C-contiguous float32 array.

        Parameters
        ----------
        array : float32, any shape
        bins, state : array
            Of a `planish.quantize.histogram.FineHistogram`.
        """
        self._observe(array.ctypes.data, array.size, bins.ctypes.data, state.ctypes.data)
