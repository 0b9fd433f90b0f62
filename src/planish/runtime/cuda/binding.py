"""The CUDA driver's library through ctypes: which calls are used, their types, and their errors.

Nothing but libcuda.so.1, which is part of the NVIDIA driver, is needed. Handles and addresses are
plain integers; a call returns its status.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

from planish.errors import CompatibilityError, DeviceError

LIBRARY = "libcuda.so.1"

OUT_OF_MEMORY = 2
NO_DEVICE = 100
NOT_READY = 600
NO_BINARY = (200, 209, 218, 222)  # the code is for another architecture
# after one of these every further call of the process fails
FATAL = frozenset({214, 220, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719})

MULTIPROCESSORS, L2_BYTES, MAJOR, MINOR = 16, 38, 75, 76  # CUdevice_attribute
DEVICE_ORDINAL = 9  # CUpointer_attribute
MAX_DYNAMIC_SHARED = 8  # CUfunction_attribute
PROGRAMMATIC_SERIALIZATION = 6  # CUlaunchAttributeID
NON_BLOCKING = 1  # CUstream_flags
CAPTURE_THREAD_LOCAL = 1  # CUstreamCaptureMode
NO_TIMING = 2  # CUevent_flags
LEGACY_STREAM = 1  # the handle that means the default stream


class LaunchAttribute(ctypes.Structure):
    """``CUlaunchAttribute``; the value is a union of 64 bytes, here its first integer."""

    _fields_ = (("id", c_int), ("padding", c_int), ("value", c_int), ("rest", c_int * 15))


class LaunchConfig(ctypes.Structure):
    """``CUlaunchConfig``."""

    _fields_ = (
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("shared", c_uint),
        ("stream", c_void_p),
        ("attributes", ctypes.POINTER(LaunchAttribute)),
        ("attribute_count", c_uint),
    )


class KernelNodeParameters(ctypes.Structure):
    """``CUDA_KERNEL_NODE_PARAMS_v1``."""

    _fields_ = (
        ("function", c_void_p),
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("shared", c_uint),
        ("parameters", c_void_p),
        ("extra", c_void_p),
    )


_CALLS: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuGetErrorName": (c_int, c_void_p),
    "cuGetErrorString": (c_int, c_void_p),
    "cuDeviceGetCount": (c_void_p,),
    "cuDeviceGet": (c_void_p, c_int),
    "cuDeviceGetName": (c_void_p, c_int, c_int),
    "cuDeviceGetAttribute": (c_void_p, c_int, c_int),
    "cuDevicePrimaryCtxRetain": (c_void_p, c_int),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemGetInfo_v2": (c_void_p, c_void_p),
    "cuMemAlloc_v2": (c_void_p, c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (c_void_p, c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoD_v2": (c_uint64, c_void_p, c_size_t),
    "cuMemcpyDtoH_v2": (c_void_p, c_uint64, c_size_t),
    "cuMemcpyDtoD_v2": (c_uint64, c_uint64, c_size_t),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuMemcpyDtoDAsync_v2": (c_uint64, c_uint64, c_size_t, c_void_p),
    "cuMemsetD8_v2": (c_uint64, ctypes.c_ubyte, c_size_t),
    "cuMemsetD32Async": (c_uint64, c_uint, c_size_t, c_void_p),
    "cuPointerGetAttribute": (c_void_p, c_int, c_uint64),
    "cuStreamCreate": (c_void_p, c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamWaitEvent": (c_void_p, c_void_p, c_uint),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, c_void_p),
    "cuStreamGetCaptureInfo_v2": (c_void_p,) * 6,
    "cuEventCreate": (c_void_p, c_uint),
    "cuEventDestroy_v2": (c_void_p,),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventQuery": (c_void_p,),
    "cuEventSynchronize": (c_void_p,),
    "cuEventElapsedTime": (ctypes.POINTER(c_float), c_void_p, c_void_p),
    "cuModuleLoadData": (c_void_p, c_void_p),
    "cuModuleUnload": (c_void_p,),
    "cuModuleGetFunction": (c_void_p, c_void_p, ctypes.c_char_p),
    "cuFuncSetAttribute": (c_void_p, c_int, c_int),
    "cuLaunchKernelEx": (c_void_p, c_void_p, c_void_p, c_void_p),
    "cuGraphInstantiateWithFlags": (c_void_p, c_void_p, ctypes.c_ulonglong),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphExecKernelNodeSetParams": (c_void_p, c_void_p, c_void_p),
    "cuGraphLaunch": (c_void_p, c_void_p),
}


@functools.cache
def library() -> Any:
    """Return the driver's library; raise CompatibilityError where it is missing or too old."""
    try:
        found: Any = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise CompatibilityError(
            f"there is no NVIDIA driver here ({error})",
            where=LIBRARY,
            fix="install the NVIDIA driver (in a container: run it with --gpus all), or build the "
            "engine with device='cpu'",
        ) from error
    for name, arguments in _CALLS.items():
        try:
            function = getattr(found, name)
        except AttributeError as error:
            raise CompatibilityError(
                f"the NVIDIA driver has no {name}: it is older than CUDA 11.8",
                where=LIBRARY,
                fix="install a newer NVIDIA driver",
            ) from error
        function.argtypes, function.restype = arguments, c_int
    return found


def check(status: int) -> None:
    """Raise DeviceError unless a call succeeded."""
    if status == 0:
        return
    fatal = status in FATAL
    raise DeviceError(
        f"the CUDA driver failed with {_explained(status)}",
        where="NVIDIA GPU",
        fix="start the process again: the driver refuses everything after such an error"
        if fatal
        else None,
    )


def _explained(status: int) -> str:
    texts = []
    for function in (library().cuGetErrorName, library().cuGetErrorString):
        text = ctypes.c_char_p()
        function(status, ctypes.byref(text))
        texts.append((text.value or b"?").decode())
    return f"{texts[0]} ({status}): {texts[1]}"


def initialize() -> None:
    """Start the driver; raise CompatibilityError where there is no usable one, or no GPU."""
    status = library().cuInit(0)
    if status == NO_DEVICE:
        raise CompatibilityError(
            "there is an NVIDIA driver here, but it shows no GPU",
            where="cuInit",
            fix="look at nvidia-smi and at CUDA_VISIBLE_DEVICES, or use device='cpu'",
        )
    if status != 0:
        raise CompatibilityError(
            f"the NVIDIA driver does not start: {_explained(status)}",
            where="cuInit",
            fix="look at nvidia-smi, or build the engine with device='cpu'",
        )
