"""What the runtime uses of a GPU: memory, streams, events, kernels, graphs. Every call is checked.

Objects give back what they hold when they are dropped.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from planish.errors import CompatibilityError, DeviceError
from planish.runtime.cuda.binding import (
    CAPTURE_THREAD_LOCAL,
    DEVICE_ORDINAL,
    L2_BYTES,
    MAJOR,
    MAX_DYNAMIC_SHARED,
    MINOR,
    MULTIPROCESSORS,
    NO_BINARY,
    NO_TIMING,
    NON_BLOCKING,
    NOT_READY,
    OUT_OF_MEMORY,
    PROGRAMMATIC_SERIALIZATION,
    KernelNodeParameters,
    LaunchAttribute,
    LaunchConfig,
    check,
    initialize,
    library,
)

Array = np.ndarray[Any, Any]

# From this architecture on a kernel may be launched before the one ahead of it on the stream has
# ended: its blocks take their places and wait, which hides the latency of the launch. Generated
# kernels wait before they read what others write (`planish_wait`).
PROGRAMMATIC_LAUNCH = 90


class Device:
    """One GPU. Its primary context is made when it is first used, not before."""

    def __init__(self, ordinal: int = 0) -> None:
        initialize()
        self.ordinal = ordinal
        self._device = _number("cuDeviceGet", ordinal)
        self._context: int | None = None
        self.multiprocessors = self._attribute(MULTIPROCESSORS)
        self.arch = 10 * self._attribute(MAJOR) + self._attribute(MINOR)
        self.l2 = self._attribute(L2_BYTES)
        name = ctypes.create_string_buffer(128)
        check(library().cuDeviceGetName(name, 128, self._device))
        self.name = name.value.decode()
        self.library = library()
        self._set_current = self.library.cuCtxSetCurrent

    def use(self) -> None:
        """Make the device's context current in the calling thread."""
        if self._context is None:
            # retained twice when two threads come here at once, which does no harm
            self._context = _handle("cuDevicePrimaryCtxRetain", self._device)
        status = self._set_current(self._context)
        if status:
            check(status)

    def free_bytes(self) -> int:
        """Return the device memory that is free."""
        self.use()
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        check(library().cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)))
        return free.value

    def _attribute(self, attribute: int) -> int:
        return _number("cuDeviceGetAttribute", attribute, self._device)


@functools.cache
def device(ordinal: int = 0) -> Device:
    """Return a GPU, initialized once a process."""
    return Device(ordinal)


@functools.cache
def is_present() -> bool:
    """Return whether there is a GPU that this process can use."""
    try:
        device()
    except CompatibilityError:
        return False
    return True


def _number(name: str, *arguments: Any) -> int:
    """Return the int that a call writes through its first argument."""
    value = ctypes.c_int()
    check(getattr(library(), name)(ctypes.byref(value), *arguments))
    return value.value


def _handle(name: str, *arguments: Any) -> int:
    """Return the handle that a call writes through its first argument."""
    value = ctypes.c_void_p()
    check(getattr(library(), name)(ctypes.byref(value), *arguments))
    return value.value or 0


def _released(owner: Device | None, name: str, handle: int) -> None:
    """Give a handle back, unless the process is ending and the driver with it."""
    if handle and owner is not None and not sys.is_finalizing():
        owner.use()
        getattr(owner.library, name)(handle)


class OutOfMemoryError(DeviceError):
    """The GPU has too little memory left."""


class DeviceMemory:
    """A block of device memory, given back with the object.

    What writes to it returns when the device is done: streams need not wait for the default one.
    """

    address = 0
    _owner: Device | None = None

    def __init__(self, size: int) -> None:
        self._owner = device()
        self._owner.use()
        self.size = max(size, 256)
        address = ctypes.c_uint64()
        status = library().cuMemAlloc_v2(ctypes.byref(address), self.size)
        if status == OUT_OF_MEMORY:
            raise OutOfMemoryError(
                f"the GPU has no {mebibytes(self.size)} of memory left "
                f"({mebibytes(device().free_bytes())} are free)",
                fix="lower the largest shapes of the profiles, or free device memory",
            )
        check(status)
        self.address = address.value

    def fill_zero(self) -> None:
        """Set all bytes to zero."""
        check(library().cuMemsetD8_v2(self.address, 0, self.size))
        wait_for(0)

    def write(self, array: Array) -> None:
        """Copy an array's bytes to the start."""
        check(library().cuMemcpyHtoD_v2(self.address, array.ctypes.data, array.nbytes))
        wait_for(0)

    def write_repeated(self, array: Array) -> None:
        """Fill the memory with copies of an array's bytes, one after the other."""
        done = min(array.nbytes, self.size)
        check(library().cuMemcpyHtoD_v2(self.address, array.ctypes.data, done))
        while done < self.size:
            size = min(done, self.size - done)
            check(library().cuMemcpyDtoD_v2(self.address + done, self.address, size))
            done += size
        wait_for(0)

    def read(self, array: Array, offset: int = 0) -> None:
        """Copy bytes from `offset` on into an array."""
        read_memory(self.address + offset, array)

    def __del__(self) -> None:
        _released(self._owner, "cuMemFree_v2", self.address)


