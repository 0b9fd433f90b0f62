"""Generated code in this process: loading a shared object from memory and calling it.

The structures mirror backends/cpu/codegen/driver.h; `ABI` changes together with them.
"""

from __future__ import annotations

import _ctypes
import ctypes
import itertools
import os
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from planish.errors import CompatibilityError

ABI = 2


class Call(ctypes.Structure):
    """``planish_call``: the arguments of one inference; see driver.h."""

    _fields_ = (
        ("inputs", ctypes.c_void_p),
        ("outputs", ctypes.c_void_p),
        ("arena", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("dims", ctypes.c_void_p),
        ("pool", ctypes.c_void_p),
        ("habits", ctypes.c_void_p),
        ("times", ctypes.c_void_p),
        ("threads", ctypes.c_int64),
        ("first", ctypes.c_int64),
        ("last", ctypes.c_int64),
        ("loop", ctypes.c_int64),
    )


HABIT_BYTES = 16  # sizeof(planish_habit)


class NativeObject:
    """A loaded shared object.

    Parameters
    ----------
    code : bytes
        The shared object, as the compiler wrote it. It is executed: only give what is trusted.

    Attributes
    ----------
    run : callable
        ``planish_run``, taking a reference to a `Call`; the GIL is released meanwhile.
    steps : int
        Steps in the object's table.
    scratch_stride : int
        Bytes of scratch memory for each thread.

    Raises
    ------
    CompatibilityError
        When the system cannot load it, it was made for another driver version, or the processor
        may not use its instructions.
    """

    def __init__(self, code: bytes) -> None:
        self._library = load_library(code)
        self._closed = False
        self._number("planish_abi", ABI)
        self.steps = self._number("planish_step_count")
        self.scratch_stride = self._number("planish_scratch_bytes")
        if self._number("planish_prepare") == 0:
            raise CompatibilityError(
                "the operating system does not let this process use AMX tiles",
                fix="run on a kernel with AMX support, or build the engine on this machine",
            )
        function = self._library.planish_run
        function.argtypes = (ctypes.c_void_p,)
        function.restype = None
        self.run: Callable[[int], None] = function

    def close(self) -> None:
        """Unload the code; nothing may call it afterwards. Code that workers run stays."""
        if self._closed or self._library is _pool.library:
            return
        self._closed = True
        _ctypes.dlclose(self._library._handle)

    @property
    def library(self) -> ctypes.CDLL:
        """The library, for its other exported functions."""
        return self._library

    def _number(self, name: str, expected: int | None = None) -> int:
        try:
            function = getattr(self._library, name)
        except AttributeError as error:
            raise CompatibilityError(
                f"the engine's code has no function {name}",
                fix="build the engine again with this version of planish",
            ) from error
        function.argtypes = ()
        function.restype = ctypes.c_int64
        value = int(function())
        if expected is not None and value != expected:
            raise CompatibilityError(
                f"the engine's code is for driver version {value}, this planish has {expected}",
                fix="build the engine again with this version of planish",
            )
        return value


class _Pool:
    """The process's thread pool: made by the first object that needs one, used by all."""

    def __init__(self) -> None:
        self.address: int | None = None
        self.library: ctypes.CDLL | None = None
        self.lock = threading.Lock()
        self.watches_forks = False

    def forget(self) -> None:
        """In a forked child: the parent's workers do not exist here."""
        self.address = None
        self.lock = threading.Lock()


_pool = _Pool()


def pool_address(native: NativeObject) -> int | None:
    """Return the process's thread pool; None when the system has no memory for one."""
    if _pool.address is not None:
        return _pool.address
    with _pool.lock:
        if _pool.address is None:
            create = native.library.planish_pool_create
            create.argtypes = (ctypes.c_int64,)
            create.restype = ctypes.c_void_p
            _pool.address = create(len(os.sched_getaffinity(0)))
            _pool.library = native.library  # workers run its code: it is never unloaded
        if not _pool.watches_forks:
            os.register_at_fork(after_in_child=_pool.forget)
            _pool.watches_forks = True
    return _pool.address


_load_number = itertools.count()


def load_library(code: bytes) -> ctypes.CDLL:
    """Return a shared object from its bytes; raise CompatibilityError when it cannot be loaded."""
    try:
        return _load_from_memory(code)
    except OSError as first:
        try:
            return _load_from_file(code)
        except OSError as second:
            raise CompatibilityError(
                f"the system cannot load the engine's code: {second}",
                where=f"from memory: {first}",
                fix="build the engine again on this machine",
            ) from second


def _load_from_memory(code: bytes) -> ctypes.CDLL:
    descriptor = os.memfd_create("planish", os.MFD_CLOEXEC)
    try:
        view = memoryview(code)
        while view:
            view = view[os.write(descriptor, view) :]
        # dlopen takes two equal names for the same library, and descriptors are used again: the
        # number of this load is spelled into the path, "//" for 0 and "/./" for 1
        bits = f"{next(_load_number):b}".translate({ord("0"): "/", ord("1"): "/."})
        return ctypes.CDLL(f"/proc/self/fd{bits}/{descriptor}", mode=os.RTLD_NOW | os.RTLD_LOCAL)
    finally:
        os.close(descriptor)


def _load_from_file(code: bytes) -> ctypes.CDLL:
    with tempfile.NamedTemporaryFile(prefix="planish-", suffix=".so") as file:
        file.write(code)
        file.flush()
        return ctypes.CDLL(file.name, mode=os.RTLD_NOW | os.RTLD_LOCAL)


def as_pointer(call: Call) -> Any:
    """Return what `NativeObject.run` takes."""
    return ctypes.addressof(call)
