"""Operations and kernels for TensorFlow, written in Python.

`define` registers an operation and its kernel for the CPU through TensorFlow's C API. What was
found out on the way, and is kept here:

- Registering an operation that exists ends the process: it is looked for before.
- A kernel may be deleted after Python has ended, where a delete function in Python hangs. It is
  the C library's ``sem_post``: a kernel is a semaphore in memory that nobody frees before it was
  posted, and the states of posted ones are dropped when the next kernel is made.
- The objects that C calls must live for ever.
- Shape functions of the C API cannot read attributes: shapes are unknown, and whoever makes a node
  puts an ``EnsureShape`` behind it.
- `AllocateOutput` does not check the type: it is asked for with `ExpectedOutputDataType`.
- Nothing may pass a C frame: every exception becomes a status.
- A data set may call a kernel in threads of TensorFlow while Python ends; such a thread would hang,
  and the process with it. Before that, kernels refuse until the data sets' buffers are full.
"""

from __future__ import annotations

import _thread
import atexit
import ctypes
import functools
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from planish.errors import PlanishError
from planish.frontends.tensorflow.c_api import (
    CANCELLED,
    COMPUTE_FUNCTION,
    CREATE_FUNCTION,
    INTERNAL,
    NUMPY_TYPES,
    RESOURCE,
    STRING,
    TEXT_BYTES,
    StatusError,
    api,
    take_buffer,
    texts,
    view,
)
from planish.frontends.tensorflow.library import internal

Array = np.ndarray[Any, Any]
_KEPT_ALIVE: list[Any] = []


@dataclass(frozen=True)
class OpDefinition:
    """An operation: attributes, inputs and outputs in TensorFlow's notation."""

    name: str
    attributes: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    stateful: bool = False


@dataclass
class KernelContext:
    """What a kernel sees of one execution.

    Attributes
    ----------
    address : int
        ``TF_OpKernelContext``; only valid during the execution.
    status : int
    """

    address: int
    status: int
    _tensors: list[Any] = field(default_factory=list)
    _allocated: dict[int, Array] = field(default_factory=dict)

    def inputs(self) -> list[Array]:
        """Return all inputs as arrays over TensorFlow's memory; strings are copied."""
        return [self.input(index) for index in range(api().NumInputs(self.address))]

    def input(self, index: int) -> Array:
        """Return one input."""
        functions = api()
        tensor = ctypes.c_void_p()
        functions.GetInput(self.address, index, ctypes.byref(tensor), self.status)
        functions.check(self.status)
        self._tensors.append(tensor)
        shape = tuple([functions.Dim(tensor, axis) for axis in range(functions.NumDims(tensor))])
        number, data = functions.TensorType(tensor), functions.TensorData(tensor)
        if number == STRING:
            strings = np.empty(int(np.prod(shape)), object)
            strings[:] = texts(data, len(strings))
            return strings.reshape(shape)
        if number not in NUMPY_TYPES:
            raise TypeError(f"input {index} has the DataType {number}, which engines cannot take")
        return view(data, NUMPY_TYPES[number], shape)

    def allocate(self, index: int, shape: tuple[int, ...]) -> Array:
        """Return the memory of an output, of the type that the graph expects."""
        functions = api()
        number = functions.ExpectedOutputDataType(self.address, index)
        dtype = NUMPY_TYPES[number]
        present = self._allocated.get(index)
        if present is not None and present.shape == shape:
            return present
        rank = len(shape)
        extents = (ctypes.c_int64 * rank)(*shape)
        size = dtype.itemsize
        for extent in shape:
            size *= extent
        tensor = functions.AllocateOutput(
            self.address, index, number, extents, rank, size, self.status
        )
        functions.check(self.status)
        array = view(functions.TensorData(tensor), dtype, shape)
        functions.DeleteTensor(tensor)
        self._allocated[index] = array
        return array

    def set_outputs(self, results: Sequence[Array]) -> None:
        """Make arrays the outputs; those that `allocate` gave are there already."""
        count = api().NumOutputs(self.address)
        if len(results) != count:
            raise ValueError(f"got {len(results)} output(s), expected {count}")
        for index, result in enumerate(results):
            if result is self._allocated.get(index):
                continue
            array = np.asarray(result)
            target = self.allocate(index, array.shape)
            if array.dtype != target.dtype:
                raise TypeError(
                    f"output {index} is {array.dtype.name}, the graph expects {target.dtype.name}"
                )
            target[...] = array

    def text(self, index: int) -> str:
        """Return an input of one string."""
        return os.fsdecode(self.input(index).item())

    def set_text(self, index: int, data: bytes) -> None:
        """Make an output one string."""
        functions = api()
        tensor = functions.AllocateOutput(
            self.address, index, STRING, None, 0, TEXT_BYTES, self.status
        )
        functions.check(self.status)
        place = functions.TensorData(tensor)
        functions.StringInit(place)
        functions.StringCopy(place, data, len(data))
        functions.DeleteTensor(tensor)

    def set_handle(self, index: int) -> None:
        """Make an output a resource handle that refers to nothing."""
        functions = api()
        tensor = functions.AllocateOutput(self.address, index, RESOURCE, None, 0, 0, self.status)
        functions.check(self.status)
        functions.DeleteTensor(tensor)

    def function_library(self) -> bytes:
        """Return the FunctionDefLibrary of the graph, serialized."""
        functions = api()
        buffer = functions.NewBuffer()
        functions.GetSerializedFunctionDefLibrary(self.address, buffer, self.status)
        functions.check(self.status)
        return take_buffer(buffer)

    def close(self) -> None:
        """Give the inputs back."""
        for tensor in self._tensors:
            api().DeleteTensor(tensor)
        self._tensors.clear()