class PinnedMemory:
    """Host memory that the GPU copies to and from directly."""

    address = 0
    _owner: Device | None = None

    def __init__(self, size: int) -> None:
        self._owner = device()
        self._owner.use()
        self.size = max(size, 256)
        self.address = _handle("cuMemHostAlloc", self.size, 0)
        buffer = (ctypes.c_uint8 * self.size).from_address(self.address)
        self.array: Array = np.ctypeslib.as_array(buffer)

    def __del__(self) -> None:
        _released(self._owner, "cuMemFreeHost", self.address)


def read_memory(address: int, array: Array) -> None:
    """Copy device memory into an array, once the default stream is done."""
    device().use()
    check(library().cuMemcpyDtoH_v2(array.ctypes.data, address, array.nbytes))


def ordinal_of(address: int) -> int:
    """Return which GPU an address is on; raise ValueError when it is on none."""
    ordinal = ctypes.c_int()
    status = library().cuPointerGetAttribute(ctypes.byref(ordinal), DEVICE_ORDINAL, address)
    if status:
        raise ValueError("its address is not one of a GPU")
    return ordinal.value


def copy_to_device(address: int, source: int, size: int, stream: int) -> None:
    """Put a copy from pinned host memory on a stream."""
    check(library().cuMemcpyHtoDAsync_v2(address, source, size, stream))


def copy_to_host(target: int, address: int, size: int, stream: int) -> None:
    """Put a copy to pinned host memory on a stream."""
    check(library().cuMemcpyDtoHAsync_v2(target, address, size, stream))


def copy_on_device(target: int, address: int, size: int, stream: int) -> None:
    """Put a copy within the device's memory on a stream."""
    check(library().cuMemcpyDtoDAsync_v2(target, address, size, stream))


def store_number(address: int, number: int, stream: int) -> None:
    """Put a store of an int64 that is at least 0 on a stream."""
    for place, word in ((address, number & 0xFFFFFFFF), (address + 4, number >> 32)):
        check(library().cuMemsetD32Async(place, word, 1, stream))


def wait_for(stream: int) -> None:
    """Wait until everything on the stream of this handle is done."""
    status = library().cuStreamSynchronize(stream)
    if status:
        check(status)


class Stream:
    """A queue of work.

    Parameters
    ----------
    blocking : bool
        Whether it takes turns with the default stream, as work of other libraries on that stream
        expects. Recording needs one that does not.
    """

    handle = 0
    _owner: Device | None = None

    def __init__(self, blocking: bool = False) -> None:
        self._owner = device()
        self._owner.use()
        self.handle = _handle("cuStreamCreate", 0 if blocking else NON_BLOCKING)

    def synchronize(self) -> None:
        """Wait until everything on the stream is done."""
        wait_for(self.handle)

    def capture(self) -> None:
        """Begin to record instead of run."""
        check(library().cuStreamBeginCapture_v2(self.handle, CAPTURE_THREAD_LOCAL))

    def captured_node(self) -> int:
        """Return the handle of the node that was recorded last."""
        status, count = ctypes.c_int(), ctypes.c_size_t()
        number, graph = ctypes.c_uint64(), ctypes.c_void_p()
        nodes = ctypes.POINTER(ctypes.c_void_p)()
        references = map(ctypes.byref, (status, number, graph, nodes, count))
        check(library().cuStreamGetCaptureInfo_v2(self.handle, *references))
        if count.value != 1:
            raise DeviceError(f"recording a graph went wrong: {count.value} nodes are last")
        return nodes[0] or 0

    def captured(self) -> Graph:
        """End recording and return what was recorded, ready to be launched."""
        return Graph(_handle_after("cuStreamEndCapture", self.handle))

    def __del__(self) -> None:
        _released(self._owner, "cuStreamDestroy_v2", self.handle)


def _handle_after(name: str, argument: int) -> int:
    """Return the handle that a call writes through its second argument."""
    value = ctypes.c_void_p()
    check(getattr(library(), name)(argument, ctypes.byref(value)))
    return value.value or 0


class Graph:
    """An instantiated CUDA graph, and what it was made from: changes name nodes of that."""

    handle = 0
    _owner: Device | None = None

    def __init__(self, recorded: int) -> None:
        self._owner, self._recorded = device(), recorded
        self.handle = _handle("cuGraphInstantiateWithFlags", recorded, 0)
        self._launch = library().cuGraphLaunch

    def launch(self, stream: Stream) -> None:
        """Run it on a stream."""
        self.launch_on(stream.handle)

    def launch_on(self, stream: int) -> None:
        """Run it on the stream of this handle."""
        status = self._launch(self.handle, stream)
        if status:
            check(status)

    def __del__(self) -> None:
        _released(self._owner, "cuGraphExecDestroy", self.handle)
        _released(self._owner, "cuGraphDestroy", self._recorded)


