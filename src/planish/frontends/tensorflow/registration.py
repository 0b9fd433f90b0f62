"""Makes TF-TRT's operations known to TensorFlow: one call, `register()`.

TensorFlow has lacked them since 2.18, and their kernels on the CPU always. Where TensorFlow has an
operation (2.17 and older, builds for CUDA) only a kernel for the CPU is added. A process that loads
a converted SavedModel must have called it before (see `install`).

The operations, with NVIDIA's signatures:

====================== ==========================================================================
TRTEngineOp            in_tensor: InT -> out_tensor: OutT; see `engine_op`
CreateTRTResourceHandle -> resource_handle; attribute resource_name
InitializeTRTResource  resource_handle, filename: reads engines from an asset; see `resources`
SerializeTRTResource   resource_name, filename: writes engines; see `resources`
GetCalibrationDataOp   resource_name -> serialized_resource; see `resources`
====================== ==========================================================================
"""

from __future__ import annotations

import functools
import threading
from typing import Any

from planish.frontends.tensorflow import engine_op, resources
from planish.frontends.tensorflow.kernels import define
from planish.frontends.tensorflow.library import internal, tensorflow

_LOCK = threading.Lock()
_DONE: list[bool] = []


def register() -> None:
    """Register TF-TRT's operations and their kernels for the CPU; at most once in a process.

    Raises
    ------
    ConfigError
        When TensorFlow is not installed.
    CompatibilityError
        When it does not export what is needed.
    """
    with _LOCK:
        if _DONE:
            return
        for definition, create, compute in (*engine_op.KERNELS, *resources.KERNELS):
            define(definition, create, compute)
        _undo_leak()
        _DONE.append(True)


def _undo_leak() -> None:
    """Let TensorFlow forget the functions of converted models that are gone.

    ``function_deserialization`` adds every loaded function that holds a TRTEngineOp to the global
    graph "to maintain bug compatibility" (b/150708051), and so keeps it, and all functions that it
    was loaded with, for ever. Whoever calls them holds them anyway.
    """
    module = internal("python.saved_model.function_deserialization")
    graphs = internal("python.framework.ops")
    load = module.load_function_def_library

    @functools.wraps(load)
    def load_and_forget(*args: Any, **options: Any) -> Any:
        if not tensorflow().compat.v1.executing_eagerly_outside_functions():
            return load(*args, **options)
        graph = graphs.get_default_graph()
        before = set(graph._functions)
        functions = load(*args, **options)
        for name in [name for name in graph._functions if name not in before]:
            graph._remove_function(name)
        return functions

    if hasattr(graphs.Graph, "_remove_function"):
        module.load_function_def_library = load_and_forget