Create = Callable[[Any], Any]  # NodeDef -> state
Compute = Callable[[Any, KernelContext], None]


class _States:
    """The states of kernels, by the addresses that TensorFlow knows them by."""

    def __init__(self) -> None:
        self._states: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._library = ctypes.CDLL(None)
        self._library.malloc.restype = ctypes.c_void_p
        self._library.free.argtypes = (ctypes.c_void_p,)
        self._library.sem_init.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint)

    @property
    def delete_function(self) -> Any:
        """What TensorFlow calls with a kernel's address; no Python."""
        return ctypes.cast(self._library.sem_post, ctypes.c_void_p)

    def add(self, state: Any) -> int:
        """Return the address of a new kernel; drop the states of those that are deleted."""
        address = int(self._library.malloc(_SEMAPHORE_BYTES))
        self._library.sem_init(address, 0, 0)
        with self._lock:
            deleted = [at for at in self._states if ctypes.c_int.from_address(at).value]
            dropped = [self._states.pop(at) for at in deleted]
            self._states[address] = state
        for at in deleted:
            self._library.free(at)
        dropped.clear()  # outside the lock: freeing a session may take TensorFlow's locks
        return address

    def __getitem__(self, address: int) -> Any:
        return self._states[address]

    def __len__(self) -> int:
        return len(self._states)


class _Traffic:
    """Executions of kernels, as far as the end of the process must know of them."""

    def __init__(self) -> None:
        self.active: set[int] = set()  # threads inside a kernel
        self.calls = 0
        self.closing = False

    def close(self) -> None:
        """Refuse what comes, and wait until nothing comes any more, for some seconds at most."""
        self.closing = True
        seen, deadline = -1, time.monotonic() + _LONGEST_CLOSE
        while self.calls and (self.active or self.calls != seen) and time.monotonic() < deadline:
            seen = self.calls
            time.sleep(_QUIET)


_QUIET = 0.1  # seconds without a call that tell that no thread calls any more
_LONGEST_CLOSE = 5.0
_TRAFFIC = _Traffic()
_SEMAPHORE_BYTES = 64  # sizeof(sem_t) is 32
STATES = _States()


