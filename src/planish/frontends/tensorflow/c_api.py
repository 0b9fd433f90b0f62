"""TensorFlow's C API through ctypes: the few functions that an operation and its kernel need.

They are exported by ``libtensorflow_framework.so.2`` (text by ``libtensorflow_cc.so.2``) in every
release from 2.13 to 2.21, with one signature. Names here are TensorFlow's without "TF_".
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from planish.errors import CompatibilityError
from planish.frontends.tensorflow.library import tensorflow

Array = np.ndarray[Any, Any]

_POINTER, _INT, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
_TEXT, _INT64 = ctypes.c_char_p, ctypes.c_int64

CREATE_FUNCTION = ctypes.CFUNCTYPE(_POINTER, _POINTER)
COMPUTE_FUNCTION = ctypes.CFUNCTYPE(None, _POINTER, _POINTER)

STRING, RESOURCE = 7, 20  # DataType numbers
CANCELLED, NOT_FOUND, INTERNAL = 1, 5, 13  # codes of a status
TEXT_BYTES = 24  # sizeof(TF_TString)

# DataType number (tensorflow/core/framework/types.proto) to numpy's type
NUMPY_TYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.float32), 2: np.dtype(np.float64), 3: np.dtype(np.int32),
    4: np.dtype(np.uint8), 5: np.dtype(np.int16), 6: np.dtype(np.int8), 9: np.dtype(np.int64),
    10: np.dtype(np.bool_), 14: np.dtype(ml_dtypes.bfloat16), 17: np.dtype(np.uint16),
    19: np.dtype(np.float16), 22: np.dtype(np.uint32), 23: np.dtype(np.uint64),
}  # fmt: skip


class Buffer(ctypes.Structure):
    """``TF_Buffer``."""

    _fields_ = (("data", _POINTER), ("length", _SIZE), ("dealloc", _POINTER))


_BUFFER = ctypes.POINTER(Buffer)

# name: result, arguments
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "NewStatus": (_POINTER,),
    "DeleteStatus": (None, _POINTER),
    "GetCode": (_INT, _POINTER),
    "Message": (_TEXT, _POINTER),
    "SetStatus": (None, _POINTER, _INT, _TEXT),
    "NewBuffer": (_BUFFER,),
    "DeleteBuffer": (None, _BUFFER),
    "NewOpDefinitionBuilder": (_POINTER, _TEXT),
    "OpDefinitionBuilderAddAttr": (None, _POINTER, _TEXT),
    "OpDefinitionBuilderAddInput": (None, _POINTER, _TEXT),
    "OpDefinitionBuilderAddOutput": (None, _POINTER, _TEXT),
    "OpDefinitionBuilderSetIsStateful": (None, _POINTER, ctypes.c_bool),
    "OpDefinitionBuilderSetShapeInferenceFunction": (None, _POINTER, _POINTER),
    "RegisterOpDefinition": (None, _POINTER, _POINTER),
    "ShapeInferenceContextSetUnknownShape": (None, _POINTER, _POINTER),
    # the last argument deletes a kernel; it must stay NULL (see `kernels`)
    "NewKernelBuilder": (
        _POINTER, _TEXT, _TEXT, CREATE_FUNCTION, COMPUTE_FUNCTION, _POINTER,
    ),
    "RegisterKernelBuilder": (None, _TEXT, _POINTER, _POINTER),
    "OpKernelConstruction_GetNodeDef": (_BUFFER, _POINTER, _POINTER),
    "OpKernelConstruction_Failure": (None, _POINTER, _POINTER),
    "OpKernelContext_Failure": (None, _POINTER, _POINTER),
    "GetSerializedFunctionDefLibrary": (None, _POINTER, _BUFFER, _POINTER),
    "NumInputs": (_INT, _POINTER),
    "NumOutputs": (_INT, _POINTER),
    "GetInput": (None, _POINTER, _INT, ctypes.POINTER(_POINTER), _POINTER),
    "AllocateOutput": (
        _POINTER, _POINTER, _INT, _INT, ctypes.POINTER(_INT64), _INT, _SIZE, _POINTER,
    ),
    "ExpectedOutputDataType": (_INT, _POINTER, _INT),
    "TensorData": (_POINTER, _POINTER),
    "TensorType": (_INT, _POINTER),
    "NumDims": (_INT, _POINTER),
    "Dim": (_INT64, _POINTER, _INT),
    "DeleteTensor": (None, _POINTER),
    "StringInit": (None, _POINTER),
    "StringCopy": (None, _POINTER, _TEXT, _SIZE),
    "StringGetDataPointer": (_POINTER, _POINTER),
    "StringGetSize": (_SIZE, _POINTER),
}  # fmt: skip


class StatusError(Exception):
    """A function of the C API reported an error.

    Attributes
    ----------
    code : int
        TensorFlow's code.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Api:
    """The loaded functions, as attributes: ``api.NumInputs(context)``."""

    def __init__(self) -> None:
        folder = Path(tensorflow().__file__).parent
        names = ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2")
        # the process has mapped them already: this only gives handles
        libraries = [ctypes.CDLL(str(folder / name)) for name in names if (folder / name).exists()]
        for name, (result, *arguments) in _SIGNATURES.items():
            function = _exported(libraries, f"TF_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:  # for type checkers: the names are _SIGNATURES
        raise AttributeError(name)

    def check(self, status: int) -> None:
        """Raise StatusError unless a status is OK."""
        code = self.GetCode(status)
        if code != 0:
            raise StatusError(code, self.Message(status).decode(errors="replace"))


def _exported(libraries: Sequence[ctypes.CDLL], name: str) -> Any:
    for library in libraries:
        function = getattr(library, name, None)
        if function is not None:
            return function
    raise CompatibilityError(
        f"this TensorFlow ({tensorflow().__version__}) does not export {name}",
        where="libtensorflow_framework.so.2",
        fix="pip install 'tensorflow-cpu>=2.13'",
    )


@functools.cache
def api() -> Api:
    """Return the C API of the TensorFlow in this process."""
    return Api()


def view(address: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Return memory of TensorFlow as an array, without a copy."""
    count = 1
    for extent in shape:
        count *= extent
    if count == 0:
        return np.empty(shape, dtype)
    memory: Any = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return np.ndarray(shape, dtype, memory)


def texts(address: int, count: int) -> list[bytes]:
    """Return the elements of a tensor of strings."""
    functions = api()
    places = [address + TEXT_BYTES * index for index in range(count)]
    return [
        ctypes.string_at(functions.StringGetDataPointer(at), functions.StringGetSize(at))
        for at in places
    ]


def take_buffer(buffer: Any) -> bytes:
    """Return the bytes of a ``TF_Buffer``, and free it."""
    data = ctypes.string_at(buffer.contents.data, buffer.contents.length)
    api().DeleteBuffer(buffer)
    return data
