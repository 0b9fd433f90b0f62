"""Installs the frontend as soon as TensorFlow has been imported.

The package ships ``planish_tensorflow.pth``, which Python reads when it starts: with
``PLANISH_TF_TRT=1`` it calls `arm`. Nothing else is imported before TensorFlow is.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from planish.errors import PlanishError

_WATCHED = "tensorflow"


class _Loader(importlib.abc.Loader):
    """Runs TensorFlow's own loader, then installs the frontend."""

    def __init__(self, inner: importlib.abc.Loader) -> None:
        self._inner = inner

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # the module's own loader is what others shall see
        module.__loader__ = self._inner
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner
        self._inner.exec_module(module)
        _install()


class _Finder(importlib.abc.MetaPathFinder):
    """Finds TensorFlow as the other finders do, and wraps its loader."""

    _is_asking = False  # the other finders, through this one

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _WATCHED or self._is_asking:
            return None
        self._is_asking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._is_asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def _install() -> None:
    """Install the frontend; TensorFlow goes on without it where that is impossible."""
    try:
        importlib.import_module("planish.frontends.tensorflow.installation").install()
    except (ImportError, PlanishError) as error:
        print(f"planish: PLANISH_TF_TRT=1 has no effect: {error}", file=sys.stderr)


def arm() -> None:
    """Install the frontend now if TensorFlow is imported, else right after its import."""
    if _WATCHED in sys.modules:
        _install()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
