"""The CUDA driver's calls, each checked: the only file that knows the binding."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np

from planish.errors import CompatibilityError, DeviceError

Array = np.ndarray[Any, Any]

# From this architecture on a kernel may be launched before the one ahead of it on the stream has
# ended: its blocks take their places and wait, which hides the latency of the launch. Generated
# kernels begin with that wait (`planish_begin`).
PROGRAMMATIC_LAUNCH = 90


@functools.cache
def binding() -> Any:
    """Return the driver's module; raise CompatibilityError where it is missing."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise CompatibilityError(
            f"engines for NVIDIA GPUs need the package cuda-bindings ({error})",
            fix="pip install planish[cuda]",
        ) from error
    return driver


def check(result: Any) -> Any:
    """Return what a driver call gave besides its status; raise DeviceError when it failed."""
    status, *values = result
    if int(status) != 0:
        driver = binding()
        _, name = driver.cuGetErrorName(status)
        _, text = driver.cuGetErrorString(status)
        explained = f"{(name or b'').decode()}: {(text or b'').decode()}"
        raise DeviceError(f"the CUDA driver failed with {explained}", where="NVIDIA GPU")
    if not values:
        return None
    return values[0] if len(values) == 1 else values


class Device:
    """One GPU and its primary context, made current in every thread that calls `use`."""

    def __init__(self, ordinal: int = 0) -> None:
        driver = binding()
        status = driver.cuInit(0)[0]
        if int(status) != 0:
            raise CompatibilityError(
                "there is no usable NVIDIA driver here",
                where=f"cuInit returned {int(status)}",
                fix="install the NVIDIA driver, or build the engine with device='cpu'",
            )
        if check(driver.cuDeviceGetCount()) <= ordinal:
            raise CompatibilityError("there is no NVIDIA GPU here", fix="use device='cpu'")
        self._device = check(driver.cuDeviceGet(ordinal))
        self._context = check(driver.cuDevicePrimaryCtxRetain(self._device))
        self.use()
        attributes = driver.CUdevice_attribute
        self.multiprocessors = self._attribute(attributes.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        major = self._attribute(attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
        minor = self._attribute(attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
        self.arch = 10 * major + minor
        self.l2 = self._attribute(attributes.CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)
        self.name = check(driver.cuDeviceGetName(128, self._device)).rstrip(b"\0").decode()

    def use(self) -> None:
        """Make the device's context current in the calling thread."""
        check(binding().cuCtxSetCurrent(self._context))

    def free_bytes(self) -> int:
        """Return the device memory that is free."""
        free, _ = check(binding().cuMemGetInfo())
        return int(free)

    def _attribute(self, attribute: Any) -> int:
        return int(check(binding().cuDeviceGetAttribute(attribute, self._device)))


@functools.cache
def device(ordinal: int = 0) -> Device:
    """Return a GPU, initialized once a process."""
    return Device(ordinal)


class DeviceMemory:
    """A block of device memory, given back with the object."""

    def __init__(self, size: int) -> None:
        self._owner = device()
        self._owner.use()
        self.size = max(size, 256)
        result = binding().cuMemAlloc(self.size)
        if int(result[0]) == int(binding().CUresult.CUDA_ERROR_OUT_OF_MEMORY):
            raise DeviceError(
                f"the GPU has no {self.size / 2**20:.1f} MiB left "
                f"({self._owner.free_bytes() / 2**20:.1f} MiB are free)",
                fix="lower the largest shapes of the profiles, or free device memory",
            )
        self.address = int(check(result))

    def fill_zero(self) -> None:
        """Set all bytes to zero."""
        check(binding().cuMemsetD8(self.address, 0, self.size))

    def write(self, array: Array) -> None:
        """Copy an array's bytes to the start."""
        check(binding().cuMemcpyHtoD(self.address, array.ctypes.data, array.nbytes))

    def read(self, array: Array, offset: int = 0) -> None:
        """Copy bytes from `offset` on into an array."""
        check(binding().cuMemcpyDtoH(array.ctypes.data, self.address + offset, array.nbytes))

    def __del__(self) -> None:
        address = getattr(self, "address", 0)
        if address:
            self._owner.use()
            binding().cuMemFree(address)


class PinnedMemory:
    """Host memory that the GPU copies to and from directly."""

    def __init__(self, size: int) -> None:
        self._owner = device()
        self._owner.use()
        self.size = max(size, 256)
        self.address = int(check(binding().cuMemAllocHost(self.size)))
        buffer = (ctypes.c_uint8 * self.size).from_address(self.address)
        self.array: Array = np.ctypeslib.as_array(buffer)

    def __del__(self) -> None:
        address = getattr(self, "address", 0)
        if address:
            self._owner.use()
            binding().cuMemFreeHost(address)


class Stream:
    """A stream that does not wait for the default one."""

    def __init__(self) -> None:
        self._owner = device()
        self._owner.use()
        driver = binding()
        self.handle = check(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))

    def synchronize(self) -> None:
        """Wait until everything on the stream is done."""
        check(binding().cuStreamSynchronize(self.handle))

    def capture(self) -> None:
        """Begin to record instead of run."""
        mode = binding().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        check(binding().cuStreamBeginCapture(self.handle, mode))

    def captured(self) -> Graph:
        """End recording and return what was recorded, ready to be launched."""
        return Graph(check(binding().cuStreamEndCapture(self.handle)))

    def __del__(self) -> None:
        handle = getattr(self, "handle", None)
        if handle is not None:
            self._owner.use()
            binding().cuStreamDestroy(handle)


class Graph:
    """An instantiated CUDA graph."""

    def __init__(self, recorded: Any) -> None:
        self._owner = device()
        driver = binding()
        self._executable = check(driver.cuGraphInstantiate(recorded, 0))
        check(driver.cuGraphDestroy(recorded))
        self._launch = driver.cuGraphLaunch

    def launch(self, stream: Stream) -> None:
        """Run it on a stream."""
        status = self._launch(self._executable, stream.handle)
        if int(status[0]) != 0:
            check(status)

    def __del__(self) -> None:
        executable = getattr(self, "_executable", None)
        if executable is not None:
            self._owner.use()
            binding().cuGraphExecDestroy(executable)


class Function:
    """A kernel loaded from a cubin."""

    def __init__(self, cubin: bytes, name: str, shared: int, warps: int) -> None:
        self._owner = device()
        self._owner.use()
        driver = binding()
        self._module = check(driver.cuModuleLoadData(cubin))
        self._function = check(driver.cuModuleGetFunction(self._module, name.encode()))
        self._shared, self._threads = shared, 32 * warps
        if shared > 48 << 10:
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            check(driver.cuFuncSetAttribute(self._function, attribute, shared))

    def launch(
        self, stream: Stream, grid: tuple[int, int, int], pointers: list[int], numbers: list[int]
    ) -> None:
        """Put a launch on a stream; two null scratch pointers end the parameters."""
        values: list[Any] = [ctypes.c_void_p(pointer) for pointer in pointers]
        values += [ctypes.c_int32(number) for number in numbers]
        values += [ctypes.c_void_p(0), ctypes.c_void_p(0)]
        addresses = (ctypes.c_void_p * len(values))(*[ctypes.addressof(v) for v in values])
        driver = binding()
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid
        config.blockDimX, config.blockDimY, config.blockDimZ = self._threads, 1, 1
        config.sharedMemBytes, config.hStream = self._shared, stream.handle
        if self._owner.arch >= PROGRAMMATIC_LAUNCH:
            attribute = driver.CUlaunchAttribute()
            kinds = driver.CUlaunchAttributeID
            attribute.id = kinds.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            attribute.value.programmaticStreamSerializationAllowed = 1
            config.attrs, config.numAttrs = [attribute], 1
        check(driver.cuLaunchKernelEx(config, self._function, ctypes.addressof(addresses), 0))

    def __del__(self) -> None:
        module = getattr(self, "_module", None)
        if module is not None:
            self._owner.use()
            binding().cuModuleUnload(module)


class Event:
    """A point on a stream whose time is known."""

    def __init__(self) -> None:
        self.handle = check(binding().cuEventCreate(0))

    def record(self, stream: Stream) -> None:
        """Mark now on the stream."""
        check(binding().cuEventRecord(self.handle, stream.handle))

    def milliseconds_since(self, earlier: Event) -> float:
        """Return the time between two events that have both passed."""
        return float(check(binding().cuEventElapsedTime(earlier.handle, self.handle)))

    def __del__(self) -> None:
        handle = getattr(self, "handle", None)
        if handle is not None:
            binding().cuEventDestroy(handle)
