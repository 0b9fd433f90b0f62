"""Kernels that run from Python: the numpy reference, and libraries such as oneDNN.

A step of a plan names the *kind* of its external kernel. A module registers a factory for each
kind; the table below says which module, so that it is imported only by engines that need it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.errors import CompatibilityError
from planish.plan.plan import Operand

Array = np.ndarray[Any, Any]

# Runs the kernel on views of its inputs. `outputs` holds a view for every output to write into,
# or None where the data decides the extents: then the runner makes the array. It returns all
# outputs.
Runner = Callable[[Sequence[Array], Sequence[Array | None]], Sequence[Array]]


@dataclass(frozen=True)
class ExternalRequest:
    """What a factory gets to make a runner.

    Attributes
    ----------
    parameters : dict
        `ExternalKernel.parameters`.
    constants : tuple of array
        One uint8 array for each packed constant; it starts at the constant and may be longer.
    operands : tuple of Operand
        Types, extents and strides of inputs, then outputs.
    outputs : int
        How many of the operands, at the end, are outputs.
    threads : int
        Threads that one inference may use.
    """

    parameters: Mapping[str, Any]
    constants: tuple[Array, ...]
    operands: tuple[Operand, ...]
    outputs: int
    threads: int


# what a factory makes: a Runner, or for kinds on a device a `runtime.cuda.libraries.LibraryCall`
Factory = Callable[[ExternalRequest], Any]

MODULES = {
    "reference": "planish.backends.reference.runner",
    "onednn": "planish.backends.cpu.onednn.kernel",
    "cublaslt": "planish.backends.cuda.libraries.cublaslt",
    "cudnn": "planish.backends.cuda.libraries.cudnn",
}

_factories: dict[str, Factory] = {}
_checks: dict[str, Callable[[], object]] = {}


def register(kind: str, factory: Factory, check: Callable[[], object] | None = None) -> None:
    """Make `factory` the maker of runners for external kernels of `kind`.

    `check` raises CompatibilityError when something that the runners need is not installed.
    """
    _factories[kind] = factory
    if check is not None:
        _checks[kind] = check


def factory_of(kind: str) -> Factory:
    """Return the maker of runners for external kernels of `kind`.

    Raises
    ------
    CompatibilityError
        When nothing here implements `kind`, or what it needs is not installed.
    """
    if kind not in _factories and kind in MODULES:
        try:
            importlib.import_module(MODULES[kind])
        except ImportError as error:
            raise CompatibilityError(
                f"the engine needs {kind} kernels, and their module cannot be imported: {error}",
                where=MODULES[kind],
                fix="pip install 'planish[cpu]'",
            ) from error
    if kind not in _factories:
        raise CompatibilityError(
            f"the engine needs {kind!r} kernels, which this planish does not have",
            fix=f"build the engine again with this version; known kinds: {', '.join(MODULES)}",
        )
    if kind in _checks:
        _checks[kind]()
    return _factories[kind]
