"""cuDNN's graph interface through ctypes: descriptors with numbered attributes (cudnn_graph.h)."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from ctypes import c_char, c_double, c_float, c_int, c_int64, c_void_p
from typing import Any

from planish.backends.cuda.libraries.find import load_library
from planish.errors import DeviceError
from planish.ir.dtypes import BF16, F16, F32, DType

DATA_TYPES: dict[DType, int] = {F32: 0, F16: 2, BF16: 9}  # cudnnDataType_t

# cudnnBackendDescriptorType_t
POINTWISE, CONVOLUTION, ENGINE_HEURISTIC, ENGINE_CONFIG, PLAN = 0, 1, 4, 3, 5
CONVOLUTION_FORWARD, POINTWISE_OPERATION, GRAPH, VARIANT_PACK, TENSOR = 10, 13, 15, 16, 17

# cudnnBackendAttributeType_t, and how their values lie in memory
HANDLE, DATA_TYPE, BOOLEAN, INT64, FLOAT, DOUBLE, POINTER = 0, 1, 2, 3, 4, 5, 6
CONVOLUTION_MODE, HEURISTIC_MODE, POINTWISE_MODE, DESCRIPTOR, TEXT = 7, 8, 14, 15, 24
_MEMORY: dict[int, Any] = {
    HANDLE: c_void_p, BOOLEAN: ctypes.c_bool, INT64: c_int64, FLOAT: c_float, DOUBLE: c_double,
    POINTER: c_void_p, DESCRIPTOR: c_void_p, TEXT: c_char,
}  # fmt: skip

CROSS_CORRELATION, ADD, RELU = 1, 0, 100
HEURISTIC_A, HEURISTIC_B = 3, 1


@functools.cache
def library() -> ctypes.CDLL:
    """Return the library with the types of its functions declared."""
    found = load_library("cudnn")
    signatures: dict[str, tuple[Any, ...]] = {
        "cudnnCreate": (c_void_p,),
        "cudnnSetStream": (c_void_p, c_void_p),
        "cudnnBackendCreateDescriptor": (c_int, c_void_p),
        "cudnnBackendDestroyDescriptor": (c_void_p,),
        "cudnnBackendFinalize": (c_void_p,),
        "cudnnBackendSetAttribute": (c_void_p, c_int, c_int, c_int64, c_void_p),
        "cudnnBackendGetAttribute": (c_void_p, c_int, c_int, c_int64, c_void_p, c_void_p),
        "cudnnBackendExecute": (c_void_p, c_void_p, c_void_p),
    }
    for name, arguments in signatures.items():
        function = getattr(found, name)
        function.argtypes, function.restype = arguments, c_int
    found.cudnnGetVersion.restype = ctypes.c_size_t
    found.cudnnGetErrorString.restype = ctypes.c_char_p
    return found


def call(name: str, *arguments: Any) -> None:
    """Call a function; raise DeviceError when its status is not zero."""
    status = getattr(library(), name)(*arguments)
    if status != 0:
        text = library().cudnnGetErrorString(status).decode()
        raise DeviceError(f"{name} failed with {text} ({status})", where="cuDNN")


class Handle:
    """The library's state of one user; not to be used by two threads at once."""

    def __init__(self) -> None:
        self.pointer = c_void_p()
        call("cudnnCreate", ctypes.byref(self.pointer))

    def use_stream(self, stream: int) -> None:
        """Put what follows on the stream of this handle."""
        call("cudnnSetStream", self.pointer, stream)


def version() -> int:
    """Return the library's version, like 91900."""
    return int(library().cudnnGetVersion())


class Descriptor:
    """A description of something to the library, destroyed with the object.

    Parameters
    ----------
    kind : int
        One of the numbers above.
    attributes : tuples (attribute, type, values)
        Values are a number, a `Descriptor`, bytes, or a sequence of numbers or descriptors.
    """

    def __init__(self, kind: int, *attributes: tuple[int, int, Any], final: bool = True) -> None:
        self.pointer = c_void_p()
        self._kept: list[Any] = []
        call("cudnnBackendCreateDescriptor", kind, ctypes.byref(self.pointer))
        for attribute, type_, values in attributes:
            self._set(attribute, type_, values)
        if final:
            call("cudnnBackendFinalize", self.pointer)

    def get(self, attribute: int, type_: int, most: int) -> list[Any]:
        """Return up to `most` numbers; of a text, its bytes as numbers."""
        array, count = (_MEMORY.get(type_, c_int) * most)(), c_int64()
        call(
            "cudnnBackendGetAttribute", self.pointer, attribute, type_, most, ctypes.byref(count),
            array,
        )  # fmt: skip
        return list(array[: count.value])

    def fill(self, attribute: int, descriptors: Sequence[Descriptor]) -> int:
        """Let the library fill in descriptors; return how many."""
        count = c_int64()
        array = (c_void_p * len(descriptors))(*[each.pointer.value for each in descriptors])
        call(
            "cudnnBackendGetAttribute", self.pointer, attribute, DESCRIPTOR, len(descriptors),
            ctypes.byref(count), array,
        )  # fmt: skip
        return min(int(count.value), len(descriptors))

    def _set(self, attribute: int, type_: int, values: Any) -> None:
        listed = list(values) if isinstance(values, list | tuple) else [values]
        self._kept += listed
        plain = [v.pointer.value if isinstance(v, Descriptor | Handle) else v for v in listed]
        array = (_MEMORY.get(type_, c_int) * len(plain))(*plain)
        call("cudnnBackendSetAttribute", self.pointer, attribute, type_, len(plain), array)

    def __del__(self) -> None:
        if self.pointer:
            library().cudnnBackendDestroyDescriptor(self.pointer)
