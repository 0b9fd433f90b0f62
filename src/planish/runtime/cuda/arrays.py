"""Arrays in the memory of a GPU: those of other libraries, taken without a copy, and our own.

Other libraries' arrays come through DLPack (https://dmlc.github.io/dlpack) or, where an object has
only that, through the CUDA array interface. Both say on which stream the array is made. Engines
run on streams that take turns with the default stream, so producers are asked to make that one
wait: it costs nothing where they use it themselves.
"""

from __future__ import annotations

import ctypes
import math
import struct
import sys
from collections import deque
from typing import Any

import ml_dtypes
import numpy as np

from planish.errors import InputError
from planish.runtime.cuda.binding import LEGACY_STREAM
from planish.runtime.cuda.driver import DeviceMemory, Event, device, ordinal_of, read_memory

Array = np.ndarray[Any, Any]
CUDA, CUDA_HOST, MANAGED = 2, 3, 13  # DLDeviceType
GRANULE = 512  # bytes; sizes of pooled memory are multiples
MAX_KEPT, MAX_BYTES, MAX_SIZES = 16, 128 << 20, 8  # of one size, and sizes, that a pool keeps
NAME, VERSIONED = b"dltensor", b"dltensor_versioned"
MAJOR = 1  # version of DLPack

_CODES: dict[tuple[int, int], np.dtype[Any]] = {  # DLDataTypeCode and bits
    (0, 8): np.dtype(np.int8), (0, 16): np.dtype(np.int16), (0, 32): np.dtype(np.int32),
    (0, 64): np.dtype(np.int64), (1, 8): np.dtype(np.uint8), (1, 16): np.dtype(np.uint16),
    (1, 32): np.dtype(np.uint32), (1, 64): np.dtype(np.uint64), (2, 16): np.dtype(np.float16),
    (2, 32): np.dtype(np.float32), (2, 64): np.dtype(np.float64), (6, 8): np.dtype(np.bool_),
    (4, 16): np.dtype(ml_dtypes.bfloat16), (10, 8): np.dtype(ml_dtypes.float8_e4m3fn),
    (12, 8): np.dtype(ml_dtypes.float8_e5m2),
}  # fmt: skip
_CODE_OF = {dtype: code for code, dtype in _CODES.items()}
_BY_NAME = {dtype.name: dtype for dtype in _CODES.values()}


