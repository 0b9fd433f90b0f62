"""oneDNN's C API through ctypes: found in the `onednn-cpu-gomp` wheel, loaded when first needed.

The C API is stable within major version 3, which is all that is accepted. The wheel's library uses
OpenMP (the system's libgomp), and so has threads of its own beside ours. What matters for the two
to get along:

- `Library.use_threads` sets libgomp's number of threads for the calling thread only around a call;
- idle OpenMP threads must not spin for long, or they take the cores on which the next native
  segment wants to run. libgomp reads OMP_WAIT_POLICY (and GOMP_SPINCOUNT) from the environment
  once, when it is loaded. Where the user has set neither, it is loaded here with a spin as short as
  that of our own workers; where something else (PyTorch) loaded libgomp before, export
  OMP_WAIT_POLICY=PASSIVE before Python starts;
- libgomp's threads do not survive a fork: a forked child uses one thread.

oneDNN's own verbose output, profiling hooks and code dumps are switched off.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from planish.errors import CompatibilityError, PlanishError

PACKAGE = "onednn-cpu-gomp"
INSTALL = f"pip install {PACKAGE}"
MAJOR = 3
MAX_RANK = 12

# enumerators of dnnl_types.h
_CPU_ENGINE = 1
_IN_ORDER = 1
_ANY_LAYOUT = 1
_USER_SCRATCHPAD = 1
_STRICT_MATH = 0
_RUNTIMES = {1: "sequential", 2: "OpenMP"}
DTYPES = {"bf16": 2, "f32": 3}
STATUSES = {
    1: "out of memory",
    2: "invalid arguments",
    3: "not implemented",
    4: "no more implementations",
    5: "runtime error",
    6: "not required",
}
UNIMPLEMENTED = 3

_QUERY_IMPLEMENTATION = 8
QUERY_WEIGHTS, QUERY_SCRATCHPAD = 131, 136

# spins before a libgomp thread sleeps: about the 50 microseconds of our own idle workers
SPIN_COUNT = "1500"
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

Pointer = ctypes.c_void_p
Dims = ctypes.c_int64 * MAX_RANK


class OneDnnError(PlanishError):
    """oneDNN refused or failed; the message names the primitive and the status."""


class Argument(ctypes.Structure):
    """``dnnl_exec_arg_t``: which argument of a primitive, and its memory."""

    _fields_ = (("argument", ctypes.c_int), ("memory", Pointer))


class _Version(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
        ("patch", ctypes.c_int),
        ("hash", ctypes.c_char_p),
        ("cpu_runtime", ctypes.c_uint),
        ("gpu_runtime", ctypes.c_uint),
    )


class Owned:
    """An object of oneDNN's, destroyed together with this handle."""

    __slots__ = ("_destroy", "address")

    def __init__(self, address: int, destroy: Callable[[int], int]) -> None:
        self.address = address
        self._destroy = destroy

    def __del__(self) -> None:
        self._destroy(self.address)


