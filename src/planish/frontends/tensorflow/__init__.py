"""TF-TRT's converter for TensorFlow, on Planish's engines.

Two ways in::

    from planish.frontends.tensorflow import trt_convert as trt   # same names, no other change

    import planish.frontends.tensorflow                           # or: PLANISH_TF_TRT=1
    planish.frontends.tensorflow.install()                        # existing scripts run unchanged
    from tensorflow.python.compiler.tensorrt import trt_convert as trt
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["install"]


def __getattr__(name: str) -> Any:
    if name != "install":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("planish.frontends.tensorflow.installation").install