def is_defined(name: str) -> bool:
    """Return whether TensorFlow knows an operation."""
    registry = internal("python.framework.op_def_registry")
    getattr(registry, "sync", lambda: None)()
    return registry.get(name) is not None


def define(definition: OpDefinition, create: Create, compute: Compute) -> None:
    """Register an operation, unless TensorFlow has it, and a kernel for the CPU.

    Parameters
    ----------
    definition : OpDefinition
    create : callable
        Takes the NodeDef of a node and returns the kernel's state.
    compute : callable
        Takes the state and a `KernelContext`; called from many threads.

    Raises
    ------
    StatusError
        When TensorFlow refuses.
    """
    functions = api()
    status = functions.NewStatus()
    name = definition.name.encode()
    if not is_defined(definition.name):
        functions.RegisterOpDefinition(_op_builder(definition), status)
        functions.check(status)
    create_function = CREATE_FUNCTION(functools.partial(_create, create))
    compute_function = COMPUTE_FUNCTION(functools.partial(_compute, compute))
    _KEPT_ALIVE.extend((create_function, compute_function))
    builder = functions.NewKernelBuilder(
        name, b"CPU", create_function, compute_function, STATES.delete_function
    )
    if len(_KEPT_ALIVE) == 2:
        atexit.register(_TRAFFIC.close)
    functions.RegisterKernelBuilder(name + b"CPU", builder, status)
    functions.check(status)
    functions.DeleteStatus(status)


def _op_builder(definition: OpDefinition) -> int:
    functions = api()
    builder = functions.NewOpDefinitionBuilder(definition.name.encode())
    for text in definition.attributes:
        functions.OpDefinitionBuilderAddAttr(builder, text.encode())
    for text in definition.inputs:
        functions.OpDefinitionBuilderAddInput(builder, text.encode())
    for text in definition.outputs:
        functions.OpDefinitionBuilderAddOutput(builder, text.encode())
    functions.OpDefinitionBuilderSetIsStateful(builder, definition.stateful)
    # this function of TensorFlow has the arguments of a shape function: no Python is needed
    unknown = ctypes.cast(functions.ShapeInferenceContextSetUnknownShape, ctypes.c_void_p)
    functions.OpDefinitionBuilderSetShapeInferenceFunction(builder, unknown)
    return int(builder)


def _create(create: Create, construction: int) -> int:
    functions = api()
    status = functions.NewStatus()
    state = None
    try:
        buffer = functions.OpKernelConstruction_GetNodeDef(construction, status)
        functions.check(status)
        node_def = internal("core.framework.node_def_pb2").NodeDef.FromString(take_buffer(buffer))
        state = create(node_def)
    except BaseException as error:  # a C frame is above
        _report(functions.OpKernelConstruction_Failure, construction, status, error)
    functions.DeleteStatus(status)
    return STATES.add(state)


def _compute(compute: Compute, address: int, context_address: int) -> None:
    functions = api()
    status = functions.NewStatus()
    context = KernelContext(context_address, status)
    thread = threading.get_ident()
    try:
        _TRAFFIC.active.add(thread)
        _TRAFFIC.calls += 1
        if _TRAFFIC.closing:
            raise StatusError(CANCELLED, "the process ends")
        compute(STATES[address], context)
    except BaseException as error:  # a C frame is above
        _report(functions.OpKernelContext_Failure, context_address, status, error)
        if isinstance(error, KeyboardInterrupt):
            _thread.interrupt_main()  # again, where Python can see it
    context.close()
    functions.DeleteStatus(status)
    _TRAFFIC.active.discard(thread)


def _report(fail: Callable[[int, int], None], address: int, status: int, error: object) -> None:
    code = getattr(error, "code", INTERNAL)
    name = "" if isinstance(error, PlanishError | StatusError) else f"{type(error).__name__}: "
    text = f"{name}{error}".encode(errors="replace")
    api().SetStatus(status, code if isinstance(code, int) else INTERNAL, text.replace(b"\0", b""))
    fail(address, status)
