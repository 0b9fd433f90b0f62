"""Engines by resource name: what TF-TRT keeps in TensorFlow's resource manager.

Every engine operation has a *resource name*: the attribute `RESOURCE_ATTRIBUTE` of its node where
there is one, else the node's name after the last "/" (NVIDIA's rule, under which two models in one
process mix up their engines). `resource_name` makes one that only equal segments share.

A conversion puts engines into a cache, and writes them into an asset::

    name = resource_name("TRTEngineOp_000_000", segment_bytes, b"FP16")
    cache_of(name).put(engine, shapes)          # shapes that the engine is tuned for
    serialize_trt_resource(name, path, delete_resource=True)

A SavedModel holds for each engine operation a resource with this life::

    create:      create_trt_resource_handle(resource_name=name)
    initialize:  initialize_trt_resource(handle, asset_path, max_cached_engines_count=1)
    destroy:     serialize_trt_resource(name, "", delete_resource=True)      # frees the engines

These functions have the names and parameters of TensorFlow's ``gen_trt_ops`` and work eagerly and
in functions. `serialize_trt_resource` raises `tf.errors.NotFoundError` where there are no engines.
The resource name of a file is inside it, so that a handle need not carry one.
"""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakValueDictionary

from planish.errors import PlanishError
from planish.frontends.tensorflow.c_api import NOT_FOUND, StatusError
from planish.frontends.tensorflow.engine_cache import LOG, EngineCache
from planish.frontends.tensorflow.engine_files import EngineRecord, read_records, write_records
from planish.frontends.tensorflow.kernels import KernelContext, OpDefinition
from planish.frontends.tensorflow.library import internal, tensorflow
from planish.runtime.engine import load

RESOURCE_ATTRIBUTE = "_planish_resource"
ASSET_PREFIX = "trt-serialized-engine."


def resource_name(name: str, *contents: bytes) -> str:
    """Return a resource name for an operation: its name, and a digest of what it stands for."""
    hasher = hashlib.blake2b(digest_size=12)
    for content in contents:
        hasher.update(len(content).to_bytes(8, "little"))
        hasher.update(content)
    return f"{name}:{hasher.hexdigest()}"


class _Registry:
    """The caches of the process.

    A cache lives as long as a conversion holds it (until it is saved or dropped), a loaded model
    uses it, or a kernel that serves from it exists. The functions of a loaded model may outlive
    it (``tf.saved_model.load(folder).signatures[key]`` keeps nothing else): then its engines are
    unloaded, and read from their file again when a function wants them.
    """

    def __init__(self) -> None:
        self._live: WeakValueDictionary[str, EngineCache] = WeakValueDictionary()
        self._converted: dict[str, EngineCache] = {}
        self._loaded: dict[str, EngineCache] = {}
        self._users: dict[str, int] = {}
        self._files: dict[str, str] = {}
        self._lock = threading.Lock()

    def attach(self, name: str, capacity: int) -> EngineCache:
        """Return the cache of that name; whoever asks keeps it alive."""
        with self._lock:
            cache = self._live.get(name)
            if cache is None:
                cache = self._live[name] = EngineCache(name.partition(":")[0], capacity)
                cache.source = self._source(name)
            return cache

    def convert(self, name: str, capacity: int) -> EngineCache:
        """Return the cache of a conversion."""
        cache = self.attach(name, capacity)
        with self._lock:
            return self._converted.setdefault(name, cache)

    def load(self, name: str, capacity: int, path: str) -> tuple[EngineCache, bool]:
        """Count one more loaded model; return the cache and whether it is the first."""
        cache = self.attach(name, capacity)
        with self._lock:
            self._files[name] = path
            self._loaded[name] = cache
            self._users[name] = self._users.get(name, 0) + 1
            return cache, self._users[name] == 1

    def leave(self, name: str) -> None:
        """Count one loaded model less; after the last one the engines are unloaded."""
        with self._lock:
            left = self._users.pop(name, 1) - 1
            if left > 0:
                self._users[name] = left
                return
            cache = self._loaded.pop(name, None)
            if cache is None or name in self._converted:
                return
            source = self._source(name)
        cache.unload(source)

    def drop(self, name: str) -> None:
        """Forget a conversion's cache that no loaded model uses; kernels that have it keep it."""
        with self._lock:
            dropped = [self._converted.pop(name, None)]
            if name not in self._users:
                dropped.append(self._live.pop(name, None))
        dropped.clear()  # outside the lock: engines free their memory

    def find(self, name: str) -> tuple[str, EngineCache] | None:
        """Return full name and cache; `name` may lack the digest if only one fits."""
        with self._lock:
            live = dict(self._live)
        fitting = [name] if name in live else [n for n in live if n.partition(":")[0] == name]
        return (fitting[0], live[fitting[0]]) if len(fitting) == 1 else None

    def _source(self, name: str) -> Callable[[EngineCache], None] | None:
        path = self._files.get(name)
        return None if path is None else functools.partial(_restore, path)