class Function:
    """A kernel loaded from a cubin."""

    module = 0
    _owner: Device | None = None

    def __init__(self, cubin: bytes, name: str, shared: int, warps: int) -> None:
        self._owner = device()
        self.arch = self._owner.arch
        self._owner.use()
        module = ctypes.c_void_p()
        status = library().cuModuleLoadData(ctypes.byref(module), cubin)
        if status in NO_BINARY:
            raise CompatibilityError(
                "the engine's kernels are for another GPU",
                where=f"{device().name}, sm_{self.arch}",
                fix=f"build the engine with target='sm_{self.arch}'",
            )
        check(status)
        self.module = module.value or 0
        self.handle = _handle("cuModuleGetFunction", self.module, name.encode())
        self.shared, self.threads = shared, 32 * warps
        if shared > 48 << 10:
            check(library().cuFuncSetAttribute(self.handle, MAX_DYNAMIC_SHARED, shared))

    def launch(
        self, stream: Stream, grid: tuple[int, int, int], pointers: Sequence[int],
        numbers: Sequence[int],
    ) -> None:  # fmt: skip
        """Put a launch on a stream."""
        Launch(self, grid, pointers, numbers).put(stream.handle)

    def __del__(self) -> None:
        _released(self._owner, "cuModuleUnload", self.module)


class Launch:
    """A kernel with its grid and arguments, to be put on streams and changed in graphs.

    Parameters
    ----------
    grid : (int, int, int)
        Blocks.
    pointers, numbers : sequence of int
        The arguments: addresses, then 32-bit integers. Two null pointers, the compiler's scratch
        memory, end them.
    """

    def __init__(
        self, function: Function, grid: tuple[int, int, int], pointers: Sequence[int],
        numbers: Sequence[int],
    ) -> None:  # fmt: skip
        values = [*pointers, *(number & 0xFFFFFFFF for number in numbers), 0, 0]
        self._function = function
        self._values = (ctypes.c_uint64 * len(values))(*values)
        start = ctypes.addressof(self._values)
        places = range(start, start + 8 * len(values), 8)
        self._places = (ctypes.c_void_p * len(values))(*places)
        block = (ctypes.c_uint * 3)(function.threads, 1, 1)
        self._grid, self._block = (ctypes.c_uint * 3)(*grid), block
        self._attribute = LaunchAttribute(id=PROGRAMMATIC_SERIALIZATION, value=1)
        self._node = KernelNodeParameters(
            function.handle, self._grid, block, function.shared, ctypes.addressof(self._places), 0
        )

    def set_pointer(self, index: int, address: int) -> None:
        """Change a pointer among the arguments."""
        self._values[index] = address

    def put(self, stream: int) -> None:
        """Put it on the stream of this handle."""
        early = self._function.arch >= PROGRAMMATIC_LAUNCH
        config = LaunchConfig(
            self._grid, self._block, self._function.shared, stream,
            ctypes.pointer(self._attribute), int(early),
        )  # fmt: skip
        check(
            library().cuLaunchKernelEx(
                ctypes.byref(config), self._function.handle, self._places, None
            )
        )

    def update(self, graph: Graph, node: int) -> None:
        """Make later launches of `graph` use the present arguments in one of its nodes."""
        check(
            library().cuGraphExecKernelNodeSetParams(graph.handle, node, ctypes.byref(self._node))
        )


class Event:
    """A point on a stream, to be waited for; with `timing` its time is known."""

    handle = 0
    _owner: Device

    def __init__(self, timing: bool = True) -> None:
        self._owner = device()
        self._owner.use()
        self._library = self._owner.library
        self.handle = _handle("cuEventCreate", 0 if timing else NO_TIMING)

    def record(self, stream: Stream) -> None:
        """Mark now on the stream."""
        self.record_on(stream.handle)

    def record_on(self, stream: int) -> None:
        """Mark now on the stream of this handle."""
        status = self._library.cuEventRecord(self.handle, stream)
        if status:
            check(status)

    def is_past(self) -> bool:
        """Return whether all work before the mark is done."""
        self._owner.use()
        status = int(self._library.cuEventQuery(self.handle))
        if status not in (0, NOT_READY):
            check(status)
        return status == 0

    def synchronize(self) -> None:
        """Wait until all work before the mark is done."""
        self._owner.use()
        check(self._library.cuEventSynchronize(self.handle))

    def hold(self, stream: int) -> None:
        """Let later work on the stream of this handle wait for the mark."""
        self._owner.use()
        check(self._library.cuStreamWaitEvent(stream, self.handle, 0))

    def milliseconds_since(self, earlier: Event) -> float:
        """Return the time between two events that have both passed."""
        elapsed = ctypes.c_float()
        check(self._library.cuEventElapsedTime(ctypes.byref(elapsed), earlier.handle, self.handle))
        return elapsed.value

    def __del__(self) -> None:
        _released(getattr(self, "_owner", None), "cuEventDestroy_v2", self.handle)


def mebibytes(size: int) -> str:
    """Return a number of bytes for people."""
    return f"{size / 2**20:,.1f} MiB"