class Library:
    """The loaded library with one CPU engine.

    Parameters
    ----------
    path : Path
        The shared object.

    Attributes
    ----------
    version : str
        Such as "3.2.0".
    forked : bool
        Whether this process was forked after loading: OpenMP has no threads here.
    execute : callable
        ``dnnl_primitive_execute(primitive, stream, count, arguments)``; releases the GIL.
    set_data : callable
        ``dnnl_memory_set_data_handle(memory, address)``; keeps the GIL, it is that short.

    Raises
    ------
    CompatibilityError
        When the file cannot be loaded or is not a usable oneDNN.
    """

    def __init__(self, path: Path) -> None:
        self._library, self._quick = _load(path)
        self.version = self._checked_version(path)
        self.forked = False
        os.register_at_fork(after_in_child=self._after_fork)
        self._declare()
        self._silence()
        self._openmp = self._find_openmp()
        self.engine = self._new("dnnl_engine_create", "dnnl_engine_destroy", _CPU_ENGINE, 0)
        self.execute: Callable[[int, int, int, Any], int] = self._function(
            "dnnl_primitive_execute", (Pointer, Pointer, ctypes.c_int, Pointer)
        )
        self.set_data: Callable[[int, int], int] = self._function(
            "dnnl_memory_set_data_handle", (Pointer, Pointer), quick=True
        )

    # -- threads ---------------------------------------------------------------------------------

    def use_threads(self, count: int) -> int:
        """Make OpenMP use `count` threads for calls of this thread; return the number before."""
        if self._openmp is None:
            return 1
        get, put = self._openmp
        before = get()
        if before != count:
            put(count)
        return before

    @contextmanager
    def threads(self, count: int) -> Iterator[None]:
        """Use `count` threads meanwhile."""
        before = self.use_threads(count)
        try:
            yield
        finally:
            self.use_threads(before)

    # -- memory ----------------------------------------------------------------------------------

    def describe(self, dims: Sequence[int], dtype: str, strides: Sequence[int] | None) -> Owned:
        """Return a memory descriptor; without `strides` the primitive chooses the layout."""
        if strides is None:
            return self._new(
                "dnnl_memory_desc_create_with_tag", "dnnl_memory_desc_destroy",
                len(dims), Dims(*dims), DTYPES[dtype], _ANY_LAYOUT,
            )  # fmt: skip
        return self._new(
            "dnnl_memory_desc_create_with_strides", "dnnl_memory_desc_destroy",
            len(dims), Dims(*dims), DTYPES[dtype], Dims(*strides),
        )  # fmt: skip

    def bytes_of(self, descriptor: int) -> int:
        """Return how many bytes memory of this descriptor takes."""
        return int(self._library.dnnl_memory_desc_get_size(descriptor))

    def equal(self, first: int, second: int) -> bool:
        """Whether two memory descriptors are the same."""
        return bool(self._library.dnnl_memory_desc_equal(first, second))

    def memory(self, descriptor: int, address: int | None = None) -> Owned:
        """Return a memory object over `address` (None: set later by `set_data`)."""
        return self._new(
            "dnnl_memory_create", "dnnl_memory_destroy", descriptor, self.engine.address, address
        )

    def stream(self) -> Owned:
        """Return an in-order stream; work on a CPU is finished when `execute` returns."""
        return self._new(
            "dnnl_stream_create", "dnnl_stream_destroy", self.engine.address, _IN_ORDER
        )

    # -- primitives ------------------------------------------------------------------------------

    def primitive_descriptor(self, function: str, *arguments: Any) -> Owned | int:
        """Return what `function` creates for `arguments` after the engine, or its status."""
        result = Pointer()
        status = getattr(self._library, function)(
            ctypes.byref(result), self.engine.address, *arguments
        )
        return status or self._owned(result, "dnnl_primitive_desc_destroy")

    def reorder_descriptor(self, source: int, target: int) -> Owned:
        """Return the descriptor of a primitive that copies between two layouts or types."""
        engine = self.engine.address
        return self._new(
            "dnnl_reorder_primitive_desc_create", "dnnl_primitive_desc_destroy",
            source, engine, target, engine, None,
        )  # fmt: skip

    def primitive(self, descriptor: int) -> Owned:
        """Return the primitive of a descriptor; its code is generated now."""
        return self._new("dnnl_primitive_create", "dnnl_primitive_destroy", descriptor)

    def implementation(self, descriptor: int) -> str:
        """Return the name of the implementation behind a primitive descriptor."""
        text = ctypes.c_char_p()
        status = self._library.dnnl_primitive_desc_query(
            descriptor, _QUERY_IMPLEMENTATION, 0, ctypes.byref(text)
        )
        self.check(status, "dnnl_primitive_desc_query")
        return (text.value or b"").decode()

    def queried(self, descriptor: int, what: int) -> int:
        """Return a memory descriptor that belongs to a primitive descriptor."""
        return int(self._library.dnnl_primitive_desc_query_md(descriptor, what, 0) or 0)

    def attributes(self, append: Sequence[tuple[Any, ...]] = ()) -> Owned:
        """Return primitive attributes: caller's scratchpad, exact arithmetic, post-operations.

        Each entry of `append` is ("eltwise", algorithm, alpha, beta), ("binary", algorithm,
        memory descriptor) or ("sum", scale).
        """
        attributes = self._new("dnnl_primitive_attr_create", "dnnl_primitive_attr_destroy")
        self._call("dnnl_primitive_attr_set_scratchpad_mode", attributes.address, _USER_SCRATCHPAD)
        self._call("dnnl_primitive_attr_set_fpmath_mode", attributes.address, _STRICT_MATH)
        operations = self._new("dnnl_post_ops_create", "dnnl_post_ops_destroy")
        for name, *arguments in append:
            extra = (0, 0) if name == "sum" else ()  # zero point; data type of the destination
            self._call(f"dnnl_post_ops_append_{name}", operations.address, *arguments, *extra)
        self._call("dnnl_primitive_attr_set_post_ops", attributes.address, operations.address)
        return attributes

    def check(self, status: int, what: str) -> None:
        """Raise OneDnnError unless `status` says success."""
        if status:
            raise OneDnnError(
                f"oneDNN {self.version} failed: {STATUSES.get(status, f'status {status}')}",
                where=what,
                fix="choose other tactics with BuildConfig(tactic_sources=...), and report this",
            )

    # -- inside ----------------------------------------------------------------------------------

    def _new(self, create: str, destroy: str, *arguments: Any) -> Owned:
        result = Pointer()
        self.check(getattr(self._library, create)(ctypes.byref(result), *arguments), create)
        return self._owned(result, destroy)

    def _owned(self, result: ctypes.c_void_p, destroy: str) -> Owned:
        return Owned(int(result.value or 0), getattr(self._library, destroy))

    def _call(self, name: str, *arguments: Any) -> None:
        self.check(getattr(self._library, name)(*arguments), name)

    def _function(self, name: str, types: Sequence[Any], quick: bool = False) -> Any:
        function = getattr(self._quick if quick else self._library, name)
        function.argtypes = tuple(types)
        function.restype = ctypes.c_int
        return function

    def _checked_version(self, path: Path) -> str:
        try:
            query = self._library.dnnl_version
        except AttributeError as error:
            raise CompatibilityError("the library is not oneDNN", where=str(path)) from error
        query.restype = ctypes.POINTER(_Version)
        found = query().contents
        version = f"{found.major}.{found.minor}.{found.patch}"
        if found.major != MAJOR or found.cpu_runtime not in _RUNTIMES:
            raise CompatibilityError(
                f"oneDNN {version} with CPU runtime {found.cpu_runtime} cannot be used, expected "
                f"version {MAJOR} with {' or '.join(_RUNTIMES.values())} threads",
                where=str(path),
                fix=INSTALL,
            )
        return version

    def _declare(self) -> None:
        """Declare the functions' types: addresses are 64-bit, which ctypes would cut."""
        integer, real = ctypes.c_int, ctypes.c_float
        for name, types in {
            "dnnl_engine_create": (Pointer, integer, ctypes.c_size_t),
            "dnnl_stream_create": (Pointer, Pointer, ctypes.c_uint),
            "dnnl_memory_desc_create_with_tag": (Pointer, integer, Pointer, integer, integer),
            "dnnl_memory_desc_create_with_strides": (Pointer, integer, Pointer, integer, Pointer),
            "dnnl_memory_desc_equal": (Pointer, Pointer),
            "dnnl_memory_create": (Pointer,) * 4,
            "dnnl_primitive_desc_query": (Pointer, integer, integer, Pointer),
            "dnnl_primitive_create": (Pointer, Pointer),
            "dnnl_primitive_attr_create": (Pointer,),
            "dnnl_primitive_attr_set_scratchpad_mode": (Pointer, integer),
            "dnnl_primitive_attr_set_fpmath_mode": (Pointer, integer),
            "dnnl_primitive_attr_set_post_ops": (Pointer, Pointer),
            "dnnl_post_ops_create": (Pointer,),
            "dnnl_post_ops_append_eltwise": (Pointer, integer, real, real),
            "dnnl_post_ops_append_binary": (Pointer, integer, Pointer),
            "dnnl_post_ops_append_sum": (Pointer, real, ctypes.c_int32, integer),
            # engine and result come first: see `primitive_descriptor`
            "dnnl_convolution_forward_primitive_desc_create": (
                Pointer, Pointer, integer, integer, *(Pointer,) * 9
            ),
            "dnnl_matmul_primitive_desc_create": (Pointer,) * 7,
            "dnnl_reorder_primitive_desc_create": (Pointer,) * 6,
            **{f"dnnl_{kind}_destroy": (Pointer,) for kind in (
                "engine", "stream", "memory", "memory_desc", "primitive", "primitive_desc",
                "primitive_attr", "post_ops",
            )},
        }.items():  # fmt: skip
            self._function(name, types)
        self._library.dnnl_memory_desc_get_size.argtypes = (Pointer,)
        self._library.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
        self._library.dnnl_primitive_desc_query_md.argtypes = (Pointer, integer, integer)
        self._library.dnnl_primitive_desc_query_md.restype = Pointer

    def _silence(self) -> None:
        for name, value in (
            ("dnnl_set_verbose", 0),
            ("dnnl_set_jit_profiling_flags", 0),
            ("dnnl_set_jit_dump", 0),
        ):
            function = getattr(self._library, name)
            function.argtypes, function.restype = (ctypes.c_int,), ctypes.c_int
            function(value)  # "not implemented" where the library was built without it: also off

    def _find_openmp(self) -> tuple[Callable[[], int], Callable[[int], None]] | None:
        """Return getter and setter of OpenMP's thread count, of the copy that the library uses."""
        try:
            get, put = self._quick.omp_get_max_threads, self._quick.omp_set_num_threads
        except AttributeError:
            return None  # the sequential runtime
        get.argtypes, get.restype = (), ctypes.c_int
        put.argtypes, put.restype = (ctypes.c_int,), None
        return get, put

    def _after_fork(self) -> None:
        self.forked = True


