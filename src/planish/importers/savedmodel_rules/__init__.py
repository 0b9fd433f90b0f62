"""Rules for TensorFlow's operations, one file a family; every file here is discovered."""

from __future__ import annotations

import importlib
import pkgutil

from planish.importers.tensorflow_builder import RULES as RULES

for _info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
    importlib.import_module(f"{__name__}.{_info.name}")
