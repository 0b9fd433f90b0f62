"""Operators: one class each, one file a family. Importing this package registers all of them."""

from __future__ import annotations

import importlib
import pkgutil

from planish.ops.op import OPS, Cost, Inferred, Op, Sample, op_of

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["OPS", "Cost", "Inferred", "Op", "Sample", "op_of"]