def library() -> Library:
    """Return oneDNN, loaded at the first call.

    Raises
    ------
    CompatibilityError
        When it is not installed or cannot be used; the message has the install command.
    """
    found = _found()
    if isinstance(found, Library):
        return found
    what, where, fix = found
    raise CompatibilityError(what, where=where, fix=fix)


def why_unavailable() -> str | None:
    """Return why oneDNN cannot be used, with what to do about it; None when it can."""
    found = _found()
    return None if isinstance(found, Library) else f"{found[0]} ({found[2]})"


def waiting_policy() -> str:
    """Say how long idle OpenMP threads keep their cores, and what to do where that is long."""
    given = [f"{name}={os.environ[name]}" for name in WAIT_VARIABLES if name in os.environ]
    if not given:
        return "idle OpenMP threads sleep soon (unless libgomp was loaded before)"
    active = os.environ.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE"
    advice = ": idle OpenMP threads keep their cores, better OMP_WAIT_POLICY=PASSIVE"
    return ", ".join(given) + (advice if active else "")


@functools.cache
def _found() -> Library | tuple[str, str | None, str]:
    try:
        return Library(find_library())
    except CompatibilityError as error:
        return error.what, error.where, error.fix or INSTALL


def check_installed() -> None:
    """Raise CompatibilityError, with the install command, when the wheel is not there."""
    find_library()


