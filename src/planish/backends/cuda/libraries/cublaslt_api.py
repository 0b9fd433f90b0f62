"""cuBLASLt's C functions and numbers, through ctypes (from the documentation of cublasLt.h)."""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_float, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

from planish.backends.cuda.libraries.find import load_library
from planish.errors import DeviceError
from planish.ir.dtypes import BF16, F8E4M3, F16, F32, DType

# cudaDataType
TYPES: dict[DType, int] = {F32: 0, F16: 2, BF16: 14, F8E4M3: 28}
COMPUTE_F32 = 68  # cublasComputeType_t: sums in float32
TRANSPOSED = 1  # cublasOperation_t

# cublasLtMatmulDescAttributes_t
TRANSPOSE_A, TRANSPOSE_B, EPILOGUE, BIAS_POINTER, BIAS_TYPE = 3, 4, 7, 8, 26
# cublasLtEpilogue_t: bits that add up, except for the first
PLAIN, RELU, BIAS, GELU_TANH = 1, 2, 4, 32
# cublasLtMatmulPreferenceAttributes_t
WORKSPACE_LIMIT = 1


class Algorithm(ctypes.Structure):
    """``cublasLtMatmulAlgo_t``: opaque, and may be stored for the same version of the library."""

    _fields_ = (("data", c_uint64 * 8),)


class Heuristic(ctypes.Structure):
    """``cublasLtMatmulHeuristicResult_t``."""

    _fields_ = (
        ("algorithm", Algorithm),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    )


@functools.cache
def library() -> ctypes.CDLL:
    """Return the library with the types of its functions declared."""
    found = load_library("cublasLt")
    pointer = c_void_p
    signatures: dict[str, tuple[Any, ...]] = {
        "cublasLtCreate": (pointer,),
        "cublasLtMatmulDescCreate": (pointer, c_int, c_int),
        "cublasLtMatmulDescDestroy": (pointer,),
        "cublasLtMatmulDescSetAttribute": (pointer, c_int, pointer, c_size_t),
        "cublasLtMatrixLayoutCreate": (pointer, c_int, c_uint64, c_uint64, ctypes.c_int64),
        "cublasLtMatrixLayoutDestroy": (pointer,),
        "cublasLtMatmulPreferenceCreate": (pointer,),
        "cublasLtMatmulPreferenceDestroy": (pointer,),
        "cublasLtMatmulPreferenceSetAttribute": (pointer, c_int, pointer, c_size_t),
        "cublasLtMatmulAlgoGetHeuristic": (
            *(pointer,) * 7, c_int, ctypes.POINTER(Heuristic), ctypes.POINTER(c_int),
        ),
        "cublasLtMatmul": (
            pointer, pointer, pointer, pointer, pointer, pointer, pointer, pointer, pointer,
            pointer, pointer, pointer, ctypes.POINTER(Algorithm), pointer, c_size_t, pointer,
        ),
    }  # fmt: skip
    for name, arguments in signatures.items():
        function = getattr(found, name)
        function.argtypes, function.restype = arguments, c_int
    found.cublasLtGetVersion.restype = c_size_t
    return found


def call(name: str, *arguments: Any) -> None:
    """Call a function; raise DeviceError when its status is not zero."""
    status = getattr(library(), name)(*arguments)
    if status != 0:
        raise DeviceError(f"{name} failed with status {status}", where="cuBLASLt")


@functools.cache
def handle() -> c_void_p:
    """Return the library's handle for the current device; it may be used by all threads."""
    made = c_void_p()
    call("cublasLtCreate", ctypes.byref(made))
    return made


def version() -> int:
    """Return the library's version, like 130100."""
    return int(library().cublasLtGetVersion())


class Owned:
    """A descriptor of the library, destroyed with the object."""

    def __init__(self, kind: str, *arguments: Any) -> None:
        self.pointer = c_void_p()
        self._destroy = f"{kind}Destroy"
        call(f"{kind}Create", ctypes.byref(self.pointer), *arguments)

    def set(self, attribute: int, value: Any) -> None:
        """Give an attribute the value of a ctypes object."""
        kind = self._destroy.removesuffix("Destroy")
        call(
            f"{kind}SetAttribute", self.pointer, attribute, ctypes.byref(value),
            ctypes.sizeof(value),
        )  # fmt: skip

    def __del__(self) -> None:
        if self.pointer:
            getattr(library(), self._destroy)(self.pointer)


def unsigned(number: int) -> c_uint32:
    """Return a 32-bit number as attributes take it."""
    return c_uint32(number)