_REGISTRY = _Registry()


def cache_of(name: str, capacity: int = 1) -> EngineCache:
    """Return the cache of a resource name, for a conversion; a new one where there is none.

    It is kept until `serialize_trt_resource` or `drop_cache` deletes it.
    """
    return _REGISTRY.convert(name, capacity)


def drop_cache(name: str) -> None:
    """Forget the engines of a conversion, unless a loaded model uses them."""
    _REGISTRY.drop(name)


def kernel_cache(name: str, capacity: int) -> EngineCache:
    """Return the cache of a resource name, for a kernel: it lives while somebody refers to it."""
    return _REGISTRY.attach(name, capacity)


def existing_cache(name: str) -> EngineCache | None:
    """Return the cache of a resource name, which may lack the digest; None if there is none."""
    found = _REGISTRY.find(name)
    return None if found is None else found[1]


# -- files ---------------------------------------------------------------------------------------


def save_engines(name: str, path: str, delete: bool = False, with_engines: bool = True) -> None:
    """Write the engines of a resource name to a file (NVIDIA's format), and forget them if asked.

    Parameters
    ----------
    name : str
    path : str
        "" writes nothing.
    delete : bool
        Drop the engines, with the last model that uses them.
    with_engines : bool
        False writes an empty file: engines are built where the model runs.

    Raises
    ------
    StatusError
        With the code NOT_FOUND when there are no engines to write.
    """
    found = _REGISTRY.find(name)
    if path:
        if found is None or not found[1].engines:
            raise StatusError(NOT_FOUND, f"Resource TF-TRT/{name} does not exist.")
        kept = found[1].engines if with_engines else ()
        write_records(
            path, [EngineRecord(one.engine.to_bytes(), one.shapes, found[0]) for one in kept]
        )
    if delete and path:
        _REGISTRY.drop(found[0] if found else name)
    elif delete:
        _REGISTRY.leave(found[0] if found else name)


def load_engines(path: str, capacity: int = 1) -> str:
    """Read the engines of a file into the cache of their resource name, and return that.

    Engines that this machine cannot run are left out with a warning: they are built when needed.

    Raises
    ------
    EngineFileError
        When the file is missing or damaged.
    """
    path = _local(path)
    records = read_records(path)
    named = [record.resource for record in records if record.resource]
    name = named[0] if named else os.path.basename(path).rpartition(ASSET_PREFIX)[2]
    cache, is_first = _REGISTRY.load(name, capacity, path)
    if is_first or not cache.engines:
        cache.source = None
        _put(records, cache, path)
    return name


def _restore(path: str, cache: EngineCache) -> None:
    """Read engines again; without their file they are built when needed."""
    try:
        _put(read_records(path), cache, path)
    except PlanishError as error:
        LOG.warning("%s: its engines cannot be read again: %s", cache.name, error)


def _put(records: Sequence[EngineRecord], cache: EngineCache, path: str) -> None:
    for record in records:
        try:
            cache.put(load(memoryview(record.data)), record.shapes)
        except PlanishError as error:
            LOG.warning(
                "%s: an engine in %s cannot be used, it is built again when needed: %s",
                cache.name,
                path,
                str(error),  # the exception itself would hold the cache
            )


def _local(path: str) -> str:
    """Return a path that the system can open; files elsewhere are copied here."""
    if "://" not in path:
        return path
    tf = tensorflow()
    target = os.path.join(internal("python.platform.test").get_temp_dir(), os.path.basename(path))
    tf.io.gfile.copy(path, target, overwrite=True)
    return target