class MemoryPool:
    """Memory of an engine's results, kept for later ones: the driver's own calls take long.

    Work of other streams but the default one may still read what is given back; see
    docs/nvidia-gpus.md.
    """

    def __init__(self) -> None:
        self._free: dict[int, deque[tuple[DeviceMemory, Event | None]]] = {}

    def empty(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], size: int, stream: int
    ) -> DeviceArray:
        """Return an array of `size` bytes with any contents, for work on a stream."""
        try:
            memory, ready = self._free[size].pop()
        except (KeyError, IndexError):
            memory, ready = DeviceMemory(size), None
        if ready is not None:
            ready.hold(stream)
        return DeviceArray(memory.address, shape, dtype, memory, self)

    def give_back(self, memory: DeviceMemory, ready: Event | None) -> None:
        """Keep memory for later; what is too much is freed.

        `ready` is when the last work that writes to it is done; None when it is known to be.
        """
        kept = self._free.get(memory.size)
        if kept is None:
            if len(self._free) >= MAX_SIZES:
                self._free.clear()
            most = max(1, min(MAX_KEPT, MAX_BYTES // memory.size))
            kept = self._free.setdefault(memory.size, deque(maxlen=most))
        kept.append((memory, ready))


class DeviceArray:
    """A C-contiguous array in the memory of a GPU.

    Other libraries take it without a copy (`torch.from_dlpack`, `cupy.asarray`, ...); `numpy`
    copies it to the host.

    Attributes
    ----------
    address : int
    shape : tuple of int
    dtype : numpy.dtype
    """

    __slots__ = ("_owner", "_pool", "_ready", "_stream", "address", "dtype", "shape")

    def __init__(
        self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], owner: Any,
        pool: MemoryPool | None = None,
    ) -> None:  # fmt: skip
        self.address, self.shape, self.dtype = address, shape, dtype
        self._owner = owner  # keeps the memory
        self._pool = pool  # where the memory goes afterwards
        self._ready: Event | None = None
        self._stream = 0

    def __del__(self) -> None:
        if self._pool is not None:
            self._pool.give_back(self._owner, self._ready)

    @classmethod
    def of(cls, array: Array) -> DeviceArray:
        """Return a copy of an array on the host."""
        memory = DeviceMemory(array.nbytes)
        if array.nbytes:
            memory.write(np.ascontiguousarray(array))
        return cls(memory.address, array.shape, array.dtype, memory)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def numpy(self) -> Array:
        """Return a copy on the host, once everything that writes to the array is done."""
        self.synchronize()
        array = np.empty(self.shape, self.dtype)
        if array.nbytes:
            read_memory(self.address, array)
        return array

    def synchronize(self) -> None:
        """Wait until everything that writes to the array is done."""
        if self._ready is not None:
            self._ready.synchronize()
            self._ready = None

    def made_on(self, stream: int, ready: Event) -> None:
        """Remember that the contents are complete when `ready` has passed on a stream."""
        self._stream, self._ready = stream, ready

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return DLPack's number of the kind of device, and which one it is."""
        return CUDA, device().ordinal

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """Return a DLPack capsule that keeps the memory; `stream` waits until it is written."""
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError("only the array itself is exported; numpy() copies it to the host")
        if self._ready is not None and stream != -1 and stream != self._stream:
            self._ready.hold(LEGACY_STREAM if stream is None else stream)
        if self.dtype not in _CODE_OF:
            raise BufferError(f"DLPack has no element type {self.dtype}")
        return _export(self, versioned=max_version is not None and max_version[0] >= MAJOR)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of the CUDA array interface."""
        if self.dtype.kind == "V":  # bfloat16 and the types of eight bits
            raise AttributeError(f"the CUDA array interface has no element type {self.dtype}")
        return {
            "shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False),
            "version": 3, "strides": None,
            "stream": None if self._ready is None else self._stream,
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype}{list(self.shape)})"


def take(given: Any, name: str) -> DeviceArray | None:
    """Return another library's array without a copy; None when it is not on a GPU.

    Raises
    ------
    InputError
        When it lies on another GPU, is not C-contiguous, or is not exported.
    """
    if type(given) is DeviceArray:
        return given
    if type(given).__module__ == "torch":
        taken = _from_pytorch(given, name)
        if taken is not None:
            return taken
    try:
        if hasattr(given, "__dlpack_device__"):
            kind, ordinal = given.__dlpack_device__()
            if kind not in (CUDA, MANAGED):
                return None
            _check_ordinal(int(ordinal), name)
            return _from_capsule(given.__dlpack__(stream=LEGACY_STREAM), name)
        if hasattr(given, "__cuda_array_interface__"):
            return _from_interface(given, name)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{name} cannot be taken from the GPU: {error}",
            where=f"an array of type {type(given).__name__}",
            fix="give a tensor without gradient on the engine's GPU, or a numpy array",
        ) from error
    return None


def _check_ordinal(ordinal: int, name: str) -> None:
    if ordinal != device().ordinal:
        raise InputError(
            f"{name} lies on GPU {ordinal}, the engine runs on GPU {device().ordinal}",
            fix="move it there",
        )


def _from_pytorch(tensor: Any, name: str) -> DeviceArray | None:
    """Return a plain tensor of PyTorch on the GPU, None for any other.

    It is what DLPack would give, in a fifth of the time (28 us, with PyTorch 2.11).
    """
    dtype = _BY_NAME.get(str(tensor.dtype).removeprefix("torch."))
    if dtype is None or tensor.device.type != "cuda" or tensor.requires_grad:
        return None
    torch = sys.modules["torch"]
    if tensor.layout is not torch.strided:
        return None
    _check_ordinal(tensor.device.index, name)
    shape = tuple(tensor.shape)
    if not tensor.is_contiguous():
        _check_dense(shape, tensor.stride(), name)
    stream = torch.cuda.current_stream().cuda_stream
    if stream:
        _let_default_stream_wait(stream)
    return DeviceArray(tensor.data_ptr(), shape, dtype, tensor)


def _let_default_stream_wait(stream: int) -> None:
    """Let later work on the default stream wait for what is on another one now."""
    mark = Event(timing=False)
    mark.record_on(stream)
    mark.hold(LEGACY_STREAM)


def _from_interface(given: Any, name: str) -> DeviceArray:
    facts = given.__cuda_array_interface__
    address, dtype, shape = int(facts["data"][0]), np.dtype(facts["typestr"]), tuple(facts["shape"])
    if address:
        _check_ordinal(ordinal_of(address), name)
    if facts.get("mask") is not None:
        raise BufferError("it has a mask")
    strides = facts.get("strides")
    if strides is not None:
        _check_dense(shape, [step // dtype.itemsize for step in strides], name)
    stream = facts.get("stream")
    if stream is not None and stream != LEGACY_STREAM:
        _let_default_stream_wait(stream)
    return DeviceArray(address, shape, dtype, given)


def _check_dense(shape: tuple[int, ...], strides: Any, name: str) -> None:
    """Raise InputError unless strides, in elements, are those of a C-contiguous array."""
    expected = 1
    for extent, stride in zip(reversed(shape), reversed(tuple(strides)), strict=True):
        if extent > 1 and stride != expected:
            raise InputError(
                f"{name} is not C-contiguous: shape {list(shape)}, strides {list(strides)}",
                fix="give a contiguous array: tensor.contiguous(), cupy.ascontiguousarray(array)",
            )
        expected *= extent


# -- DLPack's structures ---------------------------------------------------------------------------

_TENSOR = struct.Struct("=QiiiBBHQQQ")  # data, device, axes, type, shape, strides, byte offset
_MANAGED = struct.Struct("=QQ")  # manager's context, deleter; behind the tensor
_VERSION = struct.Struct("=IIQQQ")  # major, minor, context, deleter, flags; before the tensor

_python = ctypes.pythonapi
_pointer_of = _python.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_name_of = _python.PyCapsule_GetName
_name_of.restype, _name_of.argtypes = ctypes.c_char_p, (ctypes.py_object,)
_new_capsule = _python.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


def _from_capsule(capsule: Any, name: str) -> DeviceArray:
    """Return the tensor in a capsule, which stays the owner and is kept."""
    label = _name_of(capsule)
    if label not in (NAME, VERSIONED):
        raise BufferError(f"a capsule named {label!r} is no DLPack tensor")
    start = _pointer_of(capsule, label) + (_VERSION.size if label == VERSIONED else 0)
    fields = _TENSOR.unpack(ctypes.string_at(start, _TENSOR.size))
    data, _, _, axes, code, bits, lanes, shape_at, strides_at, offset = fields
    dtype = _CODES.get((code, bits))
    if dtype is None or lanes != 1:
        raise BufferError(f"its elements are of DLPack type {code} with {bits} bits, {lanes} lanes")
    numbers = struct.Struct(f"={axes}q")
    shape = numbers.unpack(ctypes.string_at(shape_at, numbers.size))
    if strides_at:
        _check_dense(shape, numbers.unpack(ctypes.string_at(strides_at, numbers.size)), name)
    return DeviceArray(data + offset, shape, dtype, capsule)


_exported: dict[int, tuple[Any, ...]] = {}  # structures and arrays that others still use


def _delete(address: int) -> None:
    """Forget an exported structure: the consumer is done with it."""
    _exported.pop(address, None)


def _drop(capsule: int) -> None:
    """Forget what a capsule that nobody took holds."""
    for label in (NAME, VERSIONED):
        if _is_named(capsule, label):
            _exported.pop(_address_in(capsule, label), None)


_callbacks = (
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_delete),
    ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_drop),
)
_DELETE, _DROP = (ctypes.cast(each, ctypes.c_void_p).value or 0 for each in _callbacks)
_is_named = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", _python)
)
_address_in = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", _python)
)


def _export(array: DeviceArray, versioned: bool) -> object:
    """Return a capsule of `array`, which is kept until the consumer, or the capsule, is gone."""
    code, bits = _CODE_OF[array.dtype]
    axes = len(array.shape)
    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(axes)]
    numbers = (ctypes.c_int64 * (2 * axes))(*array.shape, *strides)
    shape_at = ctypes.addressof(numbers)
    tensor = _TENSOR.pack(
        array.address, *array.__dlpack_device__(), axes, code, bits, 1, shape_at,
        shape_at + 8 * axes, 0,
    )  # fmt: skip
    if versioned:
        text = _VERSION.pack(MAJOR, 0, 0, _DELETE, 0) + tensor
    else:
        text = tensor + _MANAGED.pack(0, _DELETE)
    memory = ctypes.create_string_buffer(text, len(text))
    address = ctypes.addressof(memory)
    _exported[address] = (array, numbers, memory)
    capsule: object = _new_capsule(address, VERSIONED if versioned else NAME, _DROP)
    return capsule
