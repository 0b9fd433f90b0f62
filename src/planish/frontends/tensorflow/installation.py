"""Supplies the half of TF-TRT that TensorFlow no longer has, under TensorFlow's own names."""

from __future__ import annotations

import sys

from planish.frontends.tensorflow import resources
from planish.frontends.tensorflow import trt_convert as ours
from planish.frontends.tensorflow.library import internal
from planish.frontends.tensorflow.registration import register

# The version that TensorFlow 2.17 was built with: scripts ask for it, and compare.
TENSORRT_VERSION = (8, 6, 1)
_EXPORTS = ("Converter", "ConversionParams")


def install() -> None:
    """Let ``trt_convert``, ``tf.experimental.tensorrt`` and converted models run with Planish.

    Existing scripts need no other change. Calling it again changes nothing.

    Raises
    ------
    ConfigError
        When TensorFlow cannot be imported.
    """
    register()
    theirs = internal("python.compiler.tensorrt.trt_convert")
    for name in ours.__all__:
        if hasattr(theirs, name):
            setattr(theirs, name, getattr(ours, name))
    theirs.gen_trt_ops = resources
    theirs._check_trt_version_compatibility = _is_compatible
    binding = internal("compiler.tf2tensorrt._pywrap_py_utils")
    binding.is_tensorrt_enabled = _is_enabled
    binding.get_linked_tensorrt_version = _version
    binding.get_loaded_tensorrt_version = _version
    for name, module in list(sys.modules.items()):
        if name.startswith("tensorflow.") and name.endswith(".experimental.tensorrt"):
            for export in _EXPORTS:
                setattr(module, export, getattr(ours, export))


def _is_compatible() -> None:
    """Stand for the check of TensorRT's version: there is none to check."""


def _is_enabled() -> bool:
    return True


def _version() -> tuple[int, int, int]:
    return TENSORRT_VERSION