# -- kernels -------------------------------------------------------------------------------------


def _attributes(node: Any) -> Any:
    return dict(node.attr)


def _nothing(node: Any) -> None:
    return None


def _create_handle(_: None, context: KernelContext) -> None:
    context.set_handle(0)


def _initialize(attributes: Any, context: KernelContext) -> None:
    count = attributes.get("max_cached_engines_count")
    load_engines(context.text(1), int(count.i) if count is not None else 1)


def _serialize(attributes: Any, context: KernelContext) -> None:
    delete, whole = (attributes.get(n) for n in ("delete_resource", "save_gpu_specific_engines"))
    save_engines(
        context.text(0),
        context.text(1),
        delete is not None and delete.b,
        whole is None or whole.b,
    )


def _calibration_data(_: None, context: KernelContext) -> None:
    name = context.text(0)
    cache = existing_cache(name)
    if cache is None:
        raise StatusError(NOT_FOUND, f"Resource TF-TRT/{name} does not exist.")
    context.set_text(0, cache.calibration_data)


KERNELS = (
    (
        OpDefinition(
            "CreateTRTResourceHandle", ("resource_name: string",), (),
            ("resource_handle: resource",), stateful=True,
        ),
        _nothing,
        _create_handle,
    ),
    (
        OpDefinition(
            "InitializeTRTResource", ("max_cached_engines_count: int = 1",),
            ("resource_handle: resource", "filename: string"), (), stateful=True,
        ),
        _attributes,
        _initialize,
    ),
    (
        OpDefinition(
            "SerializeTRTResource",
            ("delete_resource: bool = false", "save_gpu_specific_engines: bool = true"),
            ("resource_name: string", "filename: string"), (), stateful=True,
        ),
        _attributes,
        _serialize,
    ),
    (
        OpDefinition(
            "GetCalibrationDataOp", (), ("resource_name: string",),
            ("serialized_resource: string",), stateful=True,
        ),
        _nothing,
        _calibration_data,
    ),
)  # fmt: skip


# -- the functions of gen_trt_ops ------------------------------------------------------------------


def create_trt_resource_handle(resource_name: str, name: str | None = None) -> Any:
    """Return a handle for the resource of a SavedModel."""
    return _apply("CreateTRTResourceHandle", {}, {"resource_name": resource_name}, 1, name)[0]


def initialize_trt_resource(
    resource_handle: Any,
    filename: Any,
    max_cached_engines_count: int = 1,
    name: str | None = None,
) -> Any:
    """Read the engines of an asset."""
    inputs = {"resource_handle": resource_handle, "filename": filename}
    attributes = {"max_cached_engines_count": max_cached_engines_count}
    return _apply("InitializeTRTResource", inputs, attributes, 0, name)


def serialize_trt_resource(
    resource_name: Any,
    filename: Any,
    delete_resource: bool = False,
    save_gpu_specific_engines: bool = True,
    name: str | None = None,
) -> Any:
    """Write the engines of a resource to a file; with "" only drop them, if that is asked."""
    inputs = {"resource_name": resource_name, "filename": filename}
    attributes = {
        "delete_resource": delete_resource,
        "save_gpu_specific_engines": save_gpu_specific_engines,
    }
    return _apply("SerializeTRTResource", inputs, attributes, 0, name)


def get_calibration_data_op(resource_name: Any, name: str | None = None) -> Any:
    """Return the calibration data of a resource as a tensor of one text."""
    inputs = {"resource_name": resource_name}
    return _apply("GetCalibrationDataOp", inputs, {}, 1, name)[0]


def _apply(
    op: str, inputs: dict[str, Any], attributes: dict[str, Any], outputs: int, name: str | None
) -> Any:
    """Run an operation at once, or add it to the graph that is being made."""
    tf = tensorflow()
    if not tf.executing_eagerly():
        library = internal("python.framework.op_def_library")
        _, _, operation, results = library._apply_op_helper(op, name=name, **inputs, **attributes)
        return results or operation
    tensors = [tf.convert_to_tensor(value) for value in inputs.values()]
    flat = [item for pair in attributes.items() for item in pair]
    context = internal("python.eager.context").context()
    return internal("python.eager.execute").execute(
        op.encode(), outputs, inputs=tensors, attrs=tuple(flat), ctx=context, name=name
    )