@functools.cache
def find_library() -> Path:
    """Return the library's file in the installed wheel.

    Raises
    ------
    CompatibilityError
        When it is not installed; the message has the install command.
    """
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise CompatibilityError(f"{PACKAGE} is not installed", fix=INSTALL) from error
    for file in distribution.files or ():
        path = Path(str(distribution.locate_file(file))).resolve()
        if file.name == f"libdnnl.so.{MAJOR}" and path.is_file():
            return path
    raise CompatibilityError(
        f"{PACKAGE} is installed without libdnnl.so.{MAJOR}", fix=f"{INSTALL} --force-reinstall"
    )


def _load(path: Path) -> tuple[ctypes.CDLL, ctypes.PyDLL]:
    """Return the library twice: with the GIL released during calls, and kept."""
    try:
        with _short_waits():
            return ctypes.CDLL(str(path)), ctypes.PyDLL(str(path))
    except OSError as error:
        fix = "apt-get install libgomp1" if "libgomp" in str(error) else INSTALL
        raise CompatibilityError(
            f"oneDNN cannot be loaded: {error}", where=str(path), fix=fix
        ) from error


@contextmanager
def _short_waits() -> Iterator[None]:
    """Have libgomp, if it is loaded meanwhile, put idle threads to sleep soon."""
    if any(name in os.environ for name in WAIT_VARIABLES):
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]
