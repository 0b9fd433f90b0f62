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

import threading

from planish.frontends.tensorflow import engine_op, resources
from planish.frontends.tensorflow.kernels import define

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
        _DONE.append(True)
